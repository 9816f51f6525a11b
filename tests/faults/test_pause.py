"""Stopped in the middle of work: SIGSTOP and SIGCONT, and SIGTERM, which asks to end well."""

import asyncio
import os
import signal
import time

import pytest

from tests.faults.conftest import MakeProcess, Trials
from tests.faults.processes import family, postmaster
from tests.process import CollectorProcess

END_SECONDS_MAX = 40.0  # what systemd gives it is 90


async def test_a_collector_that_is_stopped_for_a_while_goes_on(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn)
    await asyncio.to_thread(process.start)
    async with trials("SIGSTOP and SIGCONT of the collector", process) as trial:
        for _ in trial.rounds(1, 20):
            await trial.load(0.2, 1.0)
            process.signal(signal.SIGSTOP)
            await trial.load(0.5, 3.0)
            process.signal(signal.SIGCONT)
            await trial.recovers(process, time.monotonic())


async def test_ingest_goes_on_while_postgres_is_stopped(
    collectors: MakeProcess, trials: Trials, stopped: list[int]
) -> None:
    process = collectors()
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("SIGSTOP and SIGCONT of the embedded Postgres", process) as trial:
        for _ in trial.rounds(1, 20):
            await trial.load(0.2, 1.0)
            stopped[:] = family(postmaster(process))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            await trial.ledger.probe()  # 200 all the same
            await trial.load(0.5, 3.0)
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            await trial.recovers(process, time.monotonic())


async def ends(process: CollectorProcess) -> None:
    """SIGTERM: it ends well, and soon."""
    began = time.monotonic()
    process.signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, END_SECONDS_MAX) == 0, process.output()
    assert time.monotonic() - began < END_SECONDS_MAX


@pytest.mark.parametrize(
    "embedded",
    [pytest.param(True, marks=pytest.mark.long, id="embedded"), pytest.param(False, id="external")],
)
async def test_a_collector_that_is_told_to_end_under_load_ends_and_loses_nothing(
    collectors: MakeProcess, trials: Trials, empty_dsn: str, embedded: bool
) -> None:
    process = collectors("" if embedded else empty_dsn)
    await asyncio.to_thread(process.start)
    name = "embedded" if embedded else "another's"
    async with trials(f"SIGTERM under load, Postgres is {name}", process) as trial:
        for _ in trial.rounds(1, 20):
            await trial.load(0.3, 1.5)
            await ends(process)
            since = time.monotonic()
            await asyncio.to_thread(process.start, wait=False)
            await trial.recovers(process, since)


async def test_a_collector_that_is_told_to_end_while_it_starts_ends_and_loses_nothing(
    collectors: MakeProcess, trials: Trials
) -> None:
    """In the middle of initdb, of the migration, of recovery: wherever the dice have it."""
    process = collectors(STORE_DRAIN_SECONDS="1")
    await asyncio.to_thread(process.start)
    async with trials("SIGTERM during start, migration, recovery", process) as trial:
        for number in trial.rounds(1, 40):
            await trial.load(0.0, 1.5)
            if number % 2:
                await ends(process)
            else:
                process.kill()
            await asyncio.to_thread(process.start)
            await trial.load(0.0, 1.5)
            await ends(process)
            since = time.monotonic()
            await asyncio.to_thread(process.start, wait=False)
            await trial.recovers(process, since)
