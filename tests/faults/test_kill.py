"""kill -9 at random moments under load: the collector, its Postgres, both."""

import asyncio
import time

import pytest

from tests.faults.conftest import MakeProcess, Trials
from tests.faults.processes import children, kill, postmaster
from tests.faults.trial import Trial
from tests.process import CollectorProcess


async def again(trial: Trial, process: CollectorProcess) -> None:
    """Start it again; sometimes it is killed once more while it starts, migrates or recovers."""
    while True:
        since = time.monotonic()
        await asyncio.to_thread(process.start, wait=False)
        if trial.dice.random() < 0.75:
            break
        await trial.load(0.0, 2.0)
        process.kill()
    await trial.recovers(process, since)


async def test_a_collector_that_is_killed_at_any_moment_loses_nothing(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn)
    await asyncio.to_thread(process.start)
    async with trials("kill -9 of the collector", process) as trial:
        for _ in trial.rounds(5, 200):
            await trial.load(0.0, 1.0)
            process.kill()
            await again(trial, process)


async def test_a_postgres_that_is_killed_at_any_moment_loses_nothing(
    collectors: MakeProcess, trials: Trials
) -> None:
    process = collectors()
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("kill -9 of the embedded Postgres", process) as trial:
        for _ in trial.rounds(2, 50):
            await trial.load(0.0, 1.0)
            while not kill(postmaster(process)):
                await asyncio.sleep(0.01)
            await trial.recovers(process, time.monotonic())


async def test_a_process_of_postgres_that_is_killed_at_any_moment_loses_nothing(
    collectors: MakeProcess, trials: Trials
) -> None:
    process = collectors()
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("kill -9 of any process of the embedded Postgres", process) as trial:
        for _ in trial.rounds(2, 50):
            await trial.load(0.0, 1.0)
            while not kill(trial.dice.choice(children(postmaster(process)) or [0])):
                await asyncio.sleep(0.01)
            await trial.recovers(process, time.monotonic())


@pytest.mark.parametrize("first", ["collector", pytest.param("postgres", marks=pytest.mark.long)])
async def test_a_collector_and_its_postgres_that_are_killed_together_lose_nothing(
    collectors: MakeProcess, trials: Trials, first: str
) -> None:
    process = collectors()
    await asyncio.to_thread(process.start)
    async with trials(f"kill -9 of both, the {first} first", process) as trial:
        for _ in trial.rounds(2, 25):
            await trial.load(0.0, 1.5)
            if first == "postgres":
                kill(postmaster(process))
                process.kill()
            else:
                found = postmaster(process)
                process.kill()
                kill(found)
            await again(trial, process)
