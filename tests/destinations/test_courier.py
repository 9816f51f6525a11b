"""A courier brings every event or says in a table why not, and holds no more than it may."""

import asyncio

import asyncpg
import pytest

from collector.destinations import courier as courier_module
from collector.destinations.base import Later, Mail, Mapped, Parcel, Refused, Skipped
from collector.errors import Unreachable
from collector.store import tail as tail_module
from tests.conftest import PostgresServer
from tests.destinations.conftest import Depots
from tests.destinations.depot import Depot, away, event, except_for, failing_with, users

HUGE = f"1{'0' * 400}.5"  # a number that Postgres keeps and no float can hold


async def test_what_is_stored_is_delivered_in_batches_and_counted(hook: Depot) -> None:
    await hook.add(*users(250, 7))
    await hook.start()
    await hook.settle()
    assert hook.vendor.taken == [f"m{n}" for n in range(250)]
    assert [len(request) for request in hook.vendor.requests] == [100, 100, 50]
    assert await hook.counts() == {"delivered": 250}
    await hook.assert_books_close(pending=0)
    assert await hook.rows_ahead() == {}


async def test_what_comes_goes_at_once_and_a_light_load_is_gathered(depots: Depots) -> None:
    hook = await depots(linger_seconds=0.2)
    await hook.start()
    await hook.add(event("m1"), event("m2"))
    await hook.advance(0.1)
    assert not hook.vendor.requests
    await hook.add(event("m3"))
    await hook.advance(0.11)
    assert hook.vendor.requests == [["m1", "m2", "m3"]]


async def test_an_idle_courier_asks_postgres_nothing(hook: Depot) -> None:
    await hook.add(*users(10, 3))
    await hook.start()
    await hook.settle()
    hook.traffic.jobs.clear()
    await hook.advance(3_600.0)
    assert not hook.traffic.jobs


async def test_what_is_skipped_or_cannot_be_mapped_is_counted_with_its_reason(hook: Depot) -> None:
    def mapping(mail: Mail) -> Mapped:
        found = {"m1": Skipped("no_email"), "m2": Refused("bad_price", "a price is a number")}
        if mail.event.message_id == "m3":
            raise KeyError("a defect of the mapping")
        return found.get(mail.event.message_id) or Parcel(mail.event.message_id, mail.event, 1)

    hook.destination.mapping = mapping
    await hook.add(*users(6, 2), event("m6", type="elsewhere"))
    await hook.start()
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m4", "m5"]
    assert await hook.letters() == {"m2": "bad_price", "m3": "mapping_failed"}
    assert await hook.counts() == {
        "delivered": 3,
        "skipped:no_email": 1,
        "skipped:type_unsupported": 1,
        "refused:bad_price": 1,
        "refused:mapping_failed": 1,
    }
    await hook.assert_books_close(pending=0)


