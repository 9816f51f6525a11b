"""What goes with time, and what stays for those who have not come past it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from collector.store import maintenance as maintenance_module
from collector.store import partitions
from collector.store.dedupe import SeenIndex
from collector.store.maintenance import Maintenance
from collector.store.partitions import Keep, drop_before, name_of
from collector.store.postgres import Postgres
from collector.store.settings import StoreSettings
from tests.destinations.depot import event, store
from tests.store.desk import add_courier, add_waiting

NOW = datetime.now(UTC)
DAYS = 20  # with ten events each, the oldest first


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Twenty days in partitions of their own; seq 1 to 10 are of the oldest."""
    connection = await asyncpg.connect(dsn)
    for ago in range(DAYS, 0, -1):
        at = NOW - timedelta(ago)
        rows = [event(f"d{ago}-{n}", received_at=at, timestamp=at) for n in range(10)]
        await store(connection, rows)
    await partitions.rescue(connection, "events", None)
    yield connection
    await connection.close()


async def days_left(connection: asyncpg.Connection) -> list[int]:
    """How many days ago those are that are still there, but for yesterday and later."""
    found = await partitions.names(connection, "events")
    return [ago for ago in range(DAYS, 1, -1) if name_of("events", day(ago)) in found]


def day(ago: int) -> Any:
    return (NOW - timedelta(ago)).date()


async def maintain(dsn: str, directory: Path, **settings: Any) -> None:
    chosen = StoreSettings(**{"dsn": dsn, **settings})
    index = SeenIndex(directory, chosen.dedupe)
    connection = await asyncpg.connect(dsn)
    await Maintenance(Postgres(dsn), chosen, index).round(connection)
    await connection.close()


async def lease(connection: asyncpg.Connection, name: str, ago: str = "0 days") -> None:
    await connection.execute(
        "insert into collector.leases (name, owner, epoch, expires_at) "
        "values ('destination:' || $1, 'x', 1, now() + interval '10 s' - $2::text::interval)",
        name,
        ago,
    )


async def test_a_day_that_is_needed_stays_and_those_before_it_go(
    connection: asyncpg.Connection,
) -> None:
    keep = Keep(beyond=45, since=day(18))  # the fifth day has events beyond 45
    assert await drop_before(connection, "events", day(10), unless=keep) == 4
    assert await days_left(connection) == list(range(16, 1, -1))


async def test_beyond_the_cap_days_go_all_the_same(connection: asyncpg.Connection) -> None:
    keep = Keep(beyond=0, since=day(13))
    assert await drop_before(connection, "events", day(10), unless=keep) == 7
    assert await days_left(connection) == list(range(13, 1, -1))


async def test_a_day_that_everybody_has_come_past_goes_between_others_that_stay(
    connection: asyncpg.Connection,
) -> None:
    """An empty one is needed by nobody."""
    await connection.execute(
        "delete from collector.events where seq between 41 and 50"  # of sixteen days ago
    )
    keep = Keep(beyond=35, since=day(20))
    assert await drop_before(connection, "events", day(10), unless=keep) == 4
    assert await days_left(connection) == [17, *range(15, 1, -1)]


@pytest.mark.parametrize(
    ("position", "state", "leased", "left"),
    [
        (200, "running", "0 days", 10),  # it has come past everything
        (65, "running", "0 days", 14),  # it still needs the seventh day
        (65, "paused", "0 days", 14),
        (65, "done", "0 days", 10),  # as a replay that is over
        (5, "running", "0 days", 15),  # more than five days extra nobody gets
        (65, "running", "2 days", 10),  # it was taken out of the settings days ago
        (65, "running", None, 10),  # nobody ever ran it
    ],
)
async def test_the_round_keeps_what_a_destination_needs_within_bounds(
    connection: asyncpg.Connection,
    dsn: str,
    tmp_path: Path,
    position: int,
    state: str,
    leased: str | None,
    left: int,
) -> None:
    await add_courier(connection, "hook", position=position, state=state)
    await add_courier(connection, "fast", position=200)
    await lease(connection, "fast")
    if leased is not None:
        await lease(connection, "hook", leased)
    await maintain(dsn, tmp_path, retention_days=10, retention_extra_days=5)
    assert await days_left(connection) == list(range(left, 1, -1))


async def test_a_replay_keeps_what_it_has_not_come_to(
    connection: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    await add_courier(connection, "hook", position=200)
    await add_courier(connection, "hook", replay=1, position=75, last_seq=100)
    await lease(connection, "hook")
    await maintain(dsn, tmp_path, retention_days=10, retention_extra_days=5)
    assert await days_left(connection) == list(range(13, 1, -1))


async def test_the_log_of_deliveries_and_old_claims_go_a_few_at_a_time(
    connection: asyncpg.Connection, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "DELETE_ROWS", 7)
    await connection.execute(
        "insert into collector.delivery_log (at, destination, outcome, attempts, span, seqs) "
        "select now() - make_interval(days => n), 'hook', 'delivered', 1, '[1,2)', '{[1,2)}' "
        "from generate_series(0, 39) n"
    )
    await connection.execute(
        "insert into collector.claims (destination, event, key, message_id, claimed_at) "
        "select 'hook', 'E', n::text, 'm', now() - make_interval(days => n) "
        "from generate_series(0, 39) n"
    )
    await maintain(dsn, tmp_path, retention_days=30, delivery_log_days=14)
    assert await connection.fetchval("select count(*) from collector.delivery_log") == 14
    assert await connection.fetchval("select count(*) from collector.claims") == 30


async def test_claims_stay_as_long_as_events_do(
    connection: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    await connection.execute(
        "insert into collector.claims (destination, event, key, message_id, claimed_at) "
        "values ('hook', 'E', '1', 'm', now() - interval '10 years')"
    )
    await maintain(dsn, tmp_path, retention_days=0)
    assert await connection.fetchval("select count(*) from collector.claims") == 1


async def test_what_waited_in_a_cancelled_replay_goes(
    connection: asyncpg.Connection, dsn: str, tmp_path: Path
) -> None:
    for replay, state in ((0, "running"), (1, "cancelled"), (2, "paused")):
        await add_courier(connection, "hook", replay=replay, state=state)
        await add_waiting(connection, "hook", 5, replay=replay)
    await maintain(dsn, tmp_path)
    found = await connection.fetch("select replay from collector.deliveries order by 1")
    assert [row["replay"] for row in found] == [0, 2]
