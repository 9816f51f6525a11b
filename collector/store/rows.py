"""
Rows: events as Postgres' binary COPY wants them.

Built by hand, because a codec for each of twenty values would cost more than Postgres does. All
but `seq` is put together before the lock is taken; under it a row is two joins.

Shapes   a row is a field count and fields; a field is a length (-1 for null) and its bytes.
Units    timestamptz is microseconds since 2000-01-01; jsonb is a version byte and JSON text.
Source   PostgreSQL, "COPY", section Binary Format
"""

import struct
from collections.abc import Iterator, Sequence

from collector.event import Event

COLUMNS = (
    "seq",
    "received_at",
    "timestamp",
    "original_timestamp",
    "sent_at",
    "message_id",
    "type",
    "event",
    "name",
    "category",
    "source",
    "user_id",
    "anonymous_id",
    "group_id",
    "previous_id",
    "context",
    "properties",
    "traits",
    "integrations",
    "extra",
)
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
CHUNK_BYTES = 65_536  # that are handed to the connection at once

_TIMES = frozenset(COLUMNS[1:5])
_JSON = frozenset(COLUMNS[15:])
_EPOCH_2000 = 946_684_800_000_000
_NULL = b"\xff\xff\xff\xff"
_start = struct.Struct(">hiq").pack  # field count, length, seq
_times = struct.Struct(">iqiq").pack
_time = struct.Struct(">iq").pack
_length = struct.Struct(">i").pack
_json = struct.Struct(">iB").pack


def encode(event: Event) -> bytes:
    """The row of *event*, but for its field count and seq."""
    parts = [_times(8, event.received_at - _EPOCH_2000, 8, event.timestamp - _EPOCH_2000)]
    parts += [
        _NULL if at is None else _time(8, at - _EPOCH_2000)
        for at in (event.original_timestamp, event.sent_at)
    ]
    for text in (
        event.message_id,
        event.type,
        event.event,
        event.name,
        event.category,
        event.source,
        event.user_id,
        event.anonymous_id,
        event.group_id,
        event.previous_id,
    ):
        if text is None:
            parts.append(_NULL)
        else:
            data = text.encode()
            parts.append(_length(len(data)))
            parts.append(data)
    for json in (
        event.context,
        event.properties,
        event.traits,
        event.integrations,
        event.extra,
    ):
        if json is None:
            parts.append(_NULL)
        else:
            parts.append(_json(len(json) + 1, 1))
            parts.append(json)
    return b"".join(parts)


def chunks(rows: Sequence[bytes], first_seq: int) -> Iterator[bytes]:
    """The COPY stream of *rows*, numbered from *first_seq* on, in pieces."""
    count = len(COLUMNS)
    part = [HEADER]
    size = 0
    for seq, row in enumerate(rows, first_seq):
        part.append(_start(count, 8, seq))
        part.append(row)
        size += len(row)
        if size >= CHUNK_BYTES:
            yield b"".join(part)
            part, size = [], 0
    part.append(TRAILER)
    yield b"".join(part)


def received_at(row: bytes) -> int:
    """When the event of *row* was received, in microseconds since 1970."""
    return int.from_bytes(row[4:12], "big", signed=True) + _EPOCH_2000


def readable(row: bytes) -> bytes:
    """The text and JSON of *row*, for a person to look at: one member a line, as JSON nearly."""
    lines = []
    at = 0
    for name in COLUMNS[1:]:
        length = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        if length < 0:
            continue
        value = row[at : at + length]
        at += length
        if name in _TIMES:
            continue
        text = value[1:] if name in _JSON else b'"' + value + b'"'
        lines.append(b'  "' + name.encode() + b'": ' + text)
    return b"{\n" + b",\n".join(lines) + b"\n}"
