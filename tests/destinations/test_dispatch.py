"""Of several collectors one delivers, does what rows say, and another takes over when it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from collector.destinations import dispatch as dispatch_module
from collector.destinations.dispatch import Dispatch
from collector.errors import Denied
from collector.store.desk import couriers, replays
from collector.store.postgres import Postgres
from collector.store.selection import Selection
from tests.destinations.depot import (
    KINDS,
    VENDORS,
    FakeSettings,
    Traffic,
    Vendor,
    event,
    failing_with,
    store,
    take,
    users,
)
from tests.proxy import Proxy
from tests.store.road import until

Runs = Callable[..., Awaitable[Dispatch]]


@pytest.fixture
def vendor() -> Vendor:
    VENDORS["hook"] = Vendor()
    return VENDORS["hook"]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


def hook(name: str = "hook", **settings: Any) -> FakeSettings:
    return FakeSettings(
        **{"name": name, "start": "beginning", "linger_seconds": 0.0, "retry_seconds_min": 0.1}
        | settings
    )


@pytest.fixture
async def run(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runs]:
    """Starts a dispatcher on the database, in a hurry."""
    monkeypatch.setattr(dispatch_module, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(dispatch_module, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(dispatch_module, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(dispatch_module, "MARGIN_SECONDS", 0.5)
    monkeypatch.setattr(dispatch_module, "STOP_SECONDS", 0.5)
    made: list[Dispatch] = []

    async def start(*settings: FakeSettings, through: str = "") -> Dispatch:
        made.append(Dispatch(settings or [hook()], Postgres(through or dsn), KINDS))
        await made[-1].start()
        return made[-1]

    yield start
    for dispatch in made:
        await dispatch.stop()


def here(dispatch: Dispatch, name: str = "hook") -> bool:
    return any(facts["here"] for facts in dispatch.facts() if facts["name"] == name)


async def kill(dispatch: Dispatch) -> None:
    """End it without a word to anybody."""
    tasks = [one.task for post in dispatch._posts.values() for one in post.running.values()]
    assert dispatch._task is not None
    for task in (dispatch._task, *tasks):
        task.cancel()
    await asyncio.gather(dispatch._task, *tasks, return_exceptions=True)


async def test_every_destination_gets_everything(run: Runs, connection: asyncpg.Connection) -> None:
    names = [f"hook{n}" for n in range(5)]
    for name in names:
        VENDORS[name] = Vendor()
    dispatch = await run(*(hook(name) for name in names))
    dispatch.stored(await store(connection, users(50, 5)))
    await until(lambda: all(len(VENDORS[name].taken) == 50 for name in names))
    await until(lambda: all(facts["delivered"] == 50 for facts in dispatch.facts()))
    assert {facts["pending"] for facts in dispatch.facts()} == {0}


async def test_an_event_of_another_collector_is_seen_within_a_round(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    """Whose writer tells only its own dispatcher."""
    await run()
    await store(connection, users(5, 5))
    await until(lambda: len(vendor.taken) == 5)


async def test_one_that_hangs_and_one_that_refuses_hold_up_nobody(
    run: Runs, connection: asyncpg.Connection
) -> None:
    for name in ("hangs", "refuses", "works"):
        VENDORS[name] = Vendor()
    VENDORS["hangs"].answer = asyncio.Event().wait
    VENDORS["refuses"].behave = failing_with(Denied("denied", "no"), "m0")
    dispatch = await run(hook("hangs"), hook("refuses"), hook("works"))
    dispatch.stored(await store(connection, users(500, 5)))
    await until(lambda: len(VENDORS["works"].taken) == 500)
    states = {facts["name"]: facts["state"] for facts in dispatch.facts()}
    assert states == {"hangs": "running", "refuses": "paused", "works": "running"}


async def test_only_one_of_two_delivers_and_the_other_follows_at_once_when_it_stops(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    first = await run()
    await until(lambda: here(first))
    second = await run()
    first.stored(await store(connection, users(20, 5)))
    second.stored(20)
    await until(lambda: len(vendor.taken) == 20)
    await asyncio.sleep(0.3)
    assert not here(second)
    stopping = time.monotonic()
    await first.stop()
    last = await store(connection, users(20, 5, first=20))
    second.stored(last)
    await until(lambda: len(vendor.taken) == 40)
    assert time.monotonic() - stopping < 1.4, "it did not wait for the lease to end"
    assert set(vendor.seen.values()) == {1}


async def test_one_that_was_killed_is_followed_when_its_lease_ends(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    first = await run()
    await until(lambda: here(first))
    second = await run()
    await kill(first)
    second.stored(await store(connection, users(20, 5)))
    killed = time.monotonic()
    await until(lambda: len(vendor.taken) == 20)
    assert time.monotonic() - killed < 1.5 + 1.0
    assert await connection.fetchval("select epoch from collector.couriers") == 2


async def test_one_that_postgres_does_not_answer_sends_nothing_once_its_lease_may_have_ended(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor, dsn: str
) -> None:
    """It hangs in the middle of a round, with events in memory that it could send."""
    async with Proxy(dsn) as proxy:
        settings = hook(rate_per_second=50.0, rate_burst=1, batch_events_max=1)
        first = await run(settings, through=proxy.dsn)
        first.stored(await store(connection, users(200, 5)))
        await until(lambda: len(vendor.taken) > 3)
        proxy.cut()
        cut = time.monotonic()
        second = await run(settings)
        await until(lambda: here(second))
        assert time.monotonic() - cut > 0.5, "not before the lease has ended"
        courier = first._posts["hook"].live
        assert courier is not None
        assert not courier.held
        second.stored(200)
        await until(lambda: len(set(vendor.taken)) == 200)
        proxy.heal()
        await until(lambda: not here(first))
        await until(lambda: second.facts()[0]["delivered"] == 200)
        assert await connection.fetchval("select sum(events) from collector.delivery_counts") == 200


async def test_rows_are_obeyed_and_a_replay_shares_its_destinations_pause(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    dispatch = await run()
    dispatch.stored(await store(connection, users(50, 5)))
    await until(lambda: len(vendor.taken) == 50)
    assert await couriers.pause(connection, "hook")
    await until(lambda: dispatch.facts()[0]["state"] == "paused")
    whole = await replays.prepare(connection, "hook", Selection())
    assert whole is not None
    replay = await replays.create(connection, "hook", Selection(), whole)
    dispatch.stored(await store(connection, users(10, 5, first=50)))
    await asyncio.sleep(0.5)
    assert len(vendor.taken) == 50
    assert await couriers.resume(connection, "hook")
    await until(lambda: len(vendor.taken) == 110)
    for _ in range(200):
        if (await replays.replay(connection, replay)).state == "done":
            break
        await asyncio.sleep(0.05)
    assert (await replays.replay(connection, replay)).outcomes.delivered == 50


async def test_a_cancelled_replay_ends(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    dispatch = await run(hook(replay_rate_per_second=20))
    dispatch.stored(await store(connection, users(200, 5)))
    await until(lambda: len(vendor.taken) == 200)
    whole = await replays.prepare(connection, "hook", Selection())
    assert whole is not None
    replay = await replays.create(connection, "hook", Selection(), whole)
    await until(lambda: len(vendor.taken) > 210)
    assert await replays.cancel(connection, replay)
    await until(lambda: not dispatch.facts()[0]["replays"])
    taken = len(vendor.taken)
    assert taken < 390
    dispatch.stored(await store(connection, [event("m200")]))
    await until(lambda: "m200" in vendor.taken)
    assert (await replays.replay(connection, replay)).state == "cancelled"


async def test_other_settings_end_a_pause_of_its_own(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    vendor.behave = failing_with(Denied("denied", "HTTP 401"), "m0")
    first = await run()
    first.stored(await store(connection, [event("m0")]))
    await until(lambda: first.facts()[0].get("state") == "paused")
    await asyncio.sleep(1.0)
    await first.stop()
    vendor.behave = take
    second = await run()
    await until(lambda: second.facts()[0].get("state") == "paused")
    await second.stop()
    await run(hook(timeout_seconds=7.0))
    await until(lambda: vendor.taken == ["m0"])


async def test_a_row_that_somebody_deleted_is_made_again(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    dispatch = await run()
    await until(lambda: dispatch.facts()[0].get("state") == "running")
    await connection.execute("delete from collector.couriers")
    dispatch.stored(await store(connection, users(5, 5)))
    await until(lambda: len(set(vendor.taken)) == 5)


async def test_a_replay_that_cannot_be_understood_is_the_matter_of_its_destination(
    run: Runs, connection: asyncpg.Connection, vendor: Vendor
) -> None:
    VENDORS["other"] = Vendor()
    dispatch = await run(hook(), hook("other"))
    await until(lambda: all(facts.get("state") for facts in dispatch.facts()))
    await connection.execute(
        "insert into collector.couriers (destination, replay, type, first_seq, last_seq, position, "
        "filter) values ('hook', 1, 'fake', 1, 1, 0, '{\"of\": \"a later version\"}')"
    )
    await asyncio.sleep(0.3)
    await connection.execute("delete from collector.couriers where destination = 'other'")
    dispatch.stored(await store(connection, users(5, 5)))
    await until(lambda: len(set(vendor.taken)) == len(set(VENDORS["other"].taken)) == 5)


async def test_ten_idle_destinations_ask_postgres_no_more_than_one_does(
    run: Runs, connection: asyncpg.Connection, traffic: Traffic
) -> None:
    names = [f"hook{n}" for n in range(10)]
    for name in names:
        VENDORS[name] = Vendor()
    dispatch = await run(*(hook(name) for name in names))
    await until(lambda: all(facts.get("state") for facts in dispatch.facts()))
    await asyncio.sleep(1.0)
    traffic.jobs.clear()
    await asyncio.sleep(1.0)
    assert set(traffic.jobs) <= {"orders", "acquire_all", "letters"}
    assert traffic.jobs["orders"] <= 21
    traffic.jobs.clear()
    dispatch.stored(await store(connection, users(100, 5)))
    await until(lambda: all(len(VENDORS[name].taken) == 100 for name in names))
    reads = traffic.jobs["_newest"] + traffic.jobs["_fetch"]
    assert reads == 1, "they share one read"


async def test_without_destinations_nothing_runs(dsn: str, traffic: Traffic) -> None:
    dispatch = Dispatch([hook(enabled=False)], Postgres(dsn), KINDS)
    await dispatch.start()
    dispatch.stored(5)
    await asyncio.sleep(0.05)
    await dispatch.stop()
    assert not traffic.jobs
    assert dispatch.facts() == []


async def test_what_came_before_a_kill_without_postgres_is_the_new_destinations_too(
    dsn: str, connection: asyncpg.Connection, vendor: Vendor, tmp_path: Path
) -> None:
    """Its row is made by a later life; the first one wrote down when it began."""
    place = tmp_path / "destinations.json"
    await store(connection, [event("before")])
    await asyncio.sleep(0.01)
    Dispatch([hook(start="now")], Postgres(dsn), KINDS, place=place)  # and is killed
    await store(connection, [event("between")])
    await asyncio.sleep(0.01)
    later = Dispatch([hook(start="now")], Postgres(dsn), KINDS, place=place)
    await later.start()
    await store(connection, [event("after")])
    await until(lambda: len(vendor.taken) == 2)
    await later.stop()
    assert vendor.taken == ["between", "after"]
