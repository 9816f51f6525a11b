"""The tail gives every stored event back in order, cheaply to those who keep up."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import BadRequest, Unreachable
from collector.store import reader
from collector.store import tail as tail_module
from collector.store.line import Line
from collector.store.postgres import Postgres
from collector.store.selection import Selection
from collector.store.tail import Chunk, Tail
from tests.destinations.depot import event, store, users
from tests.proxy import Proxy


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def tail(dsn: str) -> AsyncIterator[Tail]:
    tail = Tail(Postgres(dsn))
    yield tail
    await tail.close()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What lines are asked to do."""
    found: list[str] = []
    do = Line.do

    async def listed(line: Line, job: Any, *arguments: Any) -> Any:
        found.append(job.__name__)
        return await do(line, job, *arguments)

    monkeypatch.setattr(Line, "do", listed)
    return found


async def whole(tail: Tail, after: int = 0, events_max: int = 1_000) -> list[str]:
    """All message ids beyond *after*, read as couriers read."""
    found: list[str] = []
    while after < tail.last_seq:
        chunk = await tail.read(after, events_max)
        assert after < chunk.read_to
        assert all(after < one.seq <= chunk.read_to for one in chunk.events)
        assert len(chunk.events) <= events_max
        found += [one.message_id for one in chunk.events]
        after = chunk.read_to
    return found


def ids(chunk: Chunk) -> list[str]:
    return [one.message_id for one in chunk.events]


async def test_everything_is_read_in_order_with_all_that_was_stored(
    tail: Tail, connection: asyncpg.Connection
) -> None:
    rows = [event(f"m{n}", properties={"n": n}, context='{"a": 1.10}') for n in range(1_200)]
    tail.stored(await store(connection, rows))
    assert await whole(tail) == [f"m{n}" for n in range(1_200)]
    first = (await tail.read(0, 1)).events[0]
    assert (first.seq, first.type, first.event, first.user_id) == (1, "track", "E", "u")
    assert first.properties == {"n": 0}
    assert first.context_text == b'{"a": 1.10}', "digits are kept"
    stored = await connection.fetchval("select received_at from collector.events where seq = 1")
    assert first.received_at == round(stored.timestamp() * 1e6)


async def test_who_has_read_everything_waits_for_more(
    tail: Tail, connection: asyncpg.Connection, jobs: list[str]
) -> None:
    tail.stored(await store(connection, users(3, 1)))
    reading = asyncio.create_task(tail.read(3, 10))
    await asyncio.sleep(0.05)
    assert not reading.done()
    assert not jobs
    tail.stored(await store(connection, users(2, 1, first=3)))
    assert ids(await reading) == ["m3", "m4"]


async def test_those_who_keep_up_share_one_read(
    tail: Tail, connection: asyncpg.Connection, jobs: list[str]
) -> None:
    reading = [asyncio.create_task(tail.read(0, 1_000)) for _ in range(10)]
    await asyncio.sleep(0)
    tail.stored(await store(connection, users(200, 1)))
    chunks = await asyncio.gather(*reading)
    assert len(jobs) == 1
    assert all(chunk.events[0] is chunks[0].events[0] for chunk in chunks), "decoded once, too"
    assert {chunk.read_to for chunk in chunks} == {200}


async def test_one_that_is_a_little_behind_reads_for_itself(
    tail: Tail, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "RECENT_EVENTS", 20)
    tail.stored(await store(connection, users(50, 1)))
    assert ids(await tail.read(40, 100)) == [f"m{n}" for n in range(40, 50)]
    assert await whole(tail) == [f"m{n}" for n in range(50)]
    assert len(tail._recent) <= 20


