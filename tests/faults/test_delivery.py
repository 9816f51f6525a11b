"""
Delivery under faults: every stored event reaches each destination that may have it, in order per
person, with the same key each time, and the books say what became of it.

Two webhooks stand for all destinations: `one` is sent events one by one, over four connections,
`many` is sent batches. Where a thousand events a second go to ten destinations, all are sent
batches: ten thousand requests a second would measure HTTP, on both sides.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg
import pytest

from tests.conftest import PostgresServer
from tests.faults import deliveries
from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.deliveries import Delivered, Fault, configured, destination, reconcile, summary
from tests.faults.ledger import AUTHORIZED, assert_books_close
from tests.faults.processes import family, kill, postmaster
from tests.faults.receiver import Receiver
from tests.faults.trial import Form, Trial
from tests.process import CollectorProcess
from tests.rawhttp import Wire, encode

Receivers = Callable[[], Receiver]

# What arrived this long before a kill does not come again: commits are half a second apart, and a
# slow machine takes its time over one.
AGAIN_SECONDS_MAX = 5.0
LEASE_SECONDS = 10.0  # of a destination: so long nobody delivers to it after a kill
TAKEN_OVER_SECONDS_MAX = (
    LEASE_SECONDS + 10.0
)  # the others ask every 2.5 s; the rest is a slow machine
HANDED_OVER_SECONDS_MAX = 8.0  # after SIGTERM: well within the lease
LIVE_SECONDS = 1.0  # from the moment when an event was received until it has arrived
LOAD = {"pause_seconds": 0.2}  # about 200 events a second: sent one by one, they just keep up


def two(receiver: Receiver, manner: str = "take") -> list[dict[str, Any]]:
    """A destination that is sent one event at a time, and one that is sent batches."""
    return [
        destination("one", receiver.url("one", manner), timeout_seconds=2.0),
        destination("many", receiver.url("many", manner), timeout_seconds=2.0, batch=True),
    ]


async def started(process: CollectorProcess, *names: str) -> None:
    """Start *process*, and wait until its destinations have begun."""
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    dsn = process.dsn or await asyncio.to_thread(process.embedded_dsn)
    await deliveries.registered(dsn, names)


async def arrives(receiver: Receiver, name: str, id_: str, seconds: float = 60.0) -> None:
    """Wait until *id_* has arrived."""

    async def arrived() -> bool:
        return receiver.has(name, id_)

    await until(arrived, seconds)


async def resumes(receiver: Receiver, since: float) -> float:
    """Seconds from *since* until something arrives that was not under way then, for both."""

    async def arrived() -> bool:
        return all(receiver.latest(name) > since + 0.5 for name in ("one", "many"))

    await until(arrived)
    return time.time() - since


async def delivers(trial: Trial, receiver: Receiver, since: float) -> float:
    """Seconds from *since* until an event that is acknowledged now has arrived."""
    id_ = await trial.ledger.probe()
    for name in ("one", "many"):
        await arrives(receiver, name, id_)
    return time.monotonic() - since


# --- the collector -------------------------------------------------------------------------------


async def test_a_collector_that_is_killed_while_it_delivers_loses_nothing(
    collectors: MakeProcess,
    trials: Trials,
    receivers: Receivers,
    delivered: list[Delivered],
    empty_dsn: str,
) -> None:
    receiver = receivers()
    process = collectors(empty_dsn, **configured(*two(receiver, "late")))
    await started(process, "one", "many")
    faults, times = [], []
    async with trials("kill -9 of the collector", process, **LOAD) as trial:
        for _ in trial.rounds(2, 100):
            await trial.load(0.0, 2.0)
            at = time.time()
            process.kill()
            faults.append(Fault(at, time.time() + 0.5))  # what the receiver had not read yet
            since = time.monotonic()
            await asyncio.to_thread(process.start, wait=False)
            times.append(await delivers(trial, receiver, since))
    arrived = await reconcile(empty_dsn, receiver, "one", "many")
    oldest = deliveries.oldest_again(arrived.values(), faults)
    note = f"what came again had arrived at most {oldest:.2f} s before the kill"
    delivered.append(summary(trial.fault, trial.done, arrived.values(), max(times), note))
    assert oldest < AGAIN_SECONDS_MAX


@pytest.mark.parametrize(
    "way", ["kill", "end", pytest.param("stop", marks=pytest.mark.long, id="stop")]
)
async def test_another_collector_takes_over_from_one_that_is_gone(
    collectors: MakeProcess,
    trials: Trials,
    receivers: Receivers,
    delivered: list[Delivered],
    empty_dsn: str,
    way: str,
) -> None:
    """Killed: when its lease is over. Told to end: at once, and nothing comes again."""
    receiver = receivers()
    settings = configured(*two(receiver))
    both = [collectors(empty_dsn, **settings), collectors(empty_dsn, **settings)]
    for process in both:
        await started(process, "one", "many")
    title = {
        "kill": "kill -9 of one of two collectors",
        "end": "SIGTERM to one of two collectors",
        "stop": "SIGSTOP of one of two collectors, SIGCONT later",
    }[way]
    faults, times = [], []
    async with trials(title, *both, **LOAD) as trial:
        await delivers(trial, receiver, 0.0)
        for _ in trial.rounds(1, 20):
            await trial.load(0.5, 1.5)
            gone = await holder(both, "one")
            at = since = time.time()
            if way == "kill":
                gone.kill()
            elif way == "stop":
                gone.signal(signal.SIGSTOP)
                trial.ledger.ports.remove(gone.port)
            else:
                gone.signal(signal.SIGTERM)
                assert await asyncio.to_thread(gone.wait) == 0, gone.output()
                since = time.time()
            times.append(await resumes(receiver, since))
            await delivers(trial, receiver, 0.0)
            if way == "stop":
                await trial.load(0.0, 2.0)
                gone.signal(signal.SIGCONT)
                trial.ledger.ports.append(gone.port)
            else:
                await asyncio.to_thread(gone.start)
            faults.append(Fault(at, time.time() + 2.0))
    arrived = await reconcile(empty_dsn, receiver, "one", "many")
    oldest = deliveries.oldest_again(arrived.values(), faults)
    delivered.append(summary(trial.fault, trial.done, arrived.values(), max(times)))
    if way == "end":
        assert not any(what.again for what in arrived.values())
        assert max(times) < HANDED_OVER_SECONDS_MAX
    else:
        assert oldest < AGAIN_SECONDS_MAX
        assert max(times) < TAKEN_OVER_SECONDS_MAX


async def holder(processes: Sequence[CollectorProcess], name: str) -> CollectorProcess:
    """The one of *processes* that delivers to the destination *name*."""
    found: list[CollectorProcess] = []

    async def known() -> bool:
        for process in processes:
            facts = (await asyncio.to_thread(process.status))["destinations"]
            if any(one["name"] == name and one["here"] for one in facts):
                found.append(process)
        return bool(found)

    await until(known)
    return found[0]


# --- a chain of collectors -----------------------------------------------------------------------


@pytest.fixture
async def other_dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """Another database with nothing in it."""
    name = f"test_{os.getpid()}_next"
    await postgres.execute(f"create database {name} owner collector")
    yield postgres.dsn(name)
    await postgres.execute(f"drop database {name} with (force)")


async def times_of(dsn: str) -> dict[str, tuple[datetime, datetime | None]]:
    """When each event happened, and when its sender says that it did; no id is there twice."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select message_id, timestamp, original_timestamp from collector.events"
        )
    finally:
        await connection.close()
    found = {row["message_id"]: (row["timestamp"], row["original_timestamp"]) for row in rows}
    assert len(found) == len(rows), "stored twice"
    return found


