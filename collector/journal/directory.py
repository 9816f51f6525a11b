"""
The journal's directory: its lock, its files, and whom their positions belong to.

    <directory>/lock                       held by the process that owns the journal
    <directory>/identity.json              id, base and mark; the header of every file has them too
    <directory>/<first position>.journal   see segment.py

What appears under one of these names is whole: it was written as `*.new`, synced and renamed.

Errors   ConfigError when the directory cannot be used or another process has it; OSError when it
         cannot be any more. Damage is not an error: the identity is then taken from the newest
         file; if that is damaged too, all that is still in the files gets a new identity.
"""

import contextlib
import errno
import fcntl
import logging
import os
import re
import uuid
from pathlib import Path

import msgspec
from google_crc32c import value

from collector.errors import ConfigError
from collector.journal.segment import SUFFIX, Segment

log = logging.getLogger(__name__)

_segment_name = re.compile(r"[0-9]{20}" + re.escape(SUFFIX))


class Identity(msgspec.Struct, frozen=True):
    """Whom the positions belong to."""

    id: str
    base: int  # positions up to here belong to an earlier id
    mark: bytes  # what each record begins with, see segment.py


class _Kept(msgspec.Struct, frozen=True):
    """What identity.json holds."""

    identity: Identity
    crc32c: int


class Directory:
    """The directory of one journal, locked from `open` to `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = -1

    def open(self) -> tuple[Identity, list[Segment]]:
        """Lock the directory, made if need be; return its identity and its files in order."""
        try:
            _make(self.path)
            self._lock()
            for unfinished in self.path.glob("*.new"):
                unfinished.unlink()
            segments = [Segment.load(path) for path in self._names()]
            identity = self._identify(segments)
        except OSError as exc:
            raise ConfigError(
                f"journal directory {self.path} cannot be used ({exc}): repair it or make it "
                "writable for this user, or set data_dir to another place"
            ) from exc
        for segment in segments:
            if segment.header is None:
                segment.mark = identity.mark
                log.warning(
                    "A journal file's header is damaged; its records are read all the same",
                    extra={"file": segment.path.name},
                )
        return identity, segments

    def save(self, identity: Identity) -> None:
        """Put *identity* on disk."""
        kept = _Kept(identity, value(msgspec.json.encode(identity)))
        os.close(self.create("identity.json", msgspec.json.encode(kept)))

    def create(self, name: str, head: bytes) -> int:
        """Make file *name* anew, on disk, beginning with *head*; return it open for appending."""
        path = self.path / name
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            write_all(fd, head)
            os.fsync(fd)
            fresh.rename(path)
            _sync(self.path)
        except OSError:
            os.close(fd)
            raise
        return fd

    def reach(self) -> os.stat_result:
        """OSError when the directory is away: its disk is not mounted, or somebody removed it."""
        return (self.path / "lock").stat()

    def check(self) -> None:
        """OSError when this process does not hold the directory any more."""
        if not os.path.samestat(self.reach(), os.fstat(self._lock_fd)):
            raise OSError(
                errno.ESTALE, "somebody else put another directory in the journal's place"
            )

    def close(self) -> None:
        """Let other processes have the directory."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _lock(self) -> None:
        self._lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._lock_fd, 32, 0).decode(errors="replace").strip()
            raise ConfigError(
                f"journal directory {self.path} is in use by another collector "
                f"(process {owner or 'unknown'}): stop that one, or give this one its own data_dir"
            ) from None
        with contextlib.suppress(OSError):  # a full disk takes no pid, but its journal must open
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _names(self) -> list[Path]:
        names: list[Path] = []
        for path in sorted(self.path.glob(f"*{SUFFIX}")):
            if _segment_name.fullmatch(path.name):
                names.append(path)
            else:
                log.warning(
                    "A file in the journal's directory is not its", extra={"file": path.name}
                )
        return names

    def _identify(self, segments: list[Segment]) -> Identity:
        try:
            kept = msgspec.json.decode((self.path / "identity.json").read_bytes(), type=_Kept)
            if kept.crc32c == value(msgspec.json.encode(kept.identity)):
                return kept.identity
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            pass
        headers = [segment.header for segment in segments]
        if headers and (newest := headers[-1]):
            identity = Identity(newest.id, newest.base, newest.mark)
        else:
            # Whatever is still there is given out again: the store knows the events' ids.
            base = segments[0].first - 1 if segments else 0
            mark = next((header.mark for header in headers if header), None)
            # 0xff is in no UTF-8 text, so that a search for the mark passes over text fast.
            identity = Identity(str(uuid.uuid4()), base, mark or b"\xff" + os.urandom(3))
        if segments:
            log.warning("The journal's identity was lost", extra={"taken": identity.id})
        self.save(identity)
        return identity


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, however little the disk takes at a time."""
    view = memoryview(data)
    while view:
        written = os.write(fd, view)
        if not written:
            raise OSError("the disk takes nothing")
        view = view[written:]


def _make(path: Path) -> None:
    """Make the directory, and those above it, so that a crash does not take them away."""
    if path.is_dir():
        return
    _make(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
