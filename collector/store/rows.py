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
WORDS_MAX = 2_048  # remembered
CHUNK_BYTES = 262_144  # handed to the connection at once: asyncpg spends 20 µs on each piece

_TIMES = frozenset(COLUMNS[1:5])
_JSON = frozenset(COLUMNS[15:])
_EPOCH_2000 = 946_684_800_000_000
_NULL = b"\xff\xff\xff\xff"
_start = struct.Struct(">hiq").pack  # field count, length, seq
_times = struct.Struct(">iqiq").pack
_time = struct.Struct(">iq").pack
_length = struct.Struct(">i").pack
_json = struct.Struct(">iB").pack


class _Words(dict[str | None, bytes]):
    """The fields of texts of which there are few: each is encoded once."""

    def __missing__(self, text: str) -> bytes:
        if len(self) >= WORDS_MAX:
            self.clear()
            self[None] = _NULL
        field = self[text] = _text(text)
        return field


def _text(text: str) -> bytes:
    data = text.encode()
    return _length(len(data)) + data


_words = _Words({None: _NULL})


def encode(event: Event, message_id: bytes) -> bytes:
    """The row of *event*, but for its field count and seq; *message_id* is its id in UTF-8."""
    happened, sent = event.original_timestamp, event.sent_at
    received, timestamp = event.received_at - _EPOCH_2000, event.timestamp - _EPOCH_2000
    user, anonymous = event.user_id, event.anonymous_id
    context, properties, traits = event.context, event.properties, event.traits
    integrations, extra = event.integrations, event.extra
    # Spelt out, because loops over twenty fields take half as long again.
    return b"".join(
        (
            _times(8, received, 8, timestamp),
            _NULL if happened is None else _time(8, happened - _EPOCH_2000),
            _NULL if sent is None else _time(8, sent - _EPOCH_2000),
            _length(len(message_id)),
            message_id,
            _words[event.type],
            _words[event.event],
            _words[event.name],
            _words[event.category],
            _words[event.source],
            _NULL if user is None else _text(user),
            _NULL if anonymous is None else _text(anonymous),
            _words[event.group_id],
            _words[event.previous_id],
            _NULL if context is None else _json(len(context) + 1, 1),
            context or b"",
            _NULL if properties is None else _json(len(properties) + 1, 1),
            properties or b"",
            _NULL if traits is None else _json(len(traits) + 1, 1),
            traits or b"",
            _NULL if integrations is None else _json(len(integrations) + 1, 1),
            integrations or b"",
            _NULL if extra is None else _json(len(extra) + 1, 1),
            extra or b"",
        )
    )


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
