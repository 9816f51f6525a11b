"""What a vendor does not take is found out alone, waits, comes back, or is a dead letter."""

from collections import Counter

import pytest

from collector.destinations.base import TAKEN, Later, Parcel, Refused
from collector.errors import Ambiguous, Denied, TooLarge, Unacceptable, Unreachable
from collector.store import deliveries
from tests.destinations.conftest import Depots
from tests.destinations.depot import (
    HOUR,
    Depot,
    away,
    event,
    except_for,
    failing_with,
    hang_up,
    in_turn,
    take,
    users,
)

UNACCEPTABLE = Unacceptable("refused", "HTTP 400: something in it")


async def test_outcomes_are_those_of_each_event(hook: Depot) -> None:
    outcomes = {"m1": Refused("bad_email", "no"), "m3": Later("throttled", "not now", 50.0)}
    hook.vendor.behave = except_for(outcomes)
    await hook.add(*users(6, 6))
    await hook.start()
    await hook.advance(5.0)
    assert hook.vendor.taken == ["m0", "m2", "m4", "m5"]
    assert await hook.letters() == {"m1": "bad_email"}
    assert await hook.rows_ahead() == {4: "waiting", 5: "done"}
    await hook.assert_books_close(pending=1)
    del outcomes["m3"]
    assert 44.0 <= await hook.until(lambda: "m3" in hook.vendor.taken) <= 46.0, "as it asked"
    await hook.settle()
    await hook.assert_books_close(pending=0)
    assert await hook.rows_ahead() == {}


async def test_of_a_refused_batch_only_the_bad_one_is_given_up(hook: Depot) -> None:
    hook.vendor.behave = failing_with(UNACCEPTABLE, "m37")
    await hook.add(*users(100, 100))
    await hook.start()
    await hook.settle(seconds=5.0)
    assert sorted(hook.vendor.taken) == sorted({f"m{n}" for n in range(100)} - {"m37"})
    assert await hook.letters() == {"m37": "refused"}
    assert len(hook.vendor.requests) <= 15
    assert await hook.counts() == {"delivered": 99, "refused:refused": 1}
    assert await hook.ask("select max(attempts) from collector.delivery_log") == 1


async def test_too_large_a_batch_is_halved_until_it_fits(hook: Depot) -> None:
    def behave(batch: list[Parcel]) -> list[object]:
        if sum(30 if parcel.key == "m5" else 1 for parcel in batch) > 20:
            raise TooLarge("at most 20")
        return [TAKEN] * len(batch)

    hook.vendor.behave = behave  # type: ignore[assignment]
    await hook.add(*users(50, 50))
    await hook.start()
    await hook.settle(seconds=5.0)
    assert len(hook.vendor.taken) == 49
    assert await hook.letters() == {"m5": "too_large"}


async def test_a_bisect_that_is_broken_off_begins_again_and_loses_nothing(hook: Depot) -> None:
    """The vendor goes away in the middle of it, and we do, too."""
    bad = failing_with(UNACCEPTABLE, "m7")
    hook.vendor.behave = in_turn(bad, bad, away, away, away, away, away, bad, bad, away, bad)
    await hook.add(*users(16, 3))
    await hook.start()
    await hook.advance(1.0)
    await hook.crash()
    await hook.start()
    await hook.settle()
    assert await hook.letters() == {"m7": "refused"}
    assert set(hook.vendor.taken) == {f"m{n}" for n in range(16)} - {"m7"}
    hook.assert_in_order(3)
    await hook.assert_books_close(pending=0)


# --- away --------------------------------------------------------------------------------------


@pytest.mark.parametrize("behave", [away, hang_up])
async def test_a_vendor_that_is_away_for_long_costs_nobody_anything(
    depots: Depots, behave: object
) -> None:
    """Five hours, a window of a few minutes: nothing expires, and a minute later all are there."""
    hook = await depots(retry_window_seconds=HOUR / 10, batch_events_max=5, concurrency=3)
    await hook.add(*users(10, 5))
    await hook.start()
    await hook.settle()
    hook.vendor.behave = behave  # type: ignore[assignment]
    await hook.add(*users(40, 5, first=10))
    await hook.advance(HOUR)
    row = await hook.row()
    assert (row["state"], row["reason"]) == ("running", "away")
    assert row["last_error"]
    await hook.advance(4 * HOUR)
    assert len(hook.vendor.requests) < 5 * 150, "about two requests a minute"
    # It comes back with a hiccup: what waited for hours must not count as having failed for them.
    hook.vendor.behave = in_turn(take, behave, take)  # type: ignore[arg-type]
    assert await hook.until(lambda: len(set(hook.vendor.taken)) == 50) < 70.0
    await hook.settle()
    assert await hook.letters() == {}
    assert await hook.counts() == {"delivered": 50}
    await hook.assert_books_close(pending=0)
    assert (await hook.row())["reason"] is None
    if behave is away:
        hook.assert_in_order(5)