async def test_two_collectors_in_a_chain_lose_nothing_while_either_is_killed(
    collectors: MakeProcess,
    trials: Trials,
    delivered: list[Delivered],
    empty_dsn: str,
    other_dsn: str,
) -> None:
    """What comes again is known there by its id; times are those of the first one."""
    second = collectors(other_dsn)
    onward = {
        "type": "segment", "name": "onward", "write_key": "demo",
        "endpoint": f"{second.url}/v1/batch", "private_addresses": ["127.0.0.0/8"],
        "retry_seconds_min": 0.2, "retry_seconds_max": 2.0, "timeout_seconds": 5.0,
    }  # fmt: skip
    first = collectors(empty_dsn, **configured(onward))
    await asyncio.to_thread(second.start)
    await started(first, "onward")
    times = []
    ahead = 3_600.0  # the senders' clock is wrong; what the first one made of it stands
    async with trials(
        "kill -9 of either of two in a chain", first, ahead_seconds=ahead, **LOAD
    ) as trial:
        for number in trial.rounds(2, 100):
            await trial.load(0.0, 2.0)
            process = (first, second)[number % 2]
            process.kill()
            since = time.monotonic()
            await asyncio.to_thread(process.start, wait=False)
            id_ = await trial.ledger.probe()

            async def there(id_: str = id_) -> bool:
                return id_ in await times_of(other_dsn)

            await until(there)
            times.append(time.monotonic() - since)
    await deliveries.settled(empty_dsn, ["onward"])
    status = await asyncio.to_thread(second.wait_until_stored)
    sent, kept = await times_of(empty_dsn), await times_of(other_dsn)
    assert set(sent) == trial.ledger.acknowledged
    assert set(kept) == set(sent)
    # An event without a time of its own has that of its arrival, which the second one is told.
    wrong = {
        id_: (at, original, kept[id_])
        for id_, (at, original) in sent.items()
        if kept[id_] != (at, original or at)
    }
    assert not wrong, dict(list(wrong.items())[:3])
    assert sum(original is not None for _, original in sent.values()) > len(sent) / 2
    assert_books_close(status)
    resent = sum(row["duplicate"] for row in status["store"]["sources"])
    delivered.append(
        Delivered(
            trial.fault, trial.done, 1, len(sent), len(kept), len(set(sent) - set(kept)), 0,
            resent, max(times), "what came again was known by its id, and is stored once",
        )
    )  # fmt: skip


