"""Days come, are searched and go, while events are stored."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from collector.store import maintenance as maintenance_module
from collector.store import partitions
from collector.store.dedupe import SeenIndex
from collector.store.maintenance import Maintenance
from collector.store.partitions import name_of
from collector.store.postgres import Postgres
from collector.store.settings import StoreSettings
from tests.store.road import Road, ask, assert_exactly_once, connected, frame_of, track

DAY = 86_400


def unique() -> str:
    return str(uuid.uuid4())


def days_ago(count: float) -> float:
    return time.time() - count * DAY


def day_of(moment: float) -> date:
    return datetime.fromtimestamp(moment, UTC).date()


async def store_at(road: Road, moment: float, count: int = 10) -> list[str]:
    ids = [unique() for _ in range(count)]
    await road.journal.append(frame_of([track(id_) for id_ in ids], at=moment))
    return ids


async def count(dsn: str, table: str) -> int:
    found: int = await ask(dsn, f"select count(*) from collector.{table}")
    return found


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(dsn) as opened:
        yield opened


class Keeper:
    """Maintenance that is done when a test says so."""

    def __init__(self, dsn: str, directory: Path, **settings: Any) -> None:
        self.index = SeenIndex(directory, StoreSettings().dedupe)
        self._dsn = dsn
        self._maintenance = Maintenance(Postgres(dsn), StoreSettings(**settings), self.index)

    async def round(self) -> None:
        async with connected(self._dsn) as opened:
            await self._maintenance.round(opened)


@pytest.fixture
def keeper(dsn: str, tmp_path: Path) -> Keeper:
    return Keeper(dsn, tmp_path / "keeper")


async def test_days_are_made_ahead(dsn: str, connection: asyncpg.Connection) -> None:
    today = datetime.now(UTC).date()
    wanted = [today + timedelta(n) for n in range(-1, partitions.DAYS_AHEAD + 1)]
    for table in ("events", "seen"):
        assert await partitions.names(connection, table) == [name_of(table, day) for day in wanted]
    await partitions.make_ahead(connection)  # and again: nothing is left to do
    assert len(await partitions.names(connection, "events")) == len(wanted)


@pytest.mark.parametrize("off", [-9, -200, 5, 90])
async def test_what_has_no_day_is_stored_all_the_same_and_moves_to_its_day(
    dsn: str, tmp_path: Path, keeper: Keeper, off: float
) -> None:
    """A journal that waited for days, or a clock that is wrong."""
    moment = days_ago(-off)
    async with Road(tmp_path, dsn) as road:
        ids = await store_at(road, moment)
        await road.stored()
        assert await count(dsn, "events_default") == 10
        writing = asyncio.create_task(write_for(road, 1.0, moment))
        await asyncio.sleep(0.3)
        await keeper.round()
        ids += await writing
        ids += await store_at(road, moment)
        await road.stored()
        road.assert_books_close()
    assert await count(dsn, "events_default") == 0
    assert await count(dsn, name_of("events", day_of(moment))) == len(ids)
    await assert_exactly_once(dsn, ids)


async def write_for(road: Road, seconds: float, moment: float | None = None) -> list[str]:
    ids = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ids += await store_at(road, time.time() if moment is None else moment, 5)
        await asyncio.sleep(0.01)
    await road.stored()
    return ids


async def test_a_clock_that_was_never_set_loses_nothing(
    dsn: str, tmp_path: Path, keeper: Keeper
) -> None:
    """A small machine that begins in 1970 until it has asked for the time."""
    async with Road(tmp_path, dsn) as road:
        ids = await store_at(road, 100.0)
        await road.stored()
        await keeper.round()
        await keeper.round()
    await assert_exactly_once(dsn, ids)


async def test_days_past_their_retention_are_dropped(dsn: str, tmp_path: Path) -> None:
    keeper = Keeper(dsn, tmp_path / "keeper", retention_days=30)
    async with Road(tmp_path, dsn) as road, connected(dsn) as connection:
        for ago in (31.5, 29.5, 0.0):
            await partitions._make(connection, "events", day_of(days_ago(ago)))
        old = await store_at(road, days_ago(31.5))
        young = await store_at(road, days_ago(29.5)) + await store_at(road, time.time())
        await road.stored()
        await connection.execute(
            "insert into collector.rejected_events (rejected_at, received_at, source, accepted, "
            "reason, detail, payload, payload_bytes) "
            "select now() - n * interval '1 day', now(), 's', true, 'r', '', '', 0 "
            "from generate_series(1, 60) n"
        )
        await partitions._make(connection, "seen", day_of(days_ago(20)))
        await keeper.round()
        found = await connection.fetch("select message_id from collector.events")
        assert {row["message_id"] for row in found} == set(young)
        assert not await connection.fetchval(
            "select to_regclass($1)::text", f"collector.{name_of('events', day_of(days_ago(31.5)))}"
        )
        seen_days = await partitions.names(connection, "seen")
        assert seen_days[0] >= name_of("seen", day_of(days_ago(9)))
        assert await connection.fetchval("select count(*) from collector.rejected_events") == 29
        # The window is shorter than the retention, never longer: what is dropped was forgotten.
        assert old


async def test_a_clock_of_postgres_that_runs_ahead_drops_nothing(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ahead(_: object) -> date:
        return datetime.now(UTC).date() + timedelta(4_000)

    async with Road(tmp_path, dsn) as road:
        ids = await store_at(road, time.time())
        await road.stored()
        monkeypatch.setattr(partitions, "today", ahead)
        await Keeper(dsn, tmp_path / "keeper").round()
        await road.send(track(ids[0]))
        await road.stored()
        assert road.books["duplicate"] == 1
    await assert_exactly_once(dsn, ids)


async def test_a_report_that_runs_for_hours_holds_up_neither_the_start_nor_the_indexes(
    dsn: str, tmp_path: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(partitions, "LOCK_SECONDS", 0.1)
    async with connected(dsn) as report:
        await report.execute(f"drop table collector.{name_of('events', day_of(days_ago(-2)))}")
        async with report.transaction():
            await report.fetch("select * from collector.events")
            async with Road(tmp_path, dsn) as road:
                await road.send(track("during"))
                await road.stored(10)
            assert "Partitions cannot be made now" in caplog.text
            # Ready but for the snapshot of the report, which building an index waits for.
            indexing = asyncio.create_task(keeper.round())
            await asyncio.sleep(1.0)
            assert "A step of maintenance is put off" in caplog.text
        await asyncio.wait_for(indexing, 20)
    assert await count(dsn, "events") == 1


# --- indexes ---------------------------------------------------------------------------------


async def a_closed_day(dsn: str, road: Road) -> str:
    """Yesterday or, within the hour of grace, the day before; with some rows."""
    moment = days_ago(2)
    async with connected(dsn) as connection:
        await partitions._make(connection, "events", day_of(moment))
    events = [
        {"type": "track", "event": f"E{n % 50}", "userId": f"u{n}", "anonymousId": f"a{n}",
         "messageId": unique(), "properties": {"filling": "x" * 200}}
        for n in range(4_000)
    ]  # fmt: skip
    for at in range(0, len(events), 500):
        await road.journal.append(frame_of(events[at : at + 500], at=moment))
    await road.stored()
    return name_of("events", day_of(moment))


async def indexes(dsn: str, name: str) -> dict[str, bool]:
    """The indexes of a partition, without its name, and whether they are valid."""
    async with connected(dsn) as connection:
        found = await connection.fetch(
            "select c.relname as name, i.indisvalid as valid from pg_index i "
            "join pg_class c on c.oid = i.indexrelid where i.indrelid = $1::text::regclass",
            f"collector.{name}",
        )
    return {row["name"].removeprefix(f"{name}_"): row["valid"] for row in found}


FINISHED = {"seq_idx": True} | {index: True for index, _ in partitions.CLOSED_DAY}


async def test_a_day_that_is_over_gets_its_indexes_while_events_are_stored(
    dsn: str, tmp_path: Path, keeper: Keeper
) -> None:
    async with Road(tmp_path, dsn) as road:
        day = await a_closed_day(dsn, road)
        assert set(await indexes(dsn, day)) == {"seq_idx", "ids_bloom", "time_brin"}
        writing = asyncio.create_task(write_for(road, 1.5))
        late = asyncio.create_task(write_for(road, 1.5, days_ago(2)))
        await keeper.round()
        await writing
        await late
        road.assert_books_close()
    assert await indexes(dsn, day) == FINISHED
    today = name_of("events", datetime.now(UTC).date())
    assert set(await indexes(dsn, today)) == {"seq_idx", "ids_bloom", "time_brin"}


async def an_interrupted_build(dsn: str, day: str) -> None:
    """Leave an index invalid, as a collector that was killed does."""
    async with (
        connected(dsn) as builder,
        connected(dsn) as reader,
        reader.transaction(isolation="repeatable_read"),
    ):
        await reader.fetch(f"select count(*) from collector.{day}")
        building = asyncio.create_task(
            builder.execute(
                f"create index concurrently {day}_message_id on collector.{day} (message_id)"
            )
        )
        await asyncio.sleep(0.5)
        await reader.execute("select pg_cancel_backend($1)", builder.get_server_pid())
        with pytest.raises(asyncpg.QueryCanceledError):
            await building


async def test_an_index_that_was_left_half_built_is_built_again(
    dsn: str, tmp_path: Path, keeper: Keeper
) -> None:
    async with Road(tmp_path, dsn) as road:
        day = await a_closed_day(dsn, road)
        await an_interrupted_build(dsn, day)
        assert not (await indexes(dsn, day))["message_id"]
        await keeper.round()
    assert await indexes(dsn, day) == FINISHED


async def test_an_index_that_another_collector_is_building_is_left_to_it(
    dsn: str, tmp_path: Path
) -> None:
    """Its lease has run out meanwhile: a large day takes longer than that."""
    async with Road(tmp_path, dsn) as road, connected(dsn) as reader, connected(dsn) as other:
        day = await a_closed_day(dsn, road)
        first = Keeper(dsn, tmp_path / "first")
        async with reader.transaction(isolation="repeatable_read"):
            await reader.fetch(f"select count(*) from collector.{day}")
            building = asyncio.create_task(first.round())
            await asyncio.sleep(0.7)  # it waits for the reader's snapshot
            assert not (await indexes(dsn, day))["message_id"]
            await asyncio.wait_for(partitions.index_closed_days(other), 5)
            assert "message_id" in await indexes(dsn, day)
        await building
    assert await indexes(dsn, day) == FINISHED


async def test_two_collectors_may_maintain_at_once(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which the lease prevents, until it does not."""

    async def leader(*_: object) -> int:
        return 1

    monkeypatch.setattr(maintenance_module, "acquire", leader)
    keepers = [Keeper(dsn, tmp_path / f"keeper{n}") for n in range(3)]
    async with Road(tmp_path, dsn) as road:
        day = await a_closed_day(dsn, road)
        for ago in (9, 10, -8):
            await store_at(road, days_ago(ago))
        await road.stored()
        for _ in range(3):
            writing = asyncio.create_task(write_for(road, 0.5))
            await asyncio.gather(*(keeper.round() for keeper in keepers))
            await writing
        road.assert_books_close()
    assert await indexes(dsn, day) == FINISHED
    assert await count(dsn, "events_default") == 0
    assert await count(dsn, "events") == await ask(dsn, "select last from collector.sequence")


