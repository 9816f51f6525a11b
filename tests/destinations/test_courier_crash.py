"""After a crash in any state and with Postgres away, nothing is lost or counted twice."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.destinations import courier as courier_module
from collector.destinations.base import TAKEN, Later, Outcome, Parcel, Refused
from collector.errors import Ambiguous, Denied, TooLarge, Unacceptable, Unreachable
from collector.store.deliveries import Fenced
from tests.destinations.conftest import Depots
from tests.destinations.depot import Depot, Traffic, except_for, take, users
from tests.proxy import Link, Proxy

PERSONS = 7


class Moody:
    """A vendor that does anything, but takes or refuses every event in the end."""

    def __init__(self, seed: int, hook: Depot) -> None:
        self.dice = random.Random(seed)
        self.hook = hook
        self.calm = False

    def __call__(self, batch: list[Parcel]) -> list[Outcome]:
        bad = {parcel.key for parcel in batch if int(parcel.key[1:]) % 17 == 5}
        mood = "calm" if self.calm else self.dice.choice(MOODS)
        if mood == "away":
            raise Unreachable("unavailable", "not now")
        if mood == "limited":
            raise Unreachable("rate_limited", "not now", seconds=self.dice.random() * 20)
        if mood == "ambiguous":
            raise Ambiguous("server_error", "no answer")
        if mood == "large" and len(batch) > 3:
            raise TooLarge("at most 3")
        if mood == "denied":
            raise Denied("denied", "HTTP 401")
        if mood == "defect":
            raise KeyError("a defect")
        if bad and (mood == "whole" or self.dice.random() < 0.5):
            raise Unacceptable("refused", "something in it")
        later = 0.3 if mood == "items" else 0.0
        return [
            Refused("refused", "no")
            if parcel.key in bad
            else Later("throttled", "not now")
            if self.dice.random() < later
            else TAKEN
            for parcel in batch
        ]

    async def answer(self) -> None:
        await self.hook.clock.sleep(self.dice.choice([0.0, 0.0, 0.1, 1.0]))


MOODS = ["fine"] * 4 + ["items"] * 3
MOODS += ["away", "limited", "ambiguous", "large", "denied", "whole", "defect"]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32),
    strict=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(["crash", "crash", "events", "time", "resume"]), st.floats(0, 8)),
        min_size=6,
        max_size=14,
    ),
)
async def test_whatever_happens_the_sum_is_right_and_every_event_was_seen(
    depots: Depots, seed: int, strict: bool, steps: list[tuple[str, float]]
) -> None:
    hook = await depots(
        on_ambiguous="dead_letter" if strict else "retry",
        concurrency=1 + seed % 3,
        batch_events_max=6,
        retry_seconds_max=5.0,
        events_except=["F"],
    )
    await hook.connection.execute(
        "truncate collector.couriers, collector.deliveries, collector.delivery_counts, "
        "collector.delivery_log, collector.dead_letters, collector.claims, collector.events; "
        "update collector.sequence set last = 0"
    )
    moody = Moody(seed, hook)
    hook.vendor.behave, hook.vendor.answer = moody, moody.answer  # type: ignore[assignment]
    events = 60
    await hook.add(*users(events, PERSONS))
    await hook.start()
    for step, seconds in [*steps, ("time", 1.0)]:
        if step == "events":
            more = users(15, PERSONS, first=events)
            more[moody.dice.randrange(15)]["event"] = "F"  # which is skipped
            await hook.add(*more)
            events += 15
        elif step == "crash":
            await hook.crash()
            await hook.start()
        elif step == "resume":
            await resume(hook)
        await hook.advance(seconds)
        await hook.assert_books_close()
    moody.calm = True
    for _ in range(3):
        await resume(hook)
        await hook.advance(15.0)
    await hook.settle()
    await hook.assert_books_close(pending=0)
    counts, letters = await hook.counts(), await hook.letters()
    skipped = counts.pop("skipped:event_filtered", 0)
    assert sum(counts.values()) == events - skipped
    seen = set(hook.vendor.seen)
    assert len(seen) == events - skipped, "every event was seen, each with one key"
    refused = {key for key, reason in letters.items() if reason == "refused"}
    assert refused | {k for k, reason in letters.items() if reason == "ambiguous"} == set(letters)
    assert {key for key in seen if int(key[1:]) % 17 == 5} >= refused
    assert set(hook.vendor.taken) | set(letters) == seen
    if strict:
        assert max(hook.vendor.taken.count(key) for key in seen) == 1, "none was taken twice"
    assert await hook.rows_ahead() == {}
    await hook.close()


async def resume(hook: Depot) -> None:
    await hook.connection.execute("update collector.couriers set state = 'running', reason = null")
    await hook.obey()


# --- what is ahead of the cursor ---------------------------------------------------------------


async def test_what_is_done_ahead_stays_done_while_an_earlier_one_is_tried_again(
    depots: Depots,
) -> None:
    """And if that is when we are killed, those ahead are neither sent nor counted again."""
    hook = await depots(retry_seconds_max=5.0)
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now")})
    await hook.add(*users(50, 50))
    await hook.start()
    await hook.advance(3.0)
    hook.vendor.answer = lambda: hook.clock.sleep(30.0)
    await hook.until(lambda: hook.vendor.under_way)
    await hook.add(*users(20, 20, first=50))
    await hook.advance(2.0)
    await hook.assert_books_close(pending=21)
    assert await hook.rows_ahead() == {1: "waiting", 2: "done"}
    await hook.crash()
    hook.vendor.answer, hook.vendor.behave = None, take
    await hook.start()
    await hook.settle()
    assert await hook.counts() == {"delivered": 70}
    assert {key: n for key, n in hook.vendor.seen.items() if n > 1 and key != "m0"} == {}
    await hook.assert_books_close(pending=0)


async def test_what_is_done_ahead_stays_done_through_two_crashes_in_a_row(
    depots: Depots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes before the first part of it has been read again."""
    hook = await depots(retry_seconds_max=5.0)
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now")})
    await hook.add(*users(300, 300))
    await hook.start()
    await hook.advance(3.0)
    assert await hook.rows_ahead() == {1: "waiting", 2: "done"}
    monkeypatch.setattr(courier_module, "READ_EVENTS", 10)
    for _ in range(3):
        await hook.crash()
        read = hook.tail.read
        reads = 0

        async def a_few(after: int, events_max: int) -> Any:
            nonlocal reads
            reads += 1
            if reads > 4:
                await asyncio.Event().wait()
            return await read(after, events_max)  # noqa: B023

        hook.tail.read = a_few  # type: ignore[method-assign]
        await hook.start()
        await hook.advance(10.0)
        await hook.assert_books_close(pending=1)
        hook.tail.read = read  # type: ignore[method-assign]
    hook.vendor.behave = take
    await hook.crash()
    await hook.start()
    await hook.settle()
    assert {key: n for key, n in hook.vendor.seen.items() if n > 1 and key != "m0"} == {}
    assert await hook.counts() == {"delivered": 300}
    await hook.assert_books_close(pending=0)


