"""The machine's clock set back and forward while the collector runs; skips without libfaketime."""

import asyncio
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.faults.conftest import MakeProcess, Trials, until
from tests.process import CollectorProcess
from tests.rawhttp import encode, exchange

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
JUMPS = (-172_800, 172_800, 0, -90, 3_600, 0)  # seconds from the real time


async def clock_is_off(process: CollectorProcess) -> float:
    """By how much, as its answers say."""
    answer = await exchange(process.port, encode("GET", "/health"))
    return parsedate_to_datetime(answer.header("Date") or "").timestamp() - time.time()


@pytest.mark.skipif(not LIBRARIES, reason="no libfaketime: apt-get install faketime")
async def test_a_clock_that_is_set_loses_nothing(
    collectors: MakeProcess,
    trials: Trials,
    empty_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Back by days, forward by days, back by a little; Postgres' clock stays."""
    clock = tmp_path / "clock"
    clock.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(LIBRARIES[-1]))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
    monkeypatch.setenv("FAKETIME_CACHE_DURATION", "1")
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")  # nobody can set that one
    process = collectors(empty_dsn)
    monkeypatch.undo()
    await asyncio.to_thread(process.start)
    async with trials("clock set back and forward", process) as trial:
        for number in trial.rounds(1, 30):
            await trial.load(0.3, 0.8)
            jump = JUMPS[number % len(JUMPS)]
            clock.write_text(f"{jump:+d}")

            async def jumped(jump: int = jump) -> bool:
                return abs(await clock_is_off(process) - jump) < 10

            await until(jumped)
            await trial.load(0.3, 0.5)
            await trial.recovers(process, time.monotonic())
        clock.write_text("+0")
    (found,) = await process.rows(
        "select min(received_at) < now() - interval '1 day' as back from collector.events"
    )
    assert found["back"]  # the clock really was set
    assert trial.ledger.refusals == {}
