"""
One segment file of the journal: its header, its records, and how to read past damage.

    header   magic 8 | length u32 | crc32c u32 | msgpack {id, first, created_at, totals}
    record   mark 4 | crc32c u32 | length u32 | events u32 | position u64 | appended_at u64
             | source length u16 | source | data

Shapes   `length` counts source and data; the checksum covers all that follows it. All integers
         are little endian. The mark lets a reader find the next record behind damaged bytes.
Units    positions count frames, appended_at is microseconds since 1970.
Errors   a file without a readable header is `None`; damage inside is skipped and reported by the
         positions that are missing.
"""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from google_crc32c import extend, value

from collector.journal.base import Frame, Record, Totals

MAGIC = b"CLCTRJ01"
MARK = b"\xc5\x1eRc"
SUFFIX = ".journal"

_file_head = struct.Struct("<8sII")
_record_head = struct.Struct("<4sII")  # mark, crc, length
_record_body = struct.Struct("<IQQH")  # events, position, appended_at, source length
HEAD = _record_head.size + _record_body.size


class Header(msgspec.Struct):
    """What a segment file says about itself."""

    id: str
    first: int
    created_at: int
    totals: Totals  # events by source in all frames before this file


class Segment:
    """What is known of one file: which positions it holds and how far it is on disk."""

    __slots__ = ("data_start", "first", "header", "modified", "path", "size")

    def __init__(self, path: Path, first: int, header: Header | None, data_start: int) -> None:
        self.path = path
        self.first = first
        self.header = header  # None when it is damaged: then its totals are unknown
        self.data_start = data_start
        self.size = 0  # bytes that are on disk for certain
        self.modified = time.time()


def path_of(directory: Path, first: int) -> Path:
    """The file that begins with position *first*."""
    return directory / f"{first:020d}{SUFFIX}"


def encode_header(header: Header) -> bytes:
    """The bytes a segment file begins with."""
    body = msgspec.msgpack.encode(header)
    return _file_head.pack(MAGIC, len(body), value(body)) + body


def decode_header(data: bytes) -> tuple[Header, int] | None:
    """The header at the start of *data* and its length in bytes, or None if it is damaged."""
    if len(data) < _file_head.size:
        return None
    magic, length, crc = _file_head.unpack_from(data)
    body = data[_file_head.size : _file_head.size + length]
    if magic != MAGIC or len(body) != length or value(body) != crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Header), _file_head.size + length
    except msgspec.DecodeError:
        return None


def encode_record(position: int, appended_at: int, frame: Frame) -> bytes:
    """One record, checksum included."""
    source = frame.source.encode()
    body = _record_body.pack(frame.events, position, appended_at, len(source)) + source
    crc = extend(value(body), frame.data)
    length = len(source) + len(frame.data)
    return b"".join((_record_head.pack(MARK, crc, length), body, frame.data))


class Found:
    """One record found in a buffer, its data not yet copied out."""

    __slots__ = ("appended_at", "data_start", "end", "events", "position", "source", "start")

    def __init__(
        self,
        start: int,
        end: int,
        data_start: int,
        position: int,
        appended_at: int,
        source: str,
        events: int,
    ) -> None:
        self.start = start
        self.end = end
        self.data_start = data_start
        self.position = position
        self.appended_at = appended_at
        self.source = source
        self.events = events

    def record(self, buffer: bytes) -> Record:
        """The record itself."""
        data = buffer[self.data_start : self.end]
        return Record(self.position, self.appended_at, self.source, self.events, data)


def record_at(buffer: bytes, offset: int) -> Found | int:
    """The record at *offset*; or how many bytes it needs from there; or 0 if it is damaged."""
    if len(buffer) - offset < HEAD:
        return HEAD
    mark, crc, length = _record_head.unpack_from(buffer, offset)
    if mark != MARK:
        return 0
    body_start = offset + _record_head.size
    events, position, appended_at, source_length = _record_body.unpack_from(buffer, body_start)
    source_start = body_start + _record_body.size
    end: int = source_start + length
    if end > len(buffer):
        return end - offset
    if source_length > length or value(buffer[body_start:end]) != crc:
        return 0
    data_start = source_start + source_length
    source = buffer[source_start:data_start].decode(errors="replace")
    return Found(offset, end, data_start, position, appended_at, source, events)


def scan(buffer: bytes, offset: int, *, whole: bool) -> Iterator[Found]:
    """
    The intact records of *buffer* from *offset* on, damage skipped.

    With *whole* the buffer ends where the file ends, so a record that claims to go on behind it
    is damage too; without, it is one that the next read completes.
    """
    while offset < len(buffer):
        found = record_at(buffer, offset)
        if isinstance(found, Found):
            yield found
            offset = found.end
            continue
        if found and not whole:
            return
        offset = buffer.find(MARK, offset + 1)
        if offset < 0:
            return