# --- fencing -----------------------------------------------------------------------------------


async def test_one_that_was_taken_over_commits_nothing_more(hook: Depot) -> None:
    await hook.add(*users(10, 5))
    answers = asyncio.Event()
    hook.vendor.answer = answers.wait
    older = await hook.start()
    await hook.advance(0.2)
    hook.epoch += 1
    await hook.connection.execute("update collector.couriers set epoch = $1", hook.epoch)
    answers.set()
    await hook.advance(3.0)
    assert hook.ended()
    assert older.logbook.position == 0
    assert await hook.counts() == {}
    hook.epoch -= 1
    await hook.start()  # with the epoch that has it
    await hook.settle()
    assert await hook.counts() == {"delivered": 10}


async def test_an_older_epoch_cannot_open_what_a_newer_one_has(hook: Depot) -> None:
    await hook.start()
    await hook.crash()
    hook.epoch = -1
    await hook.start()
    assert hook.ended()


async def test_two_of_one_epoch_are_told_apart_by_what_they_wrote(hook: Depot) -> None:
    """As when a task that was given up wakes up: the later one has it."""
    first = await hook.start()
    hook.epoch -= 1
    task = hook._tasks.pop(0)
    await hook.start()
    await hook.add(*users(5, 5))
    await hook.advance(3.0)
    assert task.done(), "the first was fenced by its first commit"
    assert first.logbook.position == 0
    assert await hook.counts() == {"delivered": 5}
    await hook.assert_books_close(pending=0)


