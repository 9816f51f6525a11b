"""
A journal that is damaged behind the collector's back: said, counted, and the road goes on.

What stood in the damaged place is gone, and the books say how many events that were. Nothing is
sent twice here, so that they can be compared event by event.
"""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.disks import journals
from tests.faults.trial import Trial
from tests.process import CollectorProcess
from tests.proxy import Proxy

Damage = Callable[[list[Path], random.Random], None]


@pytest.fixture
async def proxy(empty_dsn: str) -> AsyncIterator[Proxy]:
    """In front of an empty database, and away at first."""
    async with Proxy(empty_dsn) as made:
        made.refusing = True
        yield made


def cut(files: list[Path], dice: random.Random) -> None:
    """Cut one in the middle."""
    file = files[dice.randrange(len(files) - 1)]
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def empty(files: list[Path], dice: random.Random) -> None:
    """Leave nothing in one, not even its header."""
    files[dice.randrange(len(files) - 1)].write_bytes(b"")


def delete(files: list[Path], dice: random.Random) -> None:
    """Remove two that are not the newest."""
    for file in dice.sample(files[:-1], 2):
        file.unlink()


def flip(files: list[Path], dice: random.Random) -> None:
    """Flip single bits all over the place, in headers too."""
    for file in files[:-1]:
        data = bytearray(file.read_bytes())
        for _ in range(3):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        data[dice.randrange(16)] ^= 1
        with file.open("r+b") as opened:
            opened.write(data)


def damages(*short: Damage) -> pytest.MarkDecorator:
    """All of them in the long form, and *short* in the short one."""
    return pytest.mark.parametrize(
        "damage",
        [
            pytest.param(damage, marks=[] if damage in short else pytest.mark.long)
            for damage in (cut, empty, delete, flip)
        ],
    )


async def fill(trial: Trial, process: CollectorProcess) -> None:
    """Let events pile up in several new files, all acknowledged; then the load pauses."""
    before = len(journals(process.data_dir))

    async def several() -> bool:
        return len(journals(process.data_dir)) >= before + 7

    await until(several)
    await trial.ledger.finish()


def lost_frames(process: CollectorProcess) -> float:
    return process.metrics()["collector_journal_lost_frames_total"]


@damages(delete, flip)
async def test_files_damaged_while_the_collector_is_stopped_are_read_past_and_counted(
    collectors: MakeProcess, trials: Trials, proxy: Proxy, dice: random.Random, damage: Damage
) -> None:
    process = collectors(proxy.dsn, JOURNAL_FILE_BYTES="65536", STORE_DRAIN_SECONDS="0")
    await asyncio.to_thread(process.start)
    name = f"journal files damaged while stopped ({damage.__name__})"
    async with trials(name, process, again=0, event_bytes=1000) as trial:
        trial.loses = True
        for _ in trial.rounds(1, 5):
            proxy.refusing = True
            proxy.reset()
            trial.ledger.start()
            await fill(trial, process)
            assert await asyncio.to_thread(process.stop) == 0
            damage(waiting_files(process), dice)
            proxy.refusing = False
            since = time.monotonic()
            await asyncio.to_thread(process.start)
            await trial.recovers(process, since)
            assert await asyncio.to_thread(lost_frames, process) > 0
            assert "could not be read back" in process.output()


def waiting_files(process: CollectorProcess) -> list[Path]:
    """Those that hold what is not stored: the newest six."""
    return journals(process.data_dir)[-6:]


@damages(cut)
async def test_files_damaged_while_the_collector_runs_are_read_past_and_counted(
    collectors: MakeProcess, trials: Trials, proxy: Proxy, dice: random.Random, damage: Damage
) -> None:
    process = collectors(proxy.dsn, JOURNAL_FILE_BYTES="65536")
    await asyncio.to_thread(process.start)
    name = f"journal files damaged while running ({damage.__name__})"
    async with trials(name, process, again=0, event_bytes=1000) as trial:
        trial.loses = True
        for _ in trial.rounds(1, 5):
            proxy.refusing = True
            proxy.reset()
            trial.ledger.start()
            await fill(trial, process)
            damage(waiting_files(process), dice)
            proxy.refusing = False
            await trial.recovers(process, time.monotonic())
            assert await asyncio.to_thread(lost_frames, process) > 0