@settings(max_examples=8)
@given(
    reads=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=12),
    sizes=st.lists(st.sampled_from([10, 10, 3_000, 12_000]), min_size=60, max_size=60),
    missing=st.sets(st.integers(1, 60), max_size=20),
)
async def test_whoever_reads_from_wherever_gets_what_is_there(
    dsn: str, reads: list[tuple[int, int]], sizes: list[int], missing: set[int]
) -> None:
    """With a small memory, large events, gaps, and others who read elsewhere in between."""
    connection, tail = await asyncpg.connect(dsn), Tail(Postgres(dsn))
    before = (tail_module.RECENT_EVENTS, tail_module.RECENT_BYTES, tail_module.READ_BYTES)
    tail_module.RECENT_EVENTS, tail_module.RECENT_BYTES = 15, 20_000
    tail_module.READ_BYTES = 15_000
    try:
        await connection.execute(
            "truncate collector.events; update collector.sequence set last = 0"
        )
        rows = [event(f"m{n}", properties={"t": "x" * size}) for n, size in enumerate(sizes, 1)]
        for first in (0, 40):
            last = await store(connection, rows[first : first + 40])
            await connection.execute(
                "delete from collector.events where seq = any($1)", list(missing)
            )
            tail.stored(last)
            there = [f"m{n}" for n in range(1, last + 1) if n not in missing]
            for after, events_max in reads:
                if after >= last:
                    continue
                chunk = await tail.read(after, events_max)
                expected = [id_ for id_ in there if after < int(id_[1:]) <= chunk.read_to]
                assert ids(chunk) == expected
                assert after < chunk.read_to <= last
                assert sum(one.size for one in tail._recent) <= 20_000
                assert len(tail._recent) <= 15
            assert await whole(tail, events_max=7) == there
    finally:
        tail_module.RECENT_EVENTS, tail_module.RECENT_BYTES, tail_module.READ_BYTES = before
        await tail.close()
        await connection.close()


async def test_events_with_a_clock_that_was_wrong_are_read_all_the_same(
    tail: Tail, connection: asyncpg.Connection
) -> None:
    rows = users(30, 1)
    await store(connection, rows)
    await connection.execute(
        "update collector.events set received_at = received_at - interval '400 days' "
        "where seq % 3 = 0"
    )
    tail.stored(30)
    assert await whole(tail) == [f"m{n}" for n in range(30)]


async def test_postgres_away_is_told_and_the_next_read_works(
    dsn: str, connection: asyncpg.Connection
) -> None:
    async with Proxy(dsn) as proxy:
        tail = Tail(Postgres(proxy.dsn))
        tail.stored(await store(connection, users(5, 1)))
        proxy.refusing = True
        with pytest.raises(Unreachable):
            await tail.read(0, 10)
        proxy.refusing = False
        assert len((await tail.read(0, 10)).events) == 5
        await tail.close()


async def test_a_reader_that_is_cancelled_leaves_the_others_their_read(
    tail: Tail, connection: asyncpg.Connection
) -> None:
    tail.stored(await store(connection, users(100, 1)))
    first, second = (asyncio.create_task(tail.read(0, 100)) for _ in range(2))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    assert len((await second).events) == 100


# --- replays -----------------------------------------------------------------------------------


async def select(tail: Tail, chosen: Selection, last: int) -> list[str]:
    found, after = [], 0
    for _ in itertools.count():
        chunk = await tail.select(after, last, chosen, 1, 7)
        found += ids(chunk)
        if chunk.read_to == last:
            return found
        assert chunk.read_to > after
        after = chunk.read_to
    raise AssertionError


async def test_a_selection_is_read_span_by_span(
    tail: Tail, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "SPAN", 20)
    last = await store(connection, [event(f"m{n}", f"u{n % 3}") for n in range(100)])
    assert await select(tail, Selection(), last) == [f"m{n}" for n in range(100)]
    assert await select(tail, Selection(where="e.user_id = 'u1'"), last) == [
        f"m{n}" for n in range(1, 100, 3)
    ]
    assert await select(tail, Selection(message_ids=["m7", "m93"]), last) == ["m7", "m93"]


@pytest.mark.parametrize(
    "where",
    [
        "(e.properties->>'n')::int > 0",
        "1 / (e.seq - 50) < 2",
        "no_such_column",
        "pg_sleep(1) is null",
    ],
)
async def test_a_condition_that_fails_is_its_authors_fault(
    tail: Tail, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(reader, "WHERE_SECONDS", 0.2)
    monkeypatch.setattr(reader.reading.__wrapped__, "__defaults__", (0.2,))
    last = await store(connection, [event(f"m{n}", properties={"n": "x"}) for n in range(100)])
    with pytest.raises(BadRequest, match="where"):
        await tail.select(0, last, Selection(where=where), 1, 1_000)
    assert len((await tail.select(0, last, Selection(), 1, 1_000)).events) == 100


async def test_a_condition_changes_nothing(tail: Tail, connection: asyncpg.Connection) -> None:
    last = await store(connection, users(3, 1))
    await connection.execute(
        "create function collector.mischief() returns bool language plpgsql as "
        "$$ begin delete from collector.events; return true; end $$"
    )
    with pytest.raises(BadRequest):
        await tail.select(0, last, Selection(where="collector.mischief()"), 1, 10)
    assert await connection.fetchval("select count(*) from collector.events") == 3