# --- Postgres, and the vendor --------------------------------------------------------------------


async def test_a_postgres_that_is_killed_or_hangs_while_events_are_delivered_loses_nothing(
    collectors: MakeProcess,
    trials: Trials,
    receivers: Receivers,
    delivered: list[Delivered],
    stopped: list[int],
) -> None:
    """The collector remembers what was settled, so that next to nothing comes again."""
    receiver = receivers()
    process = collectors(**configured(*two(receiver)))
    await started(process, "one", "many")
    faults, times = [], []
    title = "kill -9, or SIGSTOP and SIGCONT, of Postgres"
    async with trials(title, process, **LOAD) as trial:
        for number in trial.rounds(2, 50):
            await trial.load(0.3, 2.0)
            at = time.time()
            if number % 2 == 0:
                while not kill(postmaster(process)):
                    await asyncio.sleep(0.01)
            else:
                stopped[:] = family(postmaster(process))
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                await trial.load(0.5, 3.0)
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            times.append(await delivers(trial, receiver, time.monotonic()))
            faults.append(Fault(at, time.time()))
        dsn = await asyncio.to_thread(process.embedded_dsn)
    arrived = await reconcile(dsn, receiver, "one", "many")
    deliveries.oldest_again(arrived.values(), faults)
    delivered.append(summary(trial.fault, trial.done, arrived.values(), max(times)))


@pytest.mark.parametrize("way", ["is down", "hangs"])
async def test_a_vendor_that_is_away_gets_everything_when_it_is_back(
    collectors: MakeProcess,
    trials: Trials,
    receivers: Receivers,
    delivered: list[Delivered],
    empty_dsn: str,
    way: str,
) -> None:
    """What it took without saying so comes again, with the same key; nothing overtakes."""
    receiver = receivers()
    process = collectors(empty_dsn, **configured(*two(receiver)))
    await started(process, "one", "many")
    faults, times = [], []
    async with trials(f"the vendor {way}", process, **LOAD) as trial:
        for _ in trial.rounds(1, 30):
            await trial.load(0.3, 1.5)
            at = time.time()
            receiver.hang() if way == "hangs" else receiver.kill()
            await trial.load(2.2, 3.2)
            receiver.go_on() if way == "hangs" else receiver.start()
            times.append(await delivers(trial, receiver, time.monotonic()))
            faults.append(Fault(at, time.time()))
    assert trial.ledger.refusals == {}
    arrived = await reconcile(empty_dsn, receiver, "one", "many")
    deliveries.oldest_again(arrived.values(), faults)
    delivered.append(summary(trial.fault, trial.done, arrived.values(), max(times)))


# --- ten destinations ----------------------------------------------------------------------------

RATE = 1_000  # events a second
GOOD = tuple(f"good{number}" for number in range(7))
REFUSED_MAX = 200  # in a row, then it is paused


