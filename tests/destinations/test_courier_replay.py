"""A replay brings what is chosen once more, beside live delivery and slower, and ends."""

import asyncio

import pytest

from collector.destinations.base import Later, Refused
from collector.errors import Unreachable
from collector.store import tail as tail_module
from collector.store.desk import deadletters
from collector.store.desk.deadletters import Letters
from collector.store.selection import Selection
from tests.conftest import PostgresServer
from tests.destinations.conftest import Depots
from tests.destinations.depot import Depot, event, except_for, failing_with, in_turn, take, users
from tests.destinations.test_courier import corrupt
from tests.destinations.test_courier_order import order


async def delivered(hook: Depot, events: int = 100) -> None:
    """So many events of ten users were delivered, and forgotten by the vendor."""
    await hook.add(*users(events, 10))
    await hook.start()
    await hook.settle()
    hook.vendor.taken.clear()
    hook.vendor.requests.clear()
    hook.vendor.at.clear()


async def ended(hook: Depot, replay: int, seconds: float = 600.0) -> None:
    await hook.until(lambda: hook.ended(replay), seconds)


async def test_what_was_chosen_is_sent_once_more_with_the_same_keys(hook: Depot) -> None:
    await delivered(hook)
    chosen = Selection(message_ids=[f"m{n}" for n in range(20, 30)])
    replay = await hook.replay(chosen)
    await hook.start(replay, chosen)
    await ended(hook, replay)
    assert hook.vendor.taken == [f"m{n}" for n in range(20, 30)]
    row = await hook.row(replay)
    assert (row["state"], row["position"], row["settled_ahead"]) == ("done", 100, 0)
    assert await hook.counts(replay) == {"delivered": 10}
    assert await hook.counts() == {"delivered": 100}, "live delivery has its own"
    await hook.assert_books_close(pending=0)


async def test_live_events_go_on_at_full_speed_and_the_replay_at_its_own(depots: Depots) -> None:
    hook = await depots(replay_rate_per_second=20)
    await delivered(hook)
    replay = await hook.replay(Selection())
    began = hook.clock.now()
    await hook.start(replay)
    for n in range(100, 140):
        await hook.add(event(f"m{n}", f"v{n}"))
        await hook.advance(0.25)
        assert f"m{n}" in hook.vendor.taken, "live"
    await ended(hook, replay)
    sent = [
        at - began
        for at, keys in zip(hook.vendor.at, hook.vendor.requests, strict=True)
        for key in keys
        if int(key[1:]) < 100
    ]
    assert len(sent) == 100
    assert sent[-1] >= 4.0
    for n in range(8):
        assert len([at for at in sent if n / 2 <= at < n / 2 + 1]) <= 45
    await hook.settle()
    await hook.assert_books_close(pending=0)


@pytest.mark.parametrize("crashes", [1, 5])
async def test_a_replay_goes_on_where_it_was_after_a_crash(depots: Depots, crashes: int) -> None:
    hook = await depots(replay_rate_per_second=10, retry_seconds_max=2.0)
    await delivered(hook, 60)
    hook.vendor.behave = except_for({"m3": Later("throttled", "no")})
    replay = await hook.replay(Selection())
    await hook.start(replay)
    for _ in range(crashes):
        await hook.advance(1.3)
        await hook.crash(replay)
        await hook.start(replay)
    hook.vendor.behave = take
    await ended(hook, replay)
    assert set(hook.vendor.taken) == {f"m{n}" for n in range(60)}
    assert len(hook.vendor.taken) <= 60 + crashes * 20
    assert await hook.counts(replay) == {"delivered": 60}
    assert await hook.rows_ahead() == {}


async def test_a_span_without_anything_chosen_is_passed_by(
    hook: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "SPAN", 7)
    await delivered(hook)
    chosen = Selection(message_ids=["m0", "m99"])
    replay = await hook.replay(chosen)
    await hook.start(replay, chosen)
    await ended(hook, replay)
    assert hook.vendor.taken == ["m0", "m99"]


async def test_a_replay_ends_where_it_was_told_to(hook: Depot) -> None:
    await delivered(hook)
    replay = await hook.replay(Selection(), first=11, last=20)
    await hook.add(*users(10, 10, first=100))
    await hook.start(replay)
    await ended(hook, replay)
    replayed = [key for key in hook.vendor.taken if int(key[1:]) < 100]
    assert replayed == [f"m{n}" for n in range(10, 20)]


async def test_it_is_not_over_before_what_waits_is_settled(hook: Depot) -> None:
    await delivered(hook)
    hook.vendor.behave = except_for({"m99": Later("throttled", "not now", 50.0)})
    replay = await hook.replay(Selection())
    await hook.start(replay)
    await hook.advance(20.0)
    assert not hook.ended(replay)
    assert (await hook.row(replay))["state"] == "running"
    hook.vendor.behave = take
    await ended(hook, replay)
    assert (await hook.row(replay))["state"] == "done"


async def test_what_was_left_out_or_refused_is_counted_for_the_replay(hook: Depot) -> None:
    await delivered(hook, 10)
    hook.vendor.behave = except_for({"m3": Refused("bad_email", "no")})
    replay = await hook.replay(Selection())
    await hook.start(replay)
    await ended(hook, replay)
    assert await hook.counts(replay) == {"delivered": 9, "refused:bad_email": 1}
    assert await hook.letters() == {"m3": "bad_email"}