async def test_nothing_expires_over_a_pause(depots: Depots) -> None:
    hook = await depots(retry_window_seconds=600.0)
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now")})
    await hook.add(*users(3, 3))
    await hook.start()
    await hook.advance(1.0)
    hook.courier.obey("paused", hook.courier.logbook.revision)
    await hook.advance(60 * HOUR)
    hook.courier.obey("running", hook.courier.logbook.revision)
    await hook.add(event("m3", "u3"))
    await hook.advance(5.0)
    assert await hook.letters() == {}
    hook.vendor.behave = take
    await hook.settle(seconds=700.0)
    assert await hook.counts() == {"delivered": 4}


async def test_an_event_that_fails_while_others_pass_expires_alone(depots: Depots) -> None:
    hook = await depots(retry_window_seconds=1_000.0, batch_events_max=10)
    hook.vendor.behave = failing_with(Unreachable("unavailable", "HTTP 503"), "m3")
    await hook.add(*users(20, 20))
    await hook.start()
    for n in range(20, 400):
        await hook.add(event(f"m{n}", f"u{n}"))
        await hook.advance(30.0)
        if await hook.letters():
            break
    assert await hook.letters() == {"m3": "expired"}
    assert set(hook.vendor.taken) == {f"m{k}" for k in range(n + 1)} - {"m3"}
    assert (n - 20) * 30.0 > 1_000.0
    with_it = [request for request in hook.vendor.requests if "m3" in request]
    assert all(request == ["m3"] for request in with_it[5:]), "it goes by itself before long"
    assert (await hook.row())["reason"] is None, "one bad event is not the vendor's absence"
    await hook.settle()
    await hook.assert_books_close(pending=0)


async def test_how_long_an_event_has_failed_is_remembered_over_a_crash(depots: Depots) -> None:
    hook = await depots(retry_window_seconds=300.0, retry_seconds_max=20.0)
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now")})
    await hook.add(event("m0", "u0"))
    await hook.start()
    passed = 0.0
    for n in range(1, 400):
        await hook.add(event(f"m{n}", f"u{n}"))
        await hook.advance(10.0)
        passed += 10.0
        if n % 10 == 0:
            await hook.crash()
            await hook.advance(HOUR)  # which does not count
            await hook.start()
        if await hook.letters():
            break
    assert await hook.letters() == {"m0": "expired"}
    assert 250.0 < passed < 900.0
    await hook.settle()
    await hook.assert_books_close(pending=0)


async def test_retry_after_is_honoured_by_all_that_send(depots: Depots) -> None:
    hook = await depots(concurrency=4, batch_events_max=5)
    limited = Unreachable("rate_limited", "HTTP 429", seconds=120.0)
    hook.vendor.behave = in_turn(take, failing_with(limited, *(f"m{n}" for n in range(99))), take)
    await hook.add(*users(40, 40))
    await hook.start()
    await hook.settle(seconds=200.0)
    limited_at = hook.vendor.at[1]
    later = [at - limited_at for at in hook.vendor.at[4:]]
    assert later
    assert all(seconds >= 120.0 for seconds in later), later
    assert set(hook.vendor.taken) == {f"m{n}" for n in range(40)}
    await hook.assert_books_close(pending=0)


async def test_no_more_requests_go_than_the_vendor_allows(depots: Depots) -> None:
    hook = await depots(
        rate_per_second=2.0, rate_burst=3, batch_events_max=1, concurrency=4, linger_seconds=0.0
    )
    await hook.add(*users(23, 23))
    await hook.start()
    began = hook.clock.now()
    await hook.settle(step=0.25)
    assert 9.5 <= max(hook.vendor.at) - began <= 11.0
    assert len([at for at in hook.vendor.at if at - began <= 0.1]) == 3


async def test_what_is_too_old_for_the_vendor_is_not_sent(hook: Depot) -> None:
    hook.destination.mapping = lambda mail: Parcel(
        mail.event.message_id, mail.event, 1, age_seconds_max=HOUR
    )
    hook.vendor.behave = away
    await hook.add(*users(10, 10))
    await hook.start()
    await hook.advance(HOUR / 2)
    assert await hook.letters() == {}
    await hook.advance(HOUR)
    await hook.settle()
    assert set((await hook.letters()).values()) == {"too_old"}
    assert len(await hook.letters()) == 10
    await hook.assert_books_close(pending=0)


