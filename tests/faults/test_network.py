"""A network that is slow, cut or reset, and several collectors on one Postgres."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.conftest import MakeProcess, Trials
from tests.faults.ledger import following, stored_ids
from tests.proxy import Proxy


@pytest.fixture
async def proxy(empty_dsn: str) -> AsyncIterator[Proxy]:
    """In front of an empty database."""
    async with Proxy(empty_dsn) as made:
        yield made


async def test_a_slow_network_to_postgres_delays_and_loses_nothing(
    collectors: MakeProcess, trials: Trials, proxy: Proxy
) -> None:
    process = collectors(proxy.dsn)
    await asyncio.to_thread(process.start)
    async with trials("network to Postgres slow (50 ms each way)", process) as trial:
        for _ in trial.rounds(1, 20):
            proxy.delay_seconds = 0.05
            await trial.load(1.0, 3.0)
            proxy.delay_seconds = 0.0
            await trial.recovers(process, time.monotonic())
    assert trial.ledger.refusals == {}


async def test_a_network_that_is_cut_or_reset_at_any_moment_loses_nothing(
    collectors: MakeProcess, trials: Trials, proxy: Proxy
) -> None:
    """In the middle of COPY, of COMMIT, or of its answer: wherever the dice have it."""
    process = collectors(proxy.dsn, STORE_BATCH_SECONDS_MAX="3")
    await asyncio.to_thread(process.start)
    async with trials("network to Postgres cut, then reset", process) as trial:
        for number in trial.rounds(4, 100):
            await trial.load(0.1, 0.8)
            if number % 2:
                proxy.cut()
                await trial.load(0.0, 1.5)
            proxy.reset()
            proxy.heal()
            await trial.recovers(process, time.monotonic())
    assert trial.ledger.refusals == {}
    assert trial.ledger.breaks == 0


async def test_two_collectors_store_together_while_one_is_killed(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    """What was sent to one is sent again to the other; a reader behind them misses nothing."""
    both = [collectors(empty_dsn), collectors(empty_dsn)]
    await asyncio.gather(*(asyncio.to_thread(process.start) for process in both))
    await asyncio.gather(*(asyncio.to_thread(process.wait_until_stored) for process in both))
    async with following(empty_dsn) as seen:
        async with trials("kill -9 of one of two collectors", *both) as trial:
            for number in trial.rounds(2, 50):
                await trial.load(0.2, 1.0)
                process = both[number % 2]
                process.kill()
                await trial.load(0.0, 0.5)  # the other one has all of the load
                since = time.monotonic()
                await asyncio.to_thread(process.start)
                await trial.recovers(process, since)
        stored = await stored_ids(empty_dsn)
        async with asyncio.timeout(10):
            while len(seen) < len(stored):
                await asyncio.sleep(0.05)
    assert seen == stored
