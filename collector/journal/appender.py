"""
The file that is being written: whole groups of frames, each synced before it counts.

A process never appends to a file that an earlier one wrote: it begins a new one, so a torn tail
stays where it is and is read past. After an I/O error the file is closed and a new one begun; a
frame whose group failed was not acknowledged, and what is left of it in the old file is ignored
because the new file begins with its position.

Units    positions count frames, sizes are bytes, times on the disk are microseconds since 1970.
Errors   OSError when the disk refuses; the next call begins a new file and so tries again.
"""

import contextlib
import errno
import os
import time
from collections.abc import Sequence

from collector.journal.base import Frame, Totals
from collector.journal.directory import Directory, Identity, write_all
from collector.journal.segment import Header, Segment, encode_header, encode_records, path_of


class Appender:
    """Owns the end of the journal. Every call blocks, so one thread makes all of them."""

    def __init__(self, directory: Directory, identity: Identity, end: int, totals: Totals) -> None:
        self.identity = identity
        self.end = max(end, identity.base)  # the newest position on disk
        self.totals = totals  # events up to there, by source
        self._begun = False
        self._directory = directory
        self._segment: Segment | None = None
        self._fd = -1

    def write(self, frames: Sequence[Frame], file_bytes: int) -> tuple[Segment, int]:
        """Put *frames* on disk as one group; return the file they are in and their last position.

        A new file is begun when the current one has *file_bytes* or more.
        """
        segment = self._segment
        if segment is None or segment.size >= file_bytes:
            segment = self._begin()
        at = time.time_ns() // 1000
        data = encode_records(frames, self.end + 1, at, segment.mark)
        try:
            write_all(self._fd, data)
            os.fdatasync(self._fd)
        except OSError:
            # What was written of the group is cut off again if the disk lets us.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, segment.size)
            self._let_go()
            raise
        file = os.fstat(self._fd)
        if file.st_nlink == 0 or file.st_size != segment.size + len(data):
            self._let_go()
            raise OSError(errno.ESTALE, "somebody else removed or changed the journal's file")
        segment.size += len(data)
        self.end += len(frames)
        for _, source, events in frames:
            self.totals[source] = self.totals.get(source, 0) + events
        return segment, self.end

    def renew(self, identity: Identity) -> None:
        """Let what follows belong to *identity*."""
        self._directory.save(identity)
        self.identity = identity
        self.end = max(self.end, identity.base)
        self._let_go()
        with contextlib.suppress(OSError):  # a header with the new identity, should save's get lost
            self._begin()

    def close(self) -> None:
        """Close the file; a new, empty one tells where it ends, so that nothing in it is torn."""
        ends = self._segment is not None and self._segment.first == self.end + 1
        if self._begun and not ends:
            with contextlib.suppress(OSError):
                self._begin()
        self._let_go()

    def _begin(self) -> Segment:
        self._let_go()
        self._directory.check()
        first, mark = self.end + 1, self.identity.mark
        now = time.time_ns() // 1000
        header = Header(self.identity.id, self.identity.base, mark, first, now, dict(self.totals))
        head = encode_header(header)
        path = path_of(self._directory.path, first)
        self._fd = self._directory.create(path.name, head)
        self._segment = Segment(path, first, header, len(head))
        self._begun = True
        return self._segment

    def _let_go(self) -> None:
        fd, self._fd, self._segment = self._fd, -1, None
        if fd >= 0:
            with contextlib.suppress(OSError):  # all that counts in it was synced
                os.close(fd)
