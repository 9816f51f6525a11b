"""
The journal on this machine: segment files in one directory, and group commit.

    directory.py   the lock, the files, the identity
    appender.py    the file that is being written
    scribe.py      the thread that writes
    space.py       how much the files may take, and which can go
    reader.py      from one file to the next, past damage

What waits while a commit runs goes into the next one: no timer, one fdatasync for all of them.
Two threads do what blocks: reading a cold file must not hold up a commit. Which files there are,
and where the journal ends, changes on the event loop alone.

Units    positions count frames, sizes are bytes.
Errors   Busy(journal_full), Busy(journal_behind); JournalError(journal_unwritable),
         JournalError(journal_unreadable), JournalError(journal_closed).
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from collector.errors import Busy, ConfigError, JournalError
from collector.journal.appender import Appender
from collector.journal.base import Frame, JournalSettings, Reading, Totals
from collector.journal.directory import Directory, Identity
from collector.journal.reader import Reader, find_end
from collector.journal.scribe import Scribe
from collector.journal.segment import HEAD, Segment, check_frame
from collector.journal.space import Space

log = logging.getLogger(__name__)

T = TypeVar("T")


class Group:
    """Frames that share a commit, and who waits for each of them."""

    __slots__ = ("bytes", "frames", "waiting")

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.waiting: list[asyncio.Future[int]] = []
        self.bytes = 0


class FileJournal:
    """A Journal in segment files. Made by `open`; see journal/base.py for the promises."""

    def __init__(
        self, directory: Path, settings: JournalSettings, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._directory = Directory(directory)
        self._scribe = Scribe(self._loop, "journal-write")
        self._read_thread = ThreadPoolExecutor(1, "journal-read")
        self._reader = Reader()
        self._appender: Appender  # these two come with `_open`
        self._space: Space
        self._end = 0
        self._end_at_open = 0
        self._pending: deque[Group] = deque()  # in front of the running commit
        self._pending_bytes = 0  # waiting for their fsync, those in the running commit included
        self._committing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._arrivals: asyncio.Future[None] | None = None
        self._trouble: str | None = None  # why the last commit failed, until one succeeds
        self._closed = False
        self.commits = 0
        self.torn_bytes = 0  # found behind the last record when the journal was opened

    @classmethod
    async def open(
        cls,
        directory: Path,
        settings: JournalSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open or make the journal in *directory*; ConfigError if another process has it."""
        journal = cls(directory, settings, clock)
        try:
            await journal._scribe.do(journal._open)
        except BaseException:
            journal._release()
            raise
        return journal

    def _open(self) -> None:
        identity, segments = self._directory.open()
        try:
            end, totals, self.torn_bytes = find_end(segments)
        except OSError as exc:
            raise ConfigError(
                f"journal directory {self._directory.path} cannot be read ({exc}): repair the "
                "disk, or move the damaged file away; what it held is then counted as lost"
            ) from exc
        self._appender = Appender(self._directory, identity, end, totals)
        unlink = partial(self._loop.run_in_executor, self._read_thread)
        self._space = Space(self._directory.path, self._settings, segments, self._clock, unlink)
        self._end = self._end_at_open = self._appender.end

    # --- facts -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._appender.identity.id

    @property
    def base(self) -> int:
        return self._appender.identity.base

    @property
    def end(self) -> int:
        return self._end

    @property
    def end_at_open(self) -> int:
        return self._end_at_open

    @property
    def accepted(self) -> Totals:
        return dict(self._appender.totals)

    @property
    def bytes(self) -> int:
        """What the files and the waiting frames take."""
        return self._space.taken + self._pending_bytes

    @property
    def oldest(self) -> int:
        """The oldest position that is still in a file."""
        segments = self._space.segments
        return segments[0].first if segments else self._end + 1

    @property
    def trouble(self) -> str | None:
        """Why frames cannot be written, or None."""
        return self._trouble

    def bytes_max(self) -> int:
        """What the journal may take now: the setting, or less when the disk is nearly full."""
        return self._space.limit()

    def check_room(self) -> None:
        """Raise Busy or JournalError if a frame could not be appended now."""
        if self._closed:
            raise _closed()
        if self._pending_bytes > self._settings.pending_bytes_max:
            raise Busy("journal_behind", "the disk is slow; resend later", retry_after_seconds=2)
        if not self._space.has_room(self._pending_bytes, self._end):
            raise Busy(
                "journal_full",
                "the journal has no room until Postgres takes events again; resend later",
                retry_after_seconds=30,
            )

    # --- appending -------------------------------------------------------------------------

    async def append(self, frame: Frame) -> int:
        """Append *frame* and return its position once it is on disk."""
        self.check_room()
        check_frame(frame)
        done: asyncio.Future[int] = self._loop.create_future()
        size = len(frame.data) + len(frame.source) + HEAD
        if not self._pending or self._pending[-1].bytes + size > self._settings.group_bytes_max:
            self._pending.append(Group())
        group = self._pending[-1]
        group.frames.append(frame)
        group.waiting.append(done)
        group.bytes += size
        self._pending_bytes += size
        if not self._committing:
            self._committing = True
            self._idle.clear()
            # Behind the handlers that are ready to run: they join this group.
            self._loop.call_soon(self._commit)
        return await done

    def _commit(self) -> None:
        """Write the next group; `_committed` goes on when it is on disk."""
        group = self._pending.popleft()
        write = partial(self._appender.write, group.frames, self._space.file_bytes())
        self._scribe.give(write, partial(self._committed, group))

    def _committed(
        self, group: Group, written: tuple[Segment, int] | None, error: BaseException | None
    ) -> None:
        self._pending_bytes -= group.bytes
        if written is not None:
            self._succeeded(group, *written)
        else:
            assert error is not None
            self._failed(group, error)
        if self._pending:
            self._commit()
        else:
            self._committing = False
            self._idle.set()

    def _succeeded(self, group: Group, segment: Segment, end: int) -> None:
        for position, done in enumerate(group.waiting, end - len(group.frames) + 1):
            if not done.done():
                done.set_result(position)
        self._space.add(segment)
        self._end = end
        self._trouble = None
        self.commits += 1
        self._wake()

    def _failed(self, group: Group, error: BaseException) -> None:
        reason = (isinstance(error, OSError) and error.strerror) or repr(error)
        if self._trouble != reason:
            unexpected = None if isinstance(error, OSError) else error
            log.error(
                "The journal cannot be written; senders are told to retry: %s",
                reason,
                exc_info=unexpected,
            )
        self._trouble = reason
        for done in group.waiting:
            if not done.done():
                refusal = JournalError(
                    "journal_unwritable", "events cannot be kept now; resend later"
                )
                refusal.__cause__ = error
                done.set_exception(refusal)

    # --- reading and forgetting ------------------------------------------------------------

    async def read(self, after: int, bytes_max: int) -> Reading:
        """Return the records behind *after*, until they are *bytes_max* or more."""
        self._space.need(after)
        while after >= self._end:
            if self._closed:
                raise _closed()
            if self._arrivals is None or self._arrivals.done():
                self._arrivals = self._loop.create_future()
            await asyncio.shield(self._arrivals)
        return await self._look(
            partial(self._read, self._space.segments, after, self._end, bytes_max)
        )

    def _read(self, segments: list[Segment], after: int, end: int, bytes_max: int) -> Reading:
        reading = self._reader.read(segments, after, end, bytes_max)
        if reading.lost_frames:
            self._directory.reach()  # what is away with its disk is not lost
        return reading

    async def totals_at(self, position: int) -> Totals:
        """Events of all frames up to *position*, by source, as far as the files still tell."""
        if position >= self._end:
            return self.accepted
        return await self._look(partial(self._totals_at, self._space.segments, position))

    def _totals_at(self, segments: list[Segment], position: int) -> Totals:
        self._directory.reach()  # what is away with its disk can be asked later
        return self._reader.totals_at(segments, position)

    def tell(self, position: int, totals: Totals) -> None:
        """Hear how many events all frames up to *position* held, for where no file tells."""
        self._reader.tell(position, totals)

    def forget(self, position: int) -> None:
        """Let go of frames up to *position*, `keep_seconds` from now or when room is needed."""
        self._space.forget(min(position, self._end))

    async def _look(self, look: Callable[[], T]) -> T:
        if self._closed:
            raise _closed()
        try:
            return await self._run(self._read_thread, look)
        except OSError as exc:
            raise JournalError(
                "journal_unreadable",
                f"the journal's files cannot be read ({exc}): repair the disk, or move the "
                "damaged file away; what it held is then counted as lost",
            ) from exc

    def _wake(self) -> None:
        if self._arrivals is not None and not self._arrivals.done():
            self._arrivals.set_result(None)

    # --- identity and end ------------------------------------------------------------------

    async def renew(self, base: int) -> str:
        """Take a new identity: frames behind *base* belong to it, those up to it are done."""
        identity = Identity(str(uuid.uuid4()), base, self._appender.identity.mark)
        try:
            await self._scribe.do(partial(self._appender.renew, identity))
        except OSError as exc:
            raise JournalError(
                "journal_unwritable", f"the journal's identity cannot be saved ({exc}); try later"
            ) from exc
        self._end = max(self._end, base)
        return identity.id

    async def close(self) -> None:
        """Commit what is pending and let go of the files."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        try:
            await self._idle.wait()
            await self._scribe.do(self._appender.close)
        finally:
            self._release()

    async def _run(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(thread, call)

    def _release(self) -> None:
        self._scribe.close()
        self._read_thread.shutdown(wait=True)
        self._directory.close()


def _closed() -> JournalError:
    return JournalError("journal_closed", "the collector is stopping; resend later")