async def test_an_order_that_was_sent_may_be_replayed(hook: Depot) -> None:
    await hook.add(order("m0"), order("m1"))
    await hook.start()
    await hook.settle()
    replay = await hook.replay(Selection())
    await hook.start(replay)
    await ended(hook, replay)
    assert hook.vendor.taken == ["m0", "m0"]
    assert await hook.counts(replay) == {"delivered": 1, "skipped:already_sent": 1}


async def test_a_dead_letter_that_is_delivered_after_all_is_none_any_more(hook: Depot) -> None:
    bad = {f"m{n}": Refused("bad_email", "no") for n in (3, 5, 7)}
    hook.vendor.behave = except_for(bad)
    await hook.add(*users(10, 10))
    await hook.start()
    await hook.settle()
    assert set(await hook.letters()) == set(bad)
    del bad["m3"], bad["m5"]
    retry = await deadletters.retry(hook.connection, Letters(destination="hook"))
    replay = retry.replays[0].replay
    await hook.start(replay, Selection(dead_letters=True))
    await ended(hook, replay)
    assert set(hook.vendor.requests[-1]) == {"m3", "m5", "m7"}
    assert await hook.letters() == {"m7": "bad_email"}
    assert await hook.ask("select retry from collector.dead_letters") is None
    await hook.assert_books_close(pending=0)


async def test_a_cancelled_replay_stays_cancelled(hook: Depot) -> None:
    """Its last commit does not overrule the person."""
    await delivered(hook)
    replay = await hook.replay(Selection())
    await hook.start(replay)
    await hook.connection.execute(
        "update collector.couriers set state = 'cancelled' where replay = $1", replay
    )
    await ended(hook, replay)
    assert (await hook.row(replay))["state"] == "cancelled"


# --- conditions --------------------------------------------------------------------------------


async def test_a_condition_that_fails_pauses_the_replay_and_says_why(hook: Depot) -> None:
    """It works on the events it was tried on, and not on an older one."""
    await hook.add(
        event("m0", properties={"n": "1"}),
        event("m1", properties={"n": "two"}),
        event("m2", properties={"n": "3"}),
    )
    await hook.start()
    await hook.settle()
    chosen = Selection(where="(e.properties->>'n')::int > 0")
    replay = await hook.replay(chosen)
    await hook.start(replay, chosen)
    await hook.advance(60.0)
    row = await hook.row(replay)
    assert (row["state"], row["reason"]) == ("paused", "bad_where")
    assert "invalid input syntax" in row["detail"]
    jobs = hook.traffic.jobs["_select"]
    await hook.advance(600.0)
    assert hook.traffic.jobs["_select"] == jobs, "it is not tried again and again"
    await hook.connection.execute(
        "update collector.events set properties = '{\"n\": \"2\"}' where message_id = 'm1'"
    )
    await hook.connection.execute(
        "update collector.couriers set state = 'running', reason = null where replay = $1", replay
    )
    await hook.obey(replay)
    await ended(hook, replay)
    assert hook.vendor.taken[3:] == ["m0", "m1", "m2"]


async def test_a_row_that_cannot_be_read_is_told_from_a_condition_that_fails(
    hook: Depot, postgres: PostgresServer, dsn: str
) -> None:
    await delivered(hook, 50)
    await corrupt(postgres, dsn, "m20")
    chosen = Selection(where="e.type = 'track'")
    replay = await hook.replay(chosen)
    await hook.start(replay, chosen)
    await ended(hook, replay)
    assert await hook.counts(replay) == {"delivered": 49, "refused:unreadable": 1}


async def test_a_slow_condition_holds_up_no_live_event(hook: Depot) -> None:
    await delivered(hook, 10)
    chosen = Selection(where="pg_sleep(0.5) is not null and e.seq = 1")
    replay = await hook.replay(chosen)
    starting = asyncio.create_task(hook.start(replay, chosen))
    await asyncio.sleep(0.3)
    before = asyncio.get_running_loop().time()
    await hook.add(event("m10"))
    chunk = await hook.tail.read(10, 100)
    assert [one.message_id for one in chunk.events] == ["m10"]
    assert asyncio.get_running_loop().time() - before < 1.0
    assert not hook.vendor.requests
    await hook.connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(0.5)%' "
        "and pid <> pg_backend_pid()"
    )
    await hook.crash(replay) if starting.done() else starting.cancel()


async def test_a_paused_destination_pauses_its_replays_from_the_start(hook: Depot) -> None:
    await delivered(hook)
    replay = await hook.replay(Selection())
    starting = hook.start(replay)
    hook.vendor.behave = in_turn(failing_with(Unreachable("unavailable", "no"), "m0"), take)
    await starting
    hook.couriers[replay].obey("paused", hook.couriers[replay].logbook.revision)
    requests = len(hook.vendor.requests)
    await hook.advance(600.0)
    assert len(hook.vendor.requests) == requests
    hook.couriers[replay].obey("running", hook.couriers[replay].logbook.revision)
    await ended(hook, replay)
    assert len(set(hook.vendor.taken)) == 100
