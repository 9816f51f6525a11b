"""The machine's clock set back and forward while the collector runs; skips without libfaketime."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.conftest import MakeProcess, Trials

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
JUMPS = ("-2d", "+2d", "+0", "-90", "+1h", "+0")  # from the real time; the last one is right again


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
            clock.write_text(JUMPS[number % len(JUMPS)])
            await trial.load(1.2, 1.5)  # it is looked at once a second
            await trial.recovers(process, time.monotonic())
        clock.write_text("+0")
    (found,) = await process.rows(
        "select min(received_at) < now() - interval '1 day' as back from collector.events"
    )
    assert found["back"]  # the clock really was set
    assert trial.ledger.refusals == {}
