"""
The journal on this machine: segment files in one directory, group commit, one lock.

    <directory>/lock                       held by the process that owns the journal
    <directory>/identity.json              {id, base}: positions up to base belong to an earlier id
    <directory>/<first position>.journal   see segment.py

What waits while a commit runs goes into the next one: no timer, one fdatasync for all of them.
A process never appends to a file that an earlier one wrote: it begins a new file, so a torn tail
stays where it is and is read past. After an I/O error the file is closed and a new one begun; a
frame whose commit failed was not acknowledged, and what is left of it in the old file is ignored
because the new file begins with its position.

Units    positions count frames, sizes are bytes, times on the disk are microseconds since 1970.
Errors   Busy(journal_full), Busy(journal_behind), JournalError(journal_unwritable).
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import msgspec

from collector.errors import Busy, ConfigError, JournalError
from collector.journal.base import Frame, JournalSettings, Reading, Totals
from collector.journal.reader import Place
from collector.journal.segment import (
    HEAD,
    SUFFIX,
    Header,
    Segment,
    decode_header,
    encode_header,
    encode_record,
    path_of,
    scan,
)

log = logging.getLogger(__name__)

HEADER_BYTES_MAX = 1 << 20


class Identity(msgspec.Struct):
    """Who the positions belong to."""

    id: str
    base: int = 0


class FileJournal:
    """A Journal in segment files. Made by `open`; see journal/base.py for the promises."""

    def __init__(self, directory: Path, settings: JournalSettings) -> None:
        self.directory = directory
        self._settings = settings
        self._segments: list[Segment] = []
        self._identity = Identity("")
        self._end = 0
        self._end_at_open = 0
        self._stored = 0
        self._accepted: Totals = {}
        self._fd = -1  # the segment that is being written, or none yet
        self._lock_fd = -1
        self._pending: deque[tuple[Frame, asyncio.Future[int]]] = deque()
        self._pending_bytes = 0
        self._committing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._arrivals: asyncio.Future[None] | None = None
        self._trouble: str | None = None  # why the last commit failed, until one succeeds
        self._limit = 0
        self._limit_until = 0.0
        self._trimmed_at = 0.0
        self._place = Place()
        # Two threads: a read of a cold file must not hold up a commit.
        self._writer = ThreadPoolExecutor(1, "journal-write")
        self._reader = ThreadPoolExecutor(1, "journal-read")
        self.commits = 0
        self.torn_bytes = 0  # found at the end of the newest file when the journal was opened

    # --- opening ---------------------------------------------------------------------------

    @classmethod
    async def open(cls, directory: Path, settings: JournalSettings) -> Self:
        """Open or make the journal in *directory*; ConfigError if another process has it."""
        journal = cls(directory, settings)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(journal._writer, journal._open)
        except BaseException:
            journal._release()
            raise
        return journal

    def _open(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            files = sorted(self.directory.glob(f"*{SUFFIX}"))
        except OSError as exc:
            raise ConfigError(
                f"journal directory {self.directory} cannot be used ({exc.strerror}): "
                "make it writable for this user, or set data_dir to another place"
            ) from exc
        for path in files:
            self._segments.append(self._inspect(path))
        if self._segments:
            self._find_end(self._segments[-1])
        self._identity = self._load_identity()
        self._end = max(self._end, self._identity.base)
        self._end_at_open = self._end

    def _take_lock(self) -> None:
        self._lock_fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock_fd, 32, 0).decode(errors="replace").strip()
            raise ConfigError(
                f"journal directory {self.directory} is in use by another collector "
                f"(process {owner or 'unknown'}): stop that one, or give this one its own data_dir"
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _inspect(self, path: Path) -> Segment:
        with path.open("rb") as file:
            head = decode_header(file.read(HEADER_BYTES_MAX))
            info = os.fstat(file.fileno())
        first = int(path.name.removesuffix(SUFFIX))
        header, data_start = head if head else (None, 0)
        if header is None:
            log.warning(
                "A journal file's header is damaged; its records are read all the same",
                extra={"file": path.name},
            )
        segment = Segment(path, first, header, data_start)
        segment.size = info.st_size
        segment.modified = info.st_mtime
        return segment

    def _find_end(self, newest: Segment) -> None:
        """Set `end` and `accepted` from the newest file; what is behind its last record is torn."""
        self._end = newest.first - 1
        totals = dict(newest.header.totals) if newest.header else {}
        data = newest.path.read_bytes()
        behind = newest.data_start
        for found in scan(data, newest.data_start, whole=True):
            self._end = max(self._end, found.position)
            totals[found.source] = totals.get(found.source, 0) + found.events
            behind = found.end
        self.torn_bytes = len(data) - behind
        self._accepted = totals

    def _load_identity(self) -> Identity:
        path = self.directory / "identity.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Identity)
        except FileNotFoundError:
            pass
        except msgspec.DecodeError:
            log.warning(
                "The journal's identity file is damaged; it is taken from the journal files"
            )
        headers = [s.header for s in self._segments if s.header]
        identity = Identity(headers[-1].id if headers else str(uuid.uuid4()))
        self._save_identity(identity)
        return identity

    def _save_identity(self, identity: Identity) -> None:
        path = self.directory / "identity.json"
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(identity))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        self._sync_directory()

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # --- facts -----------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._identity.id

    @property
    def base(self) -> int:
        """Positions up to here were stored under an earlier identity."""
        return self._identity.base

    @property
    def end(self) -> int:
        return self._end

    @property
    def end_at_open(self) -> int:
        return self._end_at_open

    @property
    def accepted(self) -> Totals:
        return dict(self._accepted)

    @property
    def bytes(self) -> int:
        """What the files and the waiting frames take."""
        return sum(segment.size for segment in self._segments) + self._pending_bytes

    @property
    def oldest(self) -> int:
        """The oldest position that is still in a file."""
        return self._segments[0].first if self._segments else self._end + 1

    @property
    def trouble(self) -> str | None:
        """Why frames cannot be written, or None."""
        return self._trouble

    def bytes_max(self) -> int:
        """What the journal may take now: the setting, or less when the disk is nearly full."""
        now = time.monotonic()
        if now >= self._limit_until:
            settings = self._settings
            disk = os.statvfs(self.directory)
            own = sum(segment.size for segment in self._segments)
            free = disk.f_bavail * disk.f_frsize
            self._limit = max(
                0,
                min(
                    settings.total_bytes_max,
                    int((free + own) * settings.disk_share_max),
                    own + free - settings.disk_reserve_bytes,
                ),
            )
            self._limit_until = now + 1.0
        return self._limit

    def check_room(self) -> None:
        """Raise Busy if a frame could not be appended now; called before a body is read."""
        if self._pending_bytes > self._settings.pending_bytes_max:
            raise Busy("journal_behind", "the disk is slow; resend later", retry_after_seconds=2)
        if self.bytes >= self.bytes_max():
            self._trim(keep_seconds=0.0)
            if self.bytes >= self.bytes_max():
                raise Busy(
                    "journal_full",
                    "the journal has no room until Postgres takes events again; resend later",
                    retry_after_seconds=30,
                )

    # --- appending -------------------------------------------------------------------------

    async def append(self, frame: Frame) -> int:
        """Append *frame* and return its position once it is on disk."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((frame, done))
        self._pending_bytes += len(frame.data) + HEAD
        if not self._committing:
            self._committing = True
            self._idle.clear()
            # Behind the handlers that are ready to run: they join this group.
            asyncio.get_running_loop().call_soon(self._commit)
        return await done

    def _commit(self) -> None:
        group: list[tuple[Frame, asyncio.Future[int]]] = []
        size = 0
        while self._pending and size < self._settings.group_bytes_max:
            item = self._pending.popleft()
            group.append(item)
            size += len(item[0].data) + HEAD
        frames = [frame for frame, _ in group]
        writing = asyncio.get_running_loop().run_in_executor(self._writer, self._write, frames)

        def written(result: asyncio.Future[int]) -> None:
            self._pending_bytes -= size
            error = result.exception()
            if error is None:
                self._succeeded(group, result.result())
            else:
                self._failed(group, error)
            if self._pending:
                self._commit()
            else:
                self._committing = False
                self._idle.set()

        writing.add_done_callback(written)

    def _succeeded(self, group: list[tuple[Frame, asyncio.Future[int]]], end: int) -> None:
        position = end - len(group)
        for frame, done in group:
            position += 1
            self._accepted[frame.source] = self._accepted.get(frame.source, 0) + frame.events
            if not done.done():
                done.set_result(position)
        self._end = end
        self._trouble = None
        self.commits += 1
        if self._arrivals is not None and not self._arrivals.done():
            self._arrivals.set_result(None)

    def _failed(self, group: list[tuple[Frame, asyncio.Future[int]]], error: BaseException) -> None:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or repr(error)
        if self._trouble != reason:
            log.error("The journal cannot be written; senders are told to retry: %s", reason)
        self._trouble = reason
        for _, done in group:
            if not done.done():
                done.set_exception(
                    JournalError("journal_unwritable", "events cannot be kept now; resend later")
                )

    def _write(self, frames: list[Frame]) -> int:
        """Write one group and return its last position. Runs in the writer's thread."""
        first = self._end + 1
        at = time.time_ns() // 1000
        data = b"".join(
            encode_record(position, at, frame) for position, frame in enumerate(frames, first)
        )
        segment = self._segment_for(first)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fdatasync(self._fd)
        except OSError:
            self._abandon(segment)
            raise
        segment.size += len(data)
        segment.modified = time.time()
        return first + len(frames) - 1

    def _segment_for(self, first: int) -> Segment:
        if self._fd >= 0:
            segment = self._segments[-1]
            # A small cap must not fill up with a file that is too young to be let go of.
            if segment.size < min(self._settings.file_bytes, max(1 << 16, self._limit // 8)):
                return segment
            os.close(self._fd)
            self._fd = -1
        header = Header(
            id=self._identity.id,
            first=first,
            created_at=time.time_ns() // 1000,
            totals=dict(self._accepted),
        )
        head = encode_header(header)
        path = path_of(self.directory, first)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            view = memoryview(head)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            self._sync_directory()
        except OSError:
            os.close(fd)
            raise
        segment = Segment(path, first, header, len(head))
        segment.size = len(head)
        # The same name again: an earlier file of which no frame was ever acknowledged.
        kept = [s for s in self._segments if s.first != first]
        self._segments = [*kept, segment]
        self._fd = fd
        return segment

    def _abandon(self, segment: Segment) -> None:
        """Close the file whose write failed; the next group begins a new one."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, segment.size)
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._fd = -1

    # --- reading ---------------------------------------------------------------------------

    async def read(self, after: int, bytes_max: int) -> Reading:
        """Return the records behind position *after*, waiting until there is at least one."""
        loop = asyncio.get_running_loop()
        while after >= self._end:
            if self._arrivals is None or self._arrivals.done():
                self._arrivals = loop.create_future()
            await asyncio.shield(self._arrivals)
        return await loop.run_in_executor(
            self._reader, self._place.read, self._segments, after, self._end, bytes_max
        )

    async def totals_at(self, position: int) -> Totals:
        """Events of all frames up to *position*, by source, as far as the files still tell."""
        if position >= self._end or not self._segments:
            return dict(self._accepted)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._reader, self._place.totals_at, self._segments, position
        )

    # --- forgetting ------------------------------------------------------------------------

    def forget(self, position: int) -> None:
        """Let go of frames up to *position* once they were kept for `keep_seconds`."""
        self._stored = position
        if time.monotonic() - self._trimmed_at >= 1.0:
            self._trim(self._settings.keep_seconds)

    def _trim(self, keep_seconds: float) -> None:
        """Unlink files that are stored and old enough. The newest file always stays."""
        self._trimmed_at = time.monotonic()
        now = time.time()
        while len(self._segments) > 1:
            segment, following = self._segments[0], self._segments[1]
            stored = following.first - 1 <= self._stored
            # A clock that was set back must not keep files for ever.
            young = 0 <= now - segment.modified < keep_seconds
            if not stored or young:
                return
            try:
                segment.path.unlink(missing_ok=True)
            except OSError as exc:
                log.warning("A journal file cannot be removed: %s", exc.strerror)
                return
            self._segments = self._segments[1:]
            self._limit_until = 0.0

    # --- identity and end ------------------------------------------------------------------

    async def renew(self, base: int) -> str:
        """Take a new identity: frames behind *base* belong to it, those up to it are done."""
        identity = Identity(str(uuid.uuid4()), base)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._save_identity, identity)
        self._identity = identity
        return identity.id

    async def close(self) -> None:
        """Commit what is pending and let go of the files."""
        await self._idle.wait()
        self._release()

    def _release(self) -> None:
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True)
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1