async def test_the_last_one_waiting_does_not_wait_out_its_own_delay(hook: Depot) -> None:
    """What is away is tried each minute, however seldom its events would be tried."""
    hook.vendor.behave = away
    await hook.add(event("m0"))
    await hook.start()
    await hook.advance(2 * HOUR)
    hook.vendor.behave = take
    assert await hook.until(lambda: hook.vendor.taken) <= 60.0


async def test_an_event_that_the_vendor_wants_later_is_not_tried_sooner(hook: Depot) -> None:
    hook.vendor.behave = except_for({"m0": Later("throttled", "in an hour", HOUR)})
    await hook.add(*users(2, 2))
    await hook.start()
    await hook.advance(1.0)
    hook.vendor.behave = away
    await hook.add(event("m2", "u2"))
    await hook.advance(600.0)
    hook.vendor.behave = take
    await hook.advance(600.0)
    assert hook.vendor.taken == ["m1", "m2"]
    assert HOUR - 1_300.0 < await hook.until(lambda: "m0" in hook.vendor.taken) < HOUR - 1_150.0


# --- paused by the vendor ----------------------------------------------------------------------


async def test_refused_credentials_pause_it_and_burn_nothing(hook: Depot) -> None:
    hook.vendor.behave = in_turn(
        take, failing_with(Denied("denied", "HTTP 401"), *(f"m{n}" for n in range(200, 600)))
    )
    await hook.add(*users(600, 50))
    await hook.start()
    await hook.advance(24 * HOUR)
    row = await hook.row()
    assert (row["state"], row["reason"]) == ("paused", "denied")
    assert row["since"] is not None
    requests = len(hook.vendor.requests)
    assert requests == 3
    assert await hook.counts() == {"delivered": 200}
    await hook.crash()
    await hook.start()
    await hook.advance(HOUR)
    assert len(hook.vendor.requests) == requests, "paused it stays"
    hook.vendor.behave = take
    await deliveries.configured(hook.connection, "hook", "")  # started with the same settings
    await hook.obey()
    await hook.advance(HOUR)
    assert len(hook.vendor.requests) == requests
    await deliveries.configured(hook.connection, "hook", "another token")
    await hook.obey()
    await hook.settle(seconds=10.0)
    assert await hook.counts() == {"delivered": 600}
    assert await hook.ask("select max(attempts) from collector.delivery_log") == 1
    await hook.assert_books_close(pending=0)


async def test_a_person_lets_it_go_on_and_is_not_overruled_by_what_was_read_before(
    hook: Depot,
) -> None:
    hook.vendor.behave = failing_with(Denied("denied", "HTTP 403"), "m0")
    await hook.start()
    before = hook.courier.logbook.revision
    await hook.add(event("m0"))
    await hook.advance(0.3)
    hook.courier.obey("running", before)  # the row as it was before the pause was written
    assert hook.courier.paused
    await hook.advance(5.0)
    hook.courier.obey("running", before)
    assert hook.courier.paused
    hook.vendor.behave = take
    await hook.connection.execute("update collector.couriers set state = 'running', reason = null")
    await hook.obey()
    await hook.settle(seconds=5.0)
    assert hook.vendor.taken == ["m0"]


async def test_a_pause_by_hand_is_not_ended_by_other_settings(hook: Depot) -> None:
    await hook.start()
    await hook.connection.execute(
        "update collector.couriers set state = 'paused', reason = 'by_hand'"
    )
    await deliveries.configured(hook.connection, "hook", "other settings")
    assert (await hook.row())["state"] == "paused"


async def test_a_vendor_that_refuses_everything_is_paused(depots: Depots) -> None:
    hook = await depots(refused_in_a_row_max=20, batch_events_max=5)
    hook.vendor.behave = lambda batch: [Refused("invalid", "no such field")] * len(batch)
    await hook.add(*users(200, 200))
    await hook.start()
    await hook.advance(HOUR)
    row = await hook.row()
    assert (row["state"], row["reason"]) == ("paused", "refuses_everything")
    assert await hook.counts() == {"refused:invalid": 20}
    await hook.assert_books_close(pending=180)


async def test_refusals_among_events_that_are_taken_pause_nothing(depots: Depots) -> None:
    hook = await depots(refused_in_a_row_max=20, batch_events_max=5)
    hook.vendor.behave = lambda batch: [Refused("invalid", "no"), *[TAKEN] * (len(batch) - 1)]
    await hook.add(*users(200, 200))
    await hook.start()
    await hook.settle()
    assert await hook.counts() == {"delivered": 160, "refused:invalid": 40}


