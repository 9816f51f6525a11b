"""
The space the journal takes: its files, what they may take at most, and which of them can go.

A file can go once all of it is stored and was kept for `keep_seconds` since; the oldest go sooner
when room is needed. The newest always stays, because it tells which positions were used. So a
newest file that is stored but leaves no room is closed, and the next frame begins another.

Unlinking a file takes some 20 ms and so is done in a thread; until it fails the file counts as
gone.

Units    bytes; seconds on a clock that nobody sets.
Errors   none: a file that cannot be unlinked is counted again and tried again, a disk that does not
         say how full it is keeps its limit.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from collector.journal.base import JournalSettings
from collector.journal.segment import Segment

log = logging.getLogger(__name__)

FILE_BYTES_MIN = 1 << 16
FILES_MIN = 8  # a small cap is shared by so many files at least, so that some of them can go
LIMIT_SECONDS = 1.0  # how long the disk's answer is believed


class Space:
    """The files of one journal. `segments` is replaced, never changed: a reader may hold it."""

    def __init__(
        self,
        directory: Path,
        settings: JournalSettings,
        segments: list[Segment],
        clock: Callable[[], float],
        run: Callable[[Callable[[], None]], asyncio.Future[None]],
    ) -> None:
        self.segments = segments
        self.taken = sum(segment.size for segment in segments)
        self._directory = directory
        self._settings = settings
        self._clock = clock
        self._run = run
        self._stored = 0
        self._spent = False  # the newest file takes the room although all of it is stored
        self._limit = settings.total_bytes_max
        self._limit_until = clock()

    def limit(self) -> int:
        """What the files may take now: the setting, or less when the disk is nearly full."""
        now = self._clock()
        if now >= self._limit_until:
            self._limit_until = now + LIMIT_SECONDS
            with contextlib.suppress(OSError):
                disk = os.statvfs(self._directory)
                reach = disk.f_bavail * disk.f_frsize + self.taken
                self._limit = min(
                    self._settings.total_bytes_max,
                    int(reach * self._settings.disk_share_max),
                    max(0, reach - self._settings.disk_reserve_bytes),
                )
        return self._limit

    def file_bytes(self) -> int:
        """How large the file that is being written may become before the next is begun."""
        if self._spent:
            return 0
        return min(self._settings.file_bytes, max(FILE_BYTES_MIN, self.limit() // FILES_MIN))

    def has_room(self, pending: int, end: int) -> bool:
        """Whether one more frame may come behind *pending* bytes of them; *end* is on disk."""
        if self.taken + pending < self.limit():
            return True
        self._trim(pending)
        if self.taken + pending < self._limit:
            return True
        newest = self.segments[-1].size if self.segments and self._stored >= end else 0
        self._spent = self.taken + pending - newest < self._limit
        return self._spent

    def add(self, segment: Segment) -> None:
        """Count what was written to *segment*, which is the newest file."""
        if not self.segments or self.segments[-1] is not segment:
            # The same name again: an earlier file of which no frame was ever acknowledged.
            kept = [one for one in self.segments if one.first != segment.first]
            self.segments = [*kept, segment]
            self._spent = False
        self.taken = sum(one.size for one in self.segments)

    def need(self, position: int) -> None:
        """Take back that what is behind *position* was stored: somebody reads it."""
        if position < self._stored:
            self._stored = position
            for segment, following in pairwise(self.segments):
                if following.first - 1 > position:
                    segment.stored_at = None

    def forget(self, position: int) -> None:
        """Take note that all up to *position* is stored."""
        self.need(position)
        self._stored = position
        self._trim()

    def _trim(self, pending: int | None = None) -> None:
        """Let go of what was kept long enough, and of the oldest until *pending* has room."""
        now = self._clock()
        going = 0
        for segment, following in pairwise(self.segments):
            if following.first - 1 > self._stored:
                break
            if segment.stored_at is None:
                segment.stored_at = now
            kept = now - segment.stored_at < self._settings.keep_seconds
            if kept and (pending is None or self.taken + pending < self.limit()):
                continue
            self.taken -= segment.size
            going += 1
            unlink = partial(segment.path.unlink, missing_ok=True)
            self._run(unlink).add_done_callback(partial(self._unlinked, segment))
        if going:
            self.segments = self.segments[going:]

    def _unlinked(self, segment: Segment, done: asyncio.Future[None]) -> None:
        if error := done.exception():
            log.warning("A journal file cannot be removed: %s", error)
            self.segments = sorted([segment, *self.segments], key=lambda one: one.first)
            self.taken += segment.size
