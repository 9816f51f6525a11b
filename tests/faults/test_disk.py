"""Disks that are full, the journal's and Postgres', and a journal that may not grow any more."""

import asyncio
import time

from tests.disks import mounted
from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.disks import filled, immutable
from tests.faults.trial import Trial
from tests.proxy import Proxy

SMALL_EMBEDDED = """
[store.embedded]
shared_buffers_bytes = 16_777_216
wal_bytes_max = 67_108_864
"""


async def refused(trial: Trial, *reasons: str) -> None:
    """Wait until senders are turned away for one of these reasons; each is told to come back."""
    before = sum(trial.ledger.refusals[f"503 {reason}"] for reason in reasons)

    async def happened() -> bool:
        return sum(trial.ledger.refusals[f"503 {reason}"] for reason in reasons) > before

    await until(happened)


async def test_a_full_disk_under_the_journal_refuses_until_there_is_room(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(
        empty_dsn, JOURNAL_DISK_RESERVE_BYTES="1", JOURNAL_DISK_SHARE_MAX="1"
    )  # the whole disk, so that it is the disk that says no
    with mounted(process.data_dir / "journal", 24) as disk:
        await asyncio.to_thread(process.start)
        async with trials("journal's disk full", process) as trial:
            for _ in trial.rounds(2, 20):
                await trial.load(0.3, 1.0)
                with filled(disk):
                    await refused(trial, "journal_unwritable", "journal_full")
                    await trial.load(0.0, 1.5)
                await trial.recovers(process, time.monotonic())
        process.kill()


async def test_a_journal_that_can_make_no_file_refuses_until_it_can(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn, JOURNAL_FILE_BYTES="65536")
    await asyncio.to_thread(process.start)
    async with trials("journal's directory read-only", process, event_bytes=2000) as trial:
        for _ in trial.rounds(2, 20):
            await trial.load(0.3, 1.0)
            with immutable(process.data_dir / "journal"):
                await refused(trial, "journal_unwritable")
                await trial.load(0.0, 0.5)
            await trial.recovers(process, time.monotonic())


async def test_a_journal_at_its_cap_refuses_until_postgres_takes_events(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    async with Proxy(empty_dsn) as proxy:
        process = collectors(proxy.dsn, JOURNAL_TOTAL_BYTES_MAX="2000000")
        await asyncio.to_thread(process.start)
        async with trials("journal at its cap, Postgres away", process, event_bytes=1000) as trial:
            for _ in trial.rounds(2, 20):
                await trial.load(0.3, 1.0)
                proxy.refusing = True
                proxy.reset()
                await refused(trial, "journal_full")
                taken = (await asyncio.to_thread(process.status))["journal"]["bytes"]
                assert taken < 2_500_000
                proxy.refusing = False
                await trial.recovers(process, time.monotonic())


async def test_ingest_goes_on_while_the_disk_of_postgres_is_full(
    collectors: MakeProcess, trials: Trials
) -> None:
    process = collectors(config=SMALL_EMBEDDED)
    with mounted(process.data_dir / "postgres", 220) as disk:
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.wait_until_stored)
        async with trials("disk of the embedded Postgres full", process, event_bytes=500) as trial:
            for _ in trial.rounds(1, 10):
                await trial.load(0.3, 1.0)
                with filled(disk):

                    async def stuck() -> bool:
                        return not (await asyncio.to_thread(process.status))["store"]["up"]

                    await until(stuck)
                    await trial.ledger.probe()
                    await trial.load(0.5, 1.5)
                await trial.recovers(process, time.monotonic())
        assert trial.ledger.refusals == {}
        assert await asyncio.to_thread(process.stop) == 0