async def test_only_one_of_two_collectors_holds_the_lease(dsn: str, tmp_path: Path) -> None:
    keepers = [Keeper(dsn, tmp_path / f"keeper{n}") for n in range(2)]
    await asyncio.gather(*(keeper.round() for keeper in keepers))
    async with connected(dsn) as connection:
        (lease,) = await connection.fetch("select * from collector.leases")
        assert lease["epoch"] == 1
        await asyncio.gather(*(keeper.round() for keeper in keepers))
        assert await connection.fetchval("select epoch from collector.leases") == 1
        await connection.execute("update collector.leases set expires_at = now()")
        await keepers[0].round()
        await keepers[1].round()
        assert await connection.fetchval("select epoch from collector.leases") <= 2


LOOK_UPS = {
    "message_id = 'nobody'": ("message_id", "ids_bloom"),
    "user_id = 'u77'": ("user_id", "ids_bloom"),
    "anonymous_id = 'a77'": ("anonymous_id", "ids_bloom"),
    "user_id = 'u77' and timestamp > now() - interval '9 days'": ("user_id", "ids_bloom"),
    "event = 'E7' and timestamp > now() + interval '9 days'": ("event", "time_brin"),
}


@pytest.mark.parametrize("condition", LOOK_UPS)
async def test_events_are_found_by_an_index_on_open_and_on_closed_days(
    dsn: str, tmp_path: Path, keeper: Keeper, condition: str
) -> None:
    today = name_of("events", datetime.now(UTC).date())
    async with Road(tmp_path, dsn) as road, connected(dsn) as connection:
        day = await a_closed_day(dsn, road)
        await road.send(*[track(unique(), properties={"filling": "x" * 500}) for _ in range(5_000)])
        await road.stored()
        await keeper.round()
        await connection.execute("analyze collector.events")
        await connection.fetchval(
            "select brin_summarize_new_values($1::text::regclass)", f"collector.{today}_ids_bloom"
        )
        await connection.fetchval(
            "select brin_summarize_new_values($1::text::regclass)", f"collector.{today}_time_brin"
        )
        plan = await connection.fetch(f"explain select * from collector.events where {condition}")
        lines = "\n".join(row[0] for row in plan)
        closed_index, open_index = LOOK_UPS[condition]
        assert f"{day}_{closed_index}" in lines, lines
        assert f"Seq Scan on {day}" not in lines
        # A day of 400 pages is read at once; what counts is that a large one need not be.
        await connection.execute("set enable_seqscan = off")
        plan = await connection.fetch(f"explain select * from collector.events where {condition}")
        lines = "\n".join(row[0] for row in plan)
        assert f"{today}_{open_index}" in lines, lines