class Steady:
    """RATE events a second of 1.2 KB for so long, in requests of 50 over four connections."""

    events = 50
    users = 2_000

    def __init__(self, name: str, port: int, seconds: float) -> None:
        self.name = name
        self._port = port
        self._requests = int(seconds * RATE / self.events)
        self.sent = 0
        self.slowest = 0.0

    async def run(self) -> None:
        connections = 4
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._work(number, connections, began) for number in range(4)))

    async def _work(self, first: int, step: int, began: float) -> None:
        loop = asyncio.get_running_loop()
        async with await Wire.open(self._port) as wire:
            for number in range(first, self._requests, step):
                due = began + number * self.events / RATE
                await asyncio.sleep(max(0.0, due - loop.time()))
                sent_at = loop.time()
                await wire.send(self._request(number))
                answer = await wire.answer()
                assert answer.status == 200, answer
                self.slowest = max(self.slowest, loop.time() - sent_at)
                self.sent += self.events

    def _request(self, number: int) -> bytes:
        first = number * self.events
        events = [
            {"type": "track", "event": "E", "messageId": f"{self.name}-{index}",
             "userId": f"u{index * 7 % self.users}", "properties": {"filling": "x" * 900}}
            for index in range(first, first + self.events)
        ]  # fmt: skip
        return encode("POST", "/v1/batch", AUTHORIZED, json.dumps({"batch": events}).encode())


async def test_of_ten_destinations_three_that_fail_delay_none_of_the_others(
    collectors: MakeProcess,
    receivers: Receivers,
    delivered: list[Delivered],
    form: Form,
    empty_dsn: str,
) -> None:
    """Measured beside the same load just before, when all ten were well."""
    seconds = 20.0 if form.long else 4.0
    receiver, hanging = receivers(), receivers()
    process = collectors(
        empty_dsn,
        **configured(
            *(destination(name, receiver.url(name), batch=True) for name in GOOD),
            destination("hanging", hanging.url("hanging"), batch=True, timeout_seconds=2.0),
            destination(
                "refusing",
                receiver.url("refusing", "refuse"),
                batch=True,
                refused_in_a_row_max=REFUSED_MAX,
            ),
            destination(
                "slow",
                receiver.url("slow", "slow"),
                batch=True,
                concurrency=1,
                batch_events_max=300,
            ),
        ),
    )
    await started(process, *GOOD, "hanging", "refusing", "slow")
    well = Steady("well", process.port, seconds)
    await well.run()
    await deliveries.settled(empty_dsn, [*GOOD, "hanging", "refusing", "slow"])
    hanging.hang()
    receiver.fail()
    ill = Steady("ill", process.port, seconds)
    await ill.run()
    await deliveries.settled(empty_dsn, GOOD)  # the others are not waited for
    found = await deliveries.books(empty_dsn)
    assert found["hanging"].pending > 0
    assert (found["refusing"].state, found["refusing"].reason) == ("paused", "refuses_everything")
    assert found["refusing"].refused == found["refusing"].letters > 0
    assert "A destination is paused" in process.output()
    hanging.go_on()
    arrived = await reconcile(empty_dsn, receiver, *GOOD, "slow")
    arrived |= await reconcile(empty_dsn, hanging, "hanging")
    deliveries.assert_sums(await deliveries.books(empty_dsn))
    assert not any(arrived[name].again for name in GOOD)
    before, after = (lateness(receiver, load.name) for load in (well, ill))
    note = (
        f"{RATE:,} events/s for {seconds:g} s; the seven others had 99 of 100 events "
        f"{after.usual:.2f} s after they were received, all after {after.worst:.2f} s; "
        f"when all ten were well {before.usual:.2f} and {before.worst:.2f} s"
    )
    delivered.append(
        summary(
            "one of ten hangs, one refuses, one is slow", 1, arrived.values(), after.worst, note
        )
    )
    assert well.sent == ill.sent == int(seconds * RATE)
    # A machine that others use as well is late by itself: then the three must not add to it.
    limit = max(LIVE_SECONDS, 2 * before.usual)
    assert (after.usual if form.long else after.middle) < limit, note


class Lateness(NamedTuple):
    """Seconds from when an event was received until it arrived."""

    middle: float  # half of the events, at the destination where it took longest
    usual: float  # 99 of 100
    worst: float


def lateness(receiver: Receiver, load: str) -> Lateness:
    """How late the events of *load* were at those destinations that were well."""
    middle = usual = worst = 0.0
    for name in GOOD:
        waits = sorted(
            arrival.at - arrival.received_at
            for arrival in receiver.arrivals(name)
            if arrival.id.startswith(f"{load}-")
        )
        middle = max(middle, waits[len(waits) // 2])
        usual = max(usual, waits[len(waits) * 99 // 100])
        worst = max(worst, waits[-1])
    return Lateness(middle, usual, worst)