async def test_one_wanted_event_among_many_skipped_ones_is_sent(
    depots: Depots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be committed before it is sent must not keep it from being sent."""
    monkeypatch.setattr(courier_module, "UNCOMMITTED_MAX", 50)
    monkeypatch.setattr(courier_module, "READ_EVENTS", 20)
    hook = await depots(events=["Order Completed"])
    await hook.add(event("m0", event="Order Completed"), *users(200, 3, first=1))
    await hook.start()
    await hook.settle(seconds=60.0)
    assert hook.vendor.taken == ["m0"]
    assert await hook.counts() == {"delivered": 1, "skipped:event_filtered": 200}


# --- what is not there, or cannot be read ------------------------------------------------------


async def corrupt(server: PostgresServer, dsn: str, *message_ids: str) -> None:
    """Have rows that Postgres cannot give back, as a damaged page does."""
    boss = await asyncpg.connect(dsn.replace("collector@", "postgres@"))
    await boss.execute("create cast (bytea as jsonb) without function")
    await boss.execute(
        r"update collector.events set properties = '\x000000ff00'::bytea::jsonb "
        "where message_id = any($1)",
        message_ids,
    )
    await boss.close()
    connection = await asyncpg.connect(dsn)
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetch("select properties::text from collector.events")
    await connection.close()


async def test_a_row_that_cannot_be_read_is_a_dead_letter_and_its_neighbours_go(
    hook: Depot, postgres: PostgresServer, dsn: str
) -> None:
    await hook.add(*users(300, 7))
    await corrupt(postgres, dsn, "m0", "m120", "m121", "m299")
    await hook.start()
    await hook.settle()
    bad = {0, 120, 121, 299}
    assert hook.vendor.taken == [f"m{n}" for n in range(300) if n not in bad]
    assert await hook.counts() == {"delivered": 296, "refused:unreadable": 4}
    assert await hook.ask("select array_agg(seq order by seq) from collector.dead_letters") == [
        n + 1 for n in sorted(bad)
    ]
    await hook.assert_books_close(pending=0)


async def test_json_that_cannot_be_decoded_is_one_events_matter(depots: Depots) -> None:
    hook = await depots(consent=["ads"])
    await hook.add(
        event("m0"),
        event("m1", event="Order Completed", properties=f'{{"order_id": {HUGE}}}'),
        event("m2", context=f'{{"consent": {{"categoryPreferences": {{}}}}, "n": {HUGE}}}'),
        event("m3"),
    )
    await hook.start()
    await hook.settle(seconds=60.0)
    assert hook.vendor.taken == ["m0", "m3"]
    assert await hook.letters() == {"m1": "unreadable", "m2": "unreadable"}


async def test_traits_that_cannot_be_decoded_hold_up_nobody(
    hook: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hook.connection.execute(
        "insert into collector.users (user_id, traits, received_at, seq) "
        "values ('u', $1::text::jsonb, now(), 0), ('v', '{\"email\": \"v@x\"}', now(), 0)",
        f'{{"n": {HUGE}}}',
    )
    persons = {}

    def mapping(mail: Mail) -> Mapped:
        persons[mail.event.message_id] = dict(mail.person)
        return Parcel(mail.event.message_id, mail.event, 1)

    hook.destination.mapping = mapping
    monkeypatch.setattr(type(hook.destination), "reads_person", True)
    await hook.add(event("m0", "u"), event("m1", "v"), event("m2", "w"))
    await hook.start()
    await hook.settle(seconds=60.0)
    assert persons == {"m0": {}, "m1": {"email": "v@x"}, "m2": {}}


async def test_days_that_are_gone_are_counted_as_expired_however_many(hook: Depot) -> None:
    """A million events that nobody has any more are one entry, not a million."""
    await hook.add(event("m0"), event("m1"), event("m2"))
    await hook.connection.execute(
        "update collector.events set seq = seq + 1000000 where message_id <> 'm0'"
    )
    await hook.connection.execute("update collector.sequence set last = 1000003")
    hook.tail.stored(1_000_003)
    await hook.start()
    assert hook.courier.logbook.uncommitted < 10
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m1", "m2"]
    assert await hook.counts() == {"delivered": 3, "refused:expired": 1_000_000}
    assert await hook.letters() == {}
    await hook.connection.execute("truncate collector.delivery_log")  # too long to look into
    await hook.assert_books_close(pending=0)


# --- bounds ------------------------------------------------------------------------------------


async def test_it_reads_no_further_than_it_may(depots: Depots) -> None:
    hook = await depots(ahead_events_max=150)
    hook.vendor.behave = away
    await hook.add(*users(5_000, 5_000))
    await hook.start()
    await hook.advance(3.0)
    window = hook.courier.window
    assert len(window) <= 150 + window.waiting + courier_module.READ_EVENTS


async def test_large_events_are_bounded_by_their_bytes(
    hook: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "READ_BYTES", 1_000_000)
    monkeypatch.setattr(courier_module, "AHEAD_BYTES_MAX", 1_000_000)
    hook.destination.mapping = lambda mail: Parcel(
        mail.event.message_id, mail.event, mail.event.size
    )
    text = {"text": "x" * 25_000}
    await hook.add(*(event(f"m{n}", f"u{n}", properties=text) for n in range(240)))
    largest = 0

    async def look() -> None:
        nonlocal largest
        largest = max(largest, hook.courier.window.bytes)

    hook.vendor.answer = look
    await hook.start()
    await hook.settle()
    assert sorted(hook.vendor.seen.elements()) == sorted(f"m{n}" for n in range(240))
    assert 1_000_000 <= largest < 3_500_000
    assert max(map(len, hook.vendor.requests)) == 17, "450,000 bytes a batch"


async def test_too_many_that_wait_stop_the_reading_which_says_so_and_goes_on_later(
    depots: Depots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "READ_EVENTS", 20)
    hook = await depots(waiting_events_max=50, ahead_events_max=20, retry_seconds_max=60.0)
    first = {f"m{n}": Later("throttled", "not this one now") for n in range(200)}
    hook.vendor.behave = except_for(first)
    await hook.add(*users(300, 300))
    await hook.start()
    await hook.advance(10.0)
    assert hook.courier.stalled
    row = await hook.row()
    assert (row["state"], row["reason"]) == ("running", "too_many_waiting")
    assert 50 <= hook.courier.window.tried <= 90
    await hook.assert_books_close()
    first.clear()
    await hook.settle(seconds=200.0)
    row = await hook.row()
    assert (row["state"], row["reason"]) == ("running", None)
    assert set(hook.vendor.taken) == {f"m{n}" for n in range(300)}
    await hook.assert_books_close(pending=0)


async def test_one_that_all_others_wait_behind_expires_as_any_other(
    depots: Depots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with many events, the first of which fails for ever: nobody is left to pass."""
    monkeypatch.setattr(courier_module, "READ_EVENTS", 20)
    hook = await depots(waiting_events_max=50, retry_window_seconds=600.0, retry_seconds_max=60.0)
    hook.vendor.behave = failing_with(Unreachable("unavailable", "503"), "m1")
    await hook.add(event("m0", "other"), *(event(f"m{n}", "one") for n in range(1, 4)))
    await hook.start()
    for n in range(20):  # others pass for a while, and then there is only he
        await hook.add(event(f"o{n}", f"o{n}"))
        await hook.advance(5.0)
    await hook.add(*(event(f"m{n}", "one") for n in range(4, 200)))
    await hook.settle(seconds=4_000.0, step=10.0)
    assert await hook.letters() == {"m1": "expired"}
    assert [key for key in hook.vendor.taken if key.startswith("m")][1:] == [
        f"m{n}" for n in range(2, 200)
    ]
    await hook.assert_books_close(pending=0)


# --- pause -------------------------------------------------------------------------------------


async def order(hook: Depot, state: str, reason: str | None = None) -> None:
    """What a person does."""
    await hook.connection.execute(
        "update collector.couriers set state = $1, reason = $2 where replay = 0", state, reason
    )
    await hook.obey()


async def test_a_pause_by_hand_lets_what_is_under_way_end_and_nothing_begin(hook: Depot) -> None:
    answers = asyncio.Event()
    hook.vendor.answer = answers.wait
    await hook.start()
    await hook.add(*users(150, 150))
    await hook.advance(0.2)
    assert len(hook.vendor.requests) == 1
    await order(hook, "paused", "by_hand")
    answers.set()
    await hook.advance(3_600.0)
    assert len(hook.vendor.requests) == 1
    await hook.assert_books_close(pending=50)
    assert await hook.counts() == {"delivered": 100}
    await order(hook, "running")
    await hook.settle(seconds=5.0)
    assert len(hook.vendor.taken) == 150
    await hook.assert_books_close(pending=0)


async def test_a_pause_outlives_a_crash(hook: Depot) -> None:
    await hook.start()
    await order(hook, "paused", "by_hand")
    await hook.crash()
    await hook.add(event("m0"))
    await hook.start()
    await hook.advance(60.0)
    assert not hook.vendor.requests
    await order(hook, "running")
    await hook.settle(seconds=5.0)
    assert hook.vendor.taken == ["m0"]


async def test_who_stops_waits_for_what_is_under_way_and_writes_it_down(hook: Depot) -> None:
    answers = asyncio.Event()
    hook.vendor.answer = answers.wait
    await hook.add(*users(10, 3))
    await hook.start()
    await hook.advance(0.2)
    stopping = asyncio.create_task(hook.courier.stop(5.0))
    await hook.advance(0.0)
    assert not stopping.done()
    answers.set()
    await stopping
    await hook.crash()
    assert await hook.counts() == {"delivered": 10}
    await hook.assert_books_close(pending=0)


async def test_what_is_delivered_before_a_stop_does_not_come_again_after_it(hook: Depot) -> None:
    """Also where an earlier batch was not sent any more."""
    courier = await hook.start()
    courier.hold(held=False)
    await hook.add(*users(40, 40))
    await hook.advance(1.0)
    batch = courier.window.take(hook.clock.now(), 5, 1_000)  # as another sender does
    courier.hold(held=True)
    await hook.until(lambda: len(hook.vendor.taken) == 35)
    courier.hold(held=False)
    for item in batch:
        courier.window.restore(item)
    await courier.stop(5.0)
    await hook.crash()
    await hook.assert_books_close(pending=5)
    await hook.start()
    await hook.settle()
    assert set(hook.vendor.seen.values()) == {1}
    assert len(hook.vendor.taken) == 40
    await hook.assert_books_close(pending=0)


async def test_without_the_lease_nothing_is_sent(hook: Depot) -> None:
    await hook.start()
    hook.courier.hold(held=False)
    await hook.add(*users(10, 3))
    await hook.advance(60.0)
    assert not hook.vendor.requests
    hook.courier.hold(held=True)
    await hook.settle(seconds=5.0)
    assert len(hook.vendor.taken) == 10
