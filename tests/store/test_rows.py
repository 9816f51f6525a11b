"""Every event that refine can produce survives binary COPY and reads back as it was."""

import asyncio
import decimal
import json
from typing import Any

import asyncpg
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.event import BATCH, EVENT_TYPES, Envelope, Event, Rejection
from collector.refine import Limits, refine
from collector.refine.clock import EARLIEST, LATEST
from collector.store import rows

LIMITS = Limits(512, 1024)
EPOCH_SQL = "(extract(epoch from {0}) * 1000000)::bigint as {0}"
TIMES = ("received_at", "timestamp", "original_timestamp", "sent_at")
JSON = ("context", "properties", "traits", "integrations", "extra")

# Text as Postgres and UTF-8 have it: no NUL, no half of a pair.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
numbers = st.one_of(
    st.integers(-(10**300), 10**300),
    st.integers(-(2**64), 2**64),
    st.floats(allow_nan=False, allow_infinity=False),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, text),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(text, json_values, max_size=5)
times = st.one_of(
    st.integers(EARLIEST, LATEST),
    st.sampled_from([EARLIEST, LATEST, 0, -1, 946_684_800_000_000, 946_684_799_999_999, 1]),
)
ids = st.one_of(st.none(), text.filter(bool))


@st.composite
def events(draw: st.DrawFn) -> Event:
    def json_text() -> bytes | None:
        value = draw(st.none() | objects)
        return (
            None if value is None else json.dumps(value, ensure_ascii=draw(st.booleans())).encode()
        )

    return Event(
        type=draw(st.sampled_from(sorted(EVENT_TYPES))),
        source=draw(st.sampled_from(["default", "web"])),
        received_at=draw(st.integers(0, LATEST)),
        event=draw(ids),
        name=draw(ids),
        category=draw(ids),
        message_id=draw(text.filter(bool)),
        timestamp=draw(times),
        original_timestamp=draw(st.none() | times),
        sent_at=draw(st.none() | times),
        user_id=draw(ids),
        anonymous_id=draw(ids),
        group_id=draw(ids),
        previous_id=draw(ids),
        context=json_text(),
        properties=json_text(),
        traits=json_text(),
        integrations=json_text(),
        extra=json_text(),
    )  # fmt: skip


async def round_trip(connection: asyncpg.Connection, written: list[Event]) -> list[asyncpg.Record]:
    """Store *written*, read it back in its order, and forget it."""

    async def stream() -> Any:
        for piece in rows.chunks(
            [rows.encode(event, event.message_id.encode()) for event in written], 5
        ):
            yield piece

    columns = [
        EPOCH_SQL.format(name) if name in TIMES else f"{name}::text" if name in JSON else name
        for name in rows.COLUMNS
    ]
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.copy_to_table(
            "events",
            schema_name="collector",
            columns=rows.COLUMNS,
            format="binary",
            source=stream(),
        )
        found: list[asyncpg.Record] = await connection.fetch(
            f"select {', '.join(columns)} from collector.events order by seq"
        )
        return found
    finally:
        await transaction.rollback()


def assert_same(event: Event, row: asyncpg.Record) -> None:
    for name in rows.COLUMNS[1:]:
        wrote, read = getattr(event, name), row[name]
        if name in JSON and wrote is not None:
            # Postgres keeps every digit, a float64 does not: compare them as decimals.
            wrote = json.loads(wrote, parse_float=_decimal, parse_int=_decimal)
            read = json.loads(read, parse_float=_decimal, parse_int=_decimal)
        assert wrote == read, name


def _decimal(digits: str) -> Any:
    with decimal.localcontext(prec=1000):
        return decimal.Decimal(digits).normalize()


async def test_every_event_reads_back_as_it_was_written(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.lists(events(), min_size=1, max_size=8))
    def check(written: list[Event]) -> None:
        found = asyncio.run_coroutine_threadsafe(round_trip(connection, written), loop).result(60)
        assert [row["seq"] for row in found] == list(range(5, 5 + len(written)))
        for event, row in zip(written, found, strict=True):
            assert_same(event, row)

    await asyncio.to_thread(check)
    await connection.close()


wire_times = st.one_of(
    st.none(),
    text,
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.sampled_from(
        ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00",
         "1969-12-31T23:59:59.999Z", "1e300", "-1", "253402300799999"]
    ),
)  # fmt: skip
wire_ids = st.one_of(st.none(), text, st.integers(-(2**63), 2**63 - 1))
wire_events = st.fixed_dictionaries(
    {"type": st.sampled_from([*sorted(EVENT_TYPES), "nothing"])},
    optional={
        "event": text,
        "name": text,
        "messageId": wire_ids,
        "userId": wire_ids,
        "anonymousId": wire_ids,
        "groupId": wire_ids,
        "previousId": wire_ids,
        "timestamp": wire_times,
        "originalTimestamp": wire_times,
        "sentAt": wire_times,
        "context": objects,
        "properties": objects,
        "traits": objects,
        "integrations": objects,
        "channel": json_values,
        "anything": json_values,
    },
)


async def test_whatever_refine_makes_of_a_request_is_stored(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(
        st.lists(wire_events, min_size=1, max_size=6),
        wire_times,
        objects,
        st.integers(0, 4_000_000_000_000_000),
    )
    def check(batch: list[dict[str, Any]], sent_at: Any, context: Any, received_at: int) -> None:
        body = json.dumps({"batch": batch, "sentAt": sent_at, "context": context}).encode()
        envelope = Envelope(
            "default", BATCH, received_at, bytes(range(16)), body, address="203.0.113.9"
        )
        try:
            results = list(refine(envelope, LIMITS))
        except msgspec.DecodeError:
            return  # ingest would have repaired or refused it
        written = [result for result in results if isinstance(result, Event)]
        assert len(results) == len(batch)
        assert all(isinstance(result, Event | Rejection) for result in results)
        if written:
            read = asyncio.run_coroutine_threadsafe(round_trip(connection, written), loop)
            for event, row in zip(written, read.result(60), strict=True):
                assert_same(event, row)

    await asyncio.to_thread(check)
    await connection.close()


def test_a_row_can_be_shown_to_people() -> None:
    event = Event("track", "web", 1, "Bought", message_id="m", properties=b'{"a": 1}', user_id="u")
    row = rows.encode(event, event.message_id.encode())
    assert rows.received_at(row) == 1
    assert json.loads(rows.readable(row)) == {
        "message_id": "m",
        "type": "track",
        "event": "Bought",
        "source": "web",
        "user_id": "u",
        "properties": {"a": 1},
    }


def test_rows_go_out_in_pieces_of_bounded_size() -> None:
    event = rows.encode(
        Event("track", "web", 1, message_id="m", properties=b'"' + b"x" * 999 + b'"'), b"m"
    )
    pieces = list(rows.chunks([event] * 5000, 1))
    assert len(pieces) > 10
    assert max(map(len, pieces)) < rows.CHUNK_BYTES * 1.1
    assert list(rows.chunks([], 1)) == [rows.HEADER + rows.TRAILER]