# --- sent, and no answer -----------------------------------------------------------------------


@pytest.fixture
async def strict(depots: Depots) -> Depot:
    return await depots(on_ambiguous="dead_letter", concurrency=4, batch_events_max=5)


async def test_by_default_it_is_sent_again_with_the_same_key(hook: Depot) -> None:
    def lost(batch: list[Parcel]) -> list[object]:
        raise Ambiguous("server_error", "no answer")

    hook.vendor.behave = in_turn(lost, take)  # type: ignore[arg-type]
    await hook.add(*users(3, 3))
    await hook.start()
    await hook.settle()
    assert hook.vendor.requests == [["m0", "m1", "m2"]] * 2 or Counter(
        hook.vendor.seen
    ) == dict.fromkeys(["m0", "m1", "m2"], 2)
    assert await hook.counts() == {"delivered": 3}


async def test_where_a_resend_would_count_twice_it_is_a_dead_letter(strict: Depot) -> None:
    strict.vendor.behave = in_turn(take, hang_up, take)
    await strict.add(*users(15, 15))
    await strict.start()
    await strict.settle()
    assert strict.vendor.under_way_max == 1, "one after the other"
    assert await strict.letters() == {f"m{n}": "ambiguous" for n in range(5, 10)}
    assert set(strict.vendor.seen.values()) == {1}
    assert await strict.counts() == {"delivered": 10, "refused:ambiguous": 5}
    await strict.assert_books_close(pending=0)


async def test_one_that_answers_nobody_gets_a_few_and_then_one_at_a_time(strict: Depot) -> None:
    strict.vendor.behave = hang_up
    await strict.add(*users(500, 500))
    await strict.start()
    await strict.advance(HOUR / 4)
    assert 25 < len(await strict.letters()) < 25 + 50
    assert [len(request) for request in strict.vendor.requests[5:]] == [1] * (
        len(strict.vendor.requests) - 5
    )


@pytest.mark.parametrize("answered", [False, True])
async def test_after_a_crash_nothing_is_sent_that_may_have_arrived(
    strict: Depot, answered: bool
) -> None:
    """Killed while it waits for the answer, or with the answer and before it was written down."""
    await strict.add(*users(12, 3))
    if answered:
        write = strict.books.do

        async def no_more(job: object, *arguments: object) -> object:
            if getattr(job, "__name__", "") == "commit" and strict.vendor.requests:
                raise Unreachable("postgres_away", "no")
            return await write(job, *arguments)  # type: ignore[arg-type]

        strict.books.do = no_more  # type: ignore[assignment]
    else:
        strict.vendor.answer = lambda: strict.clock.sleep(1e9)
    await strict.start()
    await strict.advance(3.0)
    assert strict.vendor.requests == [[f"m{n}" for n in range(5)]]
    await strict.crash()
    strict.vendor.answer = None
    if answered:
        strict.books.do = write  # type: ignore[method-assign]
    await strict.start()
    await strict.settle()
    assert set(strict.vendor.seen.values()) == {1}
    assert await strict.letters() == {f"m{n}": "ambiguous" for n in range(5)}
    assert await strict.counts() == {"delivered": 7, "refused:ambiguous": 5}
    await strict.assert_books_close(pending=0)


async def test_what_was_marked_and_not_sent_is_sent_after_a_crash(strict: Depot) -> None:
    """The mark is taken back: also of those behind another event of the same person."""
    strict.vendor.behave = failing_with(Denied("denied", "HTTP 401"), "m0")
    await strict.add(*users(6, 1))
    await strict.start()
    await strict.advance(5.0)
    assert (await strict.row())["reason"] == "denied"
    assert "sending" not in (await strict.rows_ahead()).values()
    await strict.crash()
    strict.vendor.behave = take
    await strict.connection.execute("update collector.couriers set state = 'running'")
    await strict.start()
    await strict.settle()
    assert strict.vendor.taken == [f"m{n}" for n in range(6)]
    assert await strict.letters() == {}


async def test_a_defect_of_a_destination_is_logged_and_tried_again(
    hook: Depot, caplog: pytest.LogCaptureFixture
) -> None:
    hook.vendor.behave = in_turn(
        failing_with(ZeroDivisionError("a defect"), "m0"), lambda batch: [TAKEN], take
    )
    await hook.add(*users(3, 3))
    await hook.start()
    await hook.settle()
    assert await hook.counts() == {"delivered": 3}
    assert "A destination failed inside the collector" in caplog.text