# --- Postgres away -----------------------------------------------------------------------------


async def test_backends_that_are_ended_again_and_again_cost_nothing(hook: Depot) -> None:
    await hook.start()
    for n in range(12):
        await hook.add(*users(20, 7, first=n * 20))
        await hook.advance(0.3)
        await hook.connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where pid <> pg_backend_pid() and datname = current_database()"
        )
        await hook.advance(0.4)
    await hook.settle()
    assert await hook.counts() == {"delivered": 240}
    assert set(hook.vendor.seen.values()) == {1}, "nobody was restarted"
    hook.assert_in_order(7)
    await hook.assert_books_close(pending=0)


@pytest.mark.parametrize("fate", ["arrives", "is lost"])
async def test_a_commit_in_doubt_counts_once(depots: Depots, dsn: str, fate: str) -> None:
    """The connection breaks at COMMIT: it was made, or it was not."""
    async with Proxy(dsn) as proxy:
        hook = await depots(through=proxy.dsn)
        await hook.add(*users(30, 7))
        broken = 0

        def on_commit(link: Link) -> bool:
            nonlocal broken
            if not hook.vendor.taken or broken >= 4:
                return False
            broken += 1
            if fate == "is lost":
                link.reset()
            return False

        def on_answer(link: Link) -> bool:
            nonlocal broken
            if fate == "arrives" and hook.vendor.taken and broken < 4:
                broken += 1
                link.reset()
                return True
            return False

        proxy.on_commit = on_commit if fate == "is lost" else None
        proxy.on_answer = on_answer
        await hook.start()
        await hook.settle()
        await hook.add(*users(30, 7, first=30))
        await hook.settle()
        assert broken >= 2
        assert await hook.counts() == {"delivered": 60}
        assert set(hook.vendor.seen.values()) == {1}
        await hook.assert_books_close(pending=0)


async def test_while_postgres_is_away_no_more_is_sent_than_may_be_sent_again(
    depots: Depots, dsn: str, traffic: Traffic
) -> None:
    async with Proxy(dsn) as proxy:
        hook = await depots(through=proxy.dsn)
        await hook.add(*users(30, 7))
        await hook.start()
        await hook.settle()
        proxy.refusing = True
        proxy.reset()
        await hook.add(*users(30, 7, first=30))
        await hook.advance(60.0)
        assert len(hook.vendor.taken) == 30, "what cannot be read cannot be sent"
        proxy.refusing = False
        await hook.settle(seconds=10.0)
        assert await hook.counts() == {"delivered": 60}
        await hook.assert_books_close(pending=0)


async def test_a_stop_that_postgres_cuts_short_leaves_the_sum_right(depots: Depots) -> None:
    """What was settled is either counted or sent again, never passed by."""
    hook = await depots()
    await hook.add(*users(30, 7))
    await hook.start()
    await hook.advance(0.2)
    assert len(hook.vendor.taken) == 30
    do = hook.books.do

    async def hangs(job: Any, *arguments: Any) -> Any:
        if job.__name__ == "commit":
            await asyncio.Event().wait()
        return await do(job, *arguments)

    hook.books.do = hangs  # type: ignore[method-assign]
    await hook.courier.stop(0.05)
    hook.books.do = do  # type: ignore[method-assign]
    await hook.advance(5.0)  # its own commit has another go before it is ended
    await hook.crash()
    await hook.assert_books_close(pending=0)
    assert await hook.counts() == {"delivered": 30}


async def test_a_commit_is_refused_with_a_revision_that_is_not_the_last(hook: Depot) -> None:
    courier = await hook.start()
    courier.logbook.revision += 5
    courier.logbook.settled(0, "delivered")
    with pytest.raises(Fenced):
        await courier._commit()
