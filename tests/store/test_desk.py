"""The desk: how destinations stand, and the switch."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from collector.errors import BadRequest, ConfigError, Unreachable
from collector.store.desk import couriers, visit
from collector.store.partitions import make_ahead
from collector.store.postgres import Connection, Postgres
from tests.store.desk import (
    add_counts,
    add_courier,
    add_event,
    add_letter,
    add_log,
    add_waiting,
)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


# --- how destinations stand ------------------------------------------------------------------


async def test_without_a_destination_there_is_nothing_to_show(connection: Connection) -> None:
    assert await couriers.destinations(connection) == []


async def test_a_destination_shows_what_is_pending_and_what_became_of_the_rest(
    connection: Connection,
) -> None:
    now = await connection.fetchval("select now()")
    for seq in range(1, 11):
        await add_event(connection, seq, received_at=now - timedelta(seconds=100 - seq))
    await add_courier(
        connection,
        "ga4",
        type="ga4",
        position=3,
        settled_ahead=4,
        last_error="503 from the vendor",
        last_error_at=now,
    )
    await add_waiting(connection, "ga4", 4, attempts=2)
    await add_waiting(connection, "ga4", 5, attempts=1, state="sending")
    await add_waiting(connection, "ga4", 6, state="done", last_seq=9)
    await add_counts(
        connection, "ga4", delivered=4, skipped__consent=2, refused__expired=1, refused__bad=3
    )
    await add_counts(connection, "ga4", replay=7, delivered=900)
    await add_letter(connection, "ga4", 1)
    await add_letter(connection, "other", 1)
    await add_log(connection, "ga4", "delivered", [1, 2, *range(10, 110)])
    await add_log(connection, "ga4", "delivered", [1], replay=7)
    await add_log(connection, "ga4", "skipped", range(1, 1000), reason="consent")
    (found,) = await couriers.destinations(connection)
    assert (found.name, found.type, found.state, found.reason) == ("ga4", "ga4", "running", None)
    assert (found.pending, found.waiting, found.position) == (3, 2, 3)
    assert 96 <= found.lag_seconds < 120  # the event after the position
    assert found.outcomes.delivered == 4
    assert found.outcomes.skipped == {"consent": 2}
    assert found.outcomes.refused == {"bad": 3, "expired": 1}
    assert (found.dead_letters, found.rate_per_second) == (1, 1.7)
    assert (found.last_error, found.last_error_at) == ("503 from the vendor", now)
    assert found.owner is None


async def test_lag_is_that_of_the_oldest_pending_event_over_all_days(
    connection: Connection,
) -> None:
    await make_ahead(connection)
    now = await connection.fetchval("select now()")
    await add_event(connection, 1, received_at=now - timedelta(days=1))
    await add_event(connection, 2, received_at=now)
    await add_courier(connection, "a", position=0)
    await add_courier(connection, "b", position=1)
    await add_courier(connection, "c", position=2)
    lags = [found.lag_seconds for found in await couriers.destinations(connection)]
    assert lags[0] >= 86_400
    assert 0 <= lags[1] < 20
    assert lags[2] == 0


async def test_a_pending_event_that_has_expired_does_not_hide_the_next(
    connection: Connection,
) -> None:
    now = await connection.fetchval("select now()")
    await add_event(connection, 5, received_at=now - timedelta(seconds=50))
    await add_courier(connection, "a", position=1)
    (found,) = await couriers.destinations(connection)
    assert (found.pending, round(found.lag_seconds, -1)) == (4, 50)


async def test_replays_are_no_destinations(connection: Connection) -> None:
    await add_courier(connection, "a")
    await add_courier(connection, "a", replay=1, last_seq=5)
    assert [found.name for found in await couriers.destinations(connection)] == ["a"]


async def test_the_owner_is_shown_while_its_lease_lasts(connection: Connection) -> None:
    await add_courier(connection, "a")
    await connection.execute(
        "insert into collector.leases values ($1 || 'a', 'host-1', 1, now() + interval '9 s')",
        couriers.LEASE,
    )
    assert [found.owner for found in await couriers.destinations(connection)] == ["host-1"]
    await connection.execute("update collector.leases set expires_at = now()")
    assert [found.owner for found in await couriers.destinations(connection)] == [None]


# --- the switch ------------------------------------------------------------------------------


async def state(connection: Connection, replay: int = 0) -> tuple[object, ...]:
    row = await connection.fetchrow(
        "select state, reason, detail, since is not null from collector.couriers "
        "where destination = 'a' and replay = $1",
        replay,
    )
    return tuple(row)


async def test_a_pause_says_why_and_a_resume_takes_it_back(connection: Connection) -> None:
    await add_courier(connection, "a")
    assert await couriers.pause(connection, "a", "the vendor moves") is True
    assert await state(connection) == ("paused", "by_hand", "the vendor moves", True)
    assert await couriers.pause(connection, "a") is False
    assert await state(connection) == ("paused", "by_hand", "the vendor moves", True)
    assert await couriers.resume(connection, "a") is True
    assert await state(connection) == ("running", None, None, False)
    assert await couriers.resume(connection, "a") is False


async def test_what_a_vendor_has_paused_is_resumed_by_hand(connection: Connection) -> None:
    await add_courier(connection, "a", state="paused", reason="denied", detail="401")
    assert await couriers.resume(connection, "a") is True
    assert await state(connection) == ("running", None, None, False)


async def test_a_pause_by_hand_replaces_the_vendors(connection: Connection) -> None:
    await add_courier(connection, "a", state="paused", reason="denied", detail="401")
    assert await couriers.pause(connection, "a") is True
    assert await state(connection) == ("paused", "by_hand", "paused by hand", True)


async def test_only_the_one_that_was_named_is_paused(connection: Connection) -> None:
    await add_courier(connection, "a")
    await add_courier(connection, "a", replay=1, last_seq=5)
    await add_courier(connection, "b")
    await couriers.pause(connection, "a", replay=1)
    rows = await connection.fetch("select destination, replay, state from collector.couriers")
    assert [tuple(row[:2]) for row in rows if row[2] == "paused"] == [("a", 1)]


@pytest.mark.parametrize("act", [couriers.pause, couriers.resume])
async def test_an_unknown_name_is_told_which_there_are(connection: Connection, act: object) -> None:
    with pytest.raises(BadRequest, match="table, and start") as refusal:
        await act(connection, "ga5")  # type: ignore[operator]
    assert (refusal.value.code, refusal.value.status) == ("unknown_destination", 404)
    await add_courier(connection, "ga4")
    await add_courier(connection, "hook")
    with pytest.raises(BadRequest, match="no destination ga5: name one of ga4, hook"):
        await act(connection, "ga5")  # type: ignore[operator]


@pytest.mark.parametrize("ended", ["done", "cancelled"])
async def test_what_has_ended_is_neither_paused_nor_resumed(
    connection: Connection, ended: str
) -> None:
    await add_courier(connection, "a")
    await add_courier(connection, "a", replay=1, last_seq=5, state=ended)
    for act in (couriers.pause, couriers.resume):
        with pytest.raises(BadRequest) as refusal:
            await act(connection, "a", replay=1)
        assert (refusal.value.code, refusal.value.status) == ("replay_ended", 409)


# --- the visit -------------------------------------------------------------------------------


async def test_a_visit_that_finds_no_postgres_says_so() -> None:
    postgres = Postgres("postgresql://collector@127.0.0.1:1/collector")
    with pytest.raises(Unreachable, match="cannot be reached"):
        async with visit(postgres.connect):
            pass


async def test_a_visit_that_finds_no_tables_says_what_to_do(empty_dsn: str) -> None:
    with pytest.raises(ConfigError, match="start the collector once"):
        async with visit(Postgres(empty_dsn).connect):
            pass


@pytest.mark.parametrize(
    ("change", "said"),
    [("delete from collector.migrations where version > 1", "restart the collector"),
     ("update collector.migrations set version = 9000 where version > 1", "newer release")],
)  # fmt: skip
async def test_a_visit_to_another_releases_tables_says_which(
    connection: Connection, dsn: str, change: str, said: str
) -> None:
    await connection.execute(change)
    with pytest.raises(ConfigError, match=said):
        async with visit(Postgres(dsn).connect):
            pass


async def test_a_job_that_takes_too_long_is_ended(dsn: str) -> None:
    async def sleep(connection: Connection) -> None:
        await connection.execute("select pg_sleep(30)")

    with pytest.raises(Unreachable, match="did not answer within"):
        async with visit(Postgres(dsn).connect, 0.5) as guest:
            await guest.do(sleep)


async def test_what_postgres_cannot_look_for_is_the_askers_mistake(dsn: str) -> None:
    async with visit(Postgres(dsn).connect) as guest:
        for name in ("a\0b", "a\udc80b"):
            with pytest.raises(BadRequest, match="cannot look for"):
                await guest.do(couriers.pause, name)
        with pytest.raises(BadRequest, match="there is no destination"):
            await guest.do(couriers.pause, "a")


async def test_a_connection_that_is_lost_is_postgres_away(dsn: str) -> None:
    async with visit(Postgres(dsn).connect) as guest:

        async def end(connection: Connection) -> None:
            await connection.execute("select pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(Unreachable):
            await guest.do(end)
        with pytest.raises(Unreachable):
            await guest.do(couriers.destinations)
        await asyncio.sleep(0)