async def test_a_journal_whose_files_were_all_deleted_goes_on(
    collectors: MakeProcess, trials: Trials, proxy: Proxy
) -> None:
    """The one that is being written too; what is sent then goes into another."""
    process = collectors(proxy.dsn)
    await asyncio.to_thread(process.start)
    async with trials("all journal files deleted while running", process, again=0) as trial:
        trial.loses = True
        for _ in trial.rounds(1, 5):
            proxy.refusing = True
            proxy.reset()
            await trial.load(0.5, 1.0)
            for file in journals(process.data_dir):
                file.unlink()
            await trial.load(0.5, 1.0)
            proxy.refusing = False
            await trial.recovers(process, time.monotonic())


@pytest.mark.parametrize("ends", ["stopped", pytest.param("killed", marks=pytest.mark.long)])
async def test_a_stored_event_is_not_lost_when_the_file_it_was_in_is(
    collectors: MakeProcess, trials: Trials, proxy: Proxy, ends: str
) -> None:
    """All files go while the collector is down, and half of what they held had been stored."""
    process = collectors(proxy.dsn, STORE_DRAIN_SECONDS="0")
    await asyncio.to_thread(process.start)
    name = f"journal files deleted that were stored in part, collector {ends}"
    async with trials(name, process, again=0) as trial:
        trial.loses = True
        trial.anomalies = {"cursor_before_oldest": 1}  # since the last start
        for _ in trial.rounds(1, 5):
            proxy.refusing = False
            trial.ledger.start()
            await trial.recovers(process, time.monotonic())
            proxy.refusing = True
            proxy.reset()
            await trial.load(0.5, 1.0)
            await trial.ledger.finish()
            files = journals(process.data_dir)
            if ends == "stopped":
                await asyncio.to_thread(process.stop)
            else:
                process.kill()
                await asyncio.to_thread(process.start)
                await trial.ledger.probe()  # into a file of its own, which tells what was before
                process.kill()
            for file in files:
                file.unlink()
            proxy.refusing = False
            since = time.monotonic()
            await asyncio.to_thread(process.start)
            await trial.recovers(process, since)


async def test_a_journal_whose_directory_is_away_for_a_while_loses_nothing(
    collectors: MakeProcess, trials: Trials, proxy: Proxy
) -> None:
    """As when its disk is not mounted: what is away is not lost, and the log says it once."""
    process = collectors(proxy.dsn, JOURNAL_FILE_BYTES="65536")
    await asyncio.to_thread(process.start)
    journal = process.data_dir / "journal"
    async with trials("journal's directory away for a while", process, again=0) as trial:
        for number in trial.rounds(1, 5):
            proxy.refusing = True
            proxy.reset()
            await trial.load(1.0, 1.5)
            journal.rename(process.data_dir / "elsewhere")
            proxy.refusing = False

            async def said() -> bool:
                facts = await asyncio.to_thread(process.status)
                return "journal's files cannot be read" in (facts["store"]["trouble"] or "")

            await until(said)
            await trial.load(1.0, 2.0)
            assert process.output().count("The journal cannot be read now") == number + 1
            (process.data_dir / "elsewhere").rename(journal)
            await trial.recovers(process, time.monotonic())


@pytest.mark.parametrize("ends", [pytest.param("stopped", marks=pytest.mark.long), "killed"])
async def test_an_older_copy_of_the_journal_takes_nothing_new_for_stored(
    collectors: MakeProcess, trials: Trials, empty_dsn: str, ends: str
) -> None:
    process = collectors(empty_dsn)
    await asyncio.to_thread(process.start)
    journal, copy = process.data_dir / "journal", process.data_dir / "copy"
    async with trials(f"older copy of the journal, collector {ends}", process) as trial:
        trial.anomalies = None
        trial.ordered = False  # what was on its way when the copy was put back is sent again
        for _ in trial.rounds(1, 5):
            await trial.load(0.3, 0.8)
            # All that is acknowledged is stored: what is not is lost with the directory.
            await trial.ledger.finish()
            await asyncio.to_thread(process.stop)
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(journal, copy)
            await asyncio.to_thread(process.start)
            trial.ledger.start()
            await trial.load(0.5, 1.0)
            await trial.ledger.finish()
            await asyncio.to_thread(process.wait_until_stored)
            if ends == "stopped":
                await asyncio.to_thread(process.stop)
            else:
                process.kill()
            shutil.rmtree(journal)
            copy.rename(journal)
            since = time.monotonic()
            await asyncio.to_thread(process.start)
            trial.ledger.start()
            await trial.recovers(process, since)
            facts = await asyncio.to_thread(process.status)
            assert sum(facts["anomalies"].values()) > 0, facts
