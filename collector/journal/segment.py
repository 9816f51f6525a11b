"""
One segment file of the journal: its header, its records, and how to read past damage.

    header   magic 8 | length u32 | crc32c u32 | msgpack {id, base, mark, first, created_at, totals}
    record   mark 4 | crc32c u32 | length u32 | events u32 | position u64 | appended_at u64
             | source length u16 | source | data

Shapes   `length` counts source and data; the checksum covers all that follows it. All integers are
         little endian. The mark, by which a reader finds the next record behind damage, was drawn
         when the journal was made, so that no sender can hide a record in their data.
Units    positions count frames, appended_at is microseconds since 1970.
Errors   a header that cannot be read is None; damaged records are skipped, and the positions that
         are missing tell how many; OSError when the disk cannot be read.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

import msgspec
from google_crc32c import value

from collector.journal.base import Frame, Record, Totals

MAGIC = b"CLCTRJ01"
SUFFIX = ".journal"
HEADER_BYTES_MAX = 1 << 24
READ_BYTES = 1 << 18

_file_head = struct.Struct("<8sII")
_record = struct.Struct("<4sIIIQQH")  # mark, crc, length, events, position, appended_at, source
_unchecked = struct.Struct("<4sI")  # its first half
_checked = struct.Struct("<IIQQH")  # and the second
_CHECKED = _unchecked.size
HEAD = _record.size


class Header(msgspec.Struct, frozen=True):
    """What a segment file says about itself."""

    id: str
    base: int
    mark: bytes
    first: int
    created_at: int
    totals: Totals  # events by source in all frames before this file


class Segment:
    """What is known of one file: which positions it holds and how far it is on disk."""

    __slots__ = ("data_start", "first", "header", "mark", "path", "size", "stored_at")

    def __init__(self, path: Path, first: int, header: Header | None, data_start: int) -> None:
        self.path = path
        self.first = first
        self.header = header  # None when it is damaged: then its totals are unknown
        self.data_start = data_start
        self.mark = header.mark if header else b""
        self.size = data_start  # bytes that are on disk for certain
        self.stored_at: float | None = None  # since when nobody needs it, on the journal's clock

    @classmethod
    def load(cls, path: Path) -> Self:
        """The file at *path* as an earlier process left it; its name tells its first position."""
        first = int(path.name.removesuffix(SUFFIX))
        with path.open("rb") as file:
            header, data_start = decode_header(file) or (None, 0)
            size = os.fstat(file.fileno()).st_size
        if header is not None and header.first != first:
            header, data_start = None, 0  # another file under this name
        segment = cls(path, first, header, data_start)
        segment.size = size
        return segment

    def records(self, offset: int) -> Iterator[tuple[Record, int]]:
        """The intact records from *offset* on, each with the offset behind it; blocks on reads."""
        mark, want, sources = self.mark, READ_BYTES, dict[bytes, str]()
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            return  # somebody removed it: its positions are lost
        with file:
            limit = os.fstat(file.fileno()).st_size
            while limit - offset >= HEAD:
                asked = min(want, limit - offset)
                data = os.pread(file.fileno(), asked, offset)
                size, at, want = len(data), 0, READ_BYTES
                if size < asked:
                    limit = offset + size  # somebody cut it
                while size - at >= HEAD:
                    found, crc, length, events, position, appended_at, named = _record.unpack_from(
                        data, at
                    )
                    end = at + HEAD + length
                    if found == mark and offset + end <= limit:
                        if end > size:  # it goes on behind what was read
                            want = max(READ_BYTES, end - at)
                            break
                        if value(data[at + _CHECKED : end]) == crc:
                            body = at + HEAD + named
                            name = data[at + HEAD : body]
                            source = sources.get(name)
                            if source is None:
                                source = sources[name] = name.decode(errors="replace")
                            record = Record(position, appended_at, source, events, data[body:end])
                            yield record, offset + end
                            at = end
                            continue
                    at = data.find(mark, at + 1)
                    if at < 0:
                        at = size - len(mark) + 1  # the next mark may begin here
                if offset + size == limit:
                    return
                offset += at


def path_of(directory: Path, first: int) -> Path:
    """The file that begins with position *first*."""
    return directory / f"{first:020d}{SUFFIX}"


def encode_header(header: Header) -> bytes:
    """The bytes a segment file begins with."""
    body = msgspec.msgpack.encode(header)
    return _file_head.pack(MAGIC, len(body), value(body)) + body


def decode_header(file: BinaryIO) -> tuple[Header, int] | None:
    """The header at the start of *file* and its length in bytes, or None if it is damaged."""
    head = file.read(_file_head.size)
    if len(head) < _file_head.size:
        return None
    magic, length, crc = _file_head.unpack(head)
    if magic != MAGIC or length > HEADER_BYTES_MAX:
        return None
    body = file.read(length)
    if len(body) != length or value(body) != crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Header), len(head) + length
    except msgspec.DecodeError:
        return None


def check_frame(frame: Frame) -> None:
    """ValueError if no record can hold *frame*: it must fail alone, not with its whole group."""
    data, source, events = frame
    if len(data) >= 1 << 31 or len(source.encode()) >= 1 << 16 or not 0 <= events < 1 << 32:
        raise ValueError("a frame is too large, or its source or its number of events")


def encode_records(frames: Sequence[Frame], first: int, appended_at: int, mark: bytes) -> bytes:
    """The records of *frames*, from position *first* on."""
    parts: list[bytes] = []
    for position, (data, source, events) in enumerate(frames, first):
        name = source.encode()
        fields = _checked.pack(len(name) + len(data), events, position, appended_at, len(name))
        checked = b"".join((fields, name, data))
        parts.append(_unchecked.pack(mark, value(checked)))
        parts.append(checked)
    return b"".join(parts)
