"""What the journal's tests share: frames that can be told apart, a clock, files to damage."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from collector.journal import FileJournal, Frame, JournalSettings, Reading, Record
from collector.journal.segment import SUFFIX, Segment

WAIT_SECONDS = 20.0


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings(**changes: object) -> JournalSettings:
    """Settings under which nothing depends on how full this machine's disk is."""
    known = {"disk_share_max": 1.0, "disk_reserve_bytes": 1, "keep_seconds": 0.0}
    return JournalSettings(**{**known, **changes})


def frame(number: int, size: int = 100, source: str = "web", events: int = 1) -> Frame:
    """A frame of *size* bytes that no other number has."""
    return Frame(random.Random(number).randbytes(size), source, events)


def as_frame(record: Record) -> Frame:
    return Frame(record.data, record.source, record.events)


async def open_journal(
    directory: Path, clock: Clock | None = None, **changes: object
) -> FileJournal:
    return await FileJournal.open(directory, settings(**changes), clock or Clock())


@asynccontextmanager
async def opened(
    directory: Path, clock: Clock | None = None, **changes: object
) -> AsyncIterator[FileJournal]:
    """The journal in *directory*, closed at the end."""
    journal = await open_journal(directory, clock, **changes)
    try:
        yield journal
    finally:
        await journal.close()


async def kill(journal: FileJournal) -> None:
    """Let go of the files as kill -9 does: nothing is finished."""
    journal._closed = True
    journal._appender._let_go()
    journal._release()


async def append_all(journal: FileJournal, frames: Iterable[Frame]) -> list[int]:
    """Append *frames* one after the other, each a group of its own."""
    return [await journal.append(one) for one in frames]


async def read_all(journal: FileJournal, after: int = 0, bytes_max: int = 1 << 20) -> Reading:
    """Everything behind *after*, and what was lost on the way, as one reading."""
    records: list[Record] = []
    lost_frames = 0
    lost_events: Counter[str] = Counter()
    async with asyncio.timeout(WAIT_SECONDS):
        while after < journal.end:
            reading = await journal.read(after, bytes_max)
            assert reading.end > after
            assert [r.position for r in reading.records] == sorted(
                {r.position for r in reading.records}
            )
            assert all(after < r.position <= reading.end for r in reading.records)
            assert reading.end - after == len(reading.records) + reading.lost_frames
            records += reading.records
            lost_frames += reading.lost_frames
            lost_events.update(reading.lost_events)
            after = reading.end
    return Reading(records, after, lost_frames, dict(lost_events))


async def forget(journal: FileJournal, position: int) -> None:
    """Forget up to *position*, and wait for the thread that unlinks files."""
    journal.forget(position)
    await settled(journal)


async def settled(journal: FileJournal) -> None:
    await journal._run(journal._read_thread, int)
    await asyncio.sleep(0)


def files(directory: Path) -> list[Path]:
    """The journal's files, oldest first."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def layout(path: Path) -> dict[int, tuple[int, int]]:
    """Where each record of an undamaged file begins and ends, by position."""
    segment = Segment.load(path)
    places = {}
    start = segment.data_start
    for record, behind in segment.records(start):
        places[record.position] = (start, behind)
        start = behind
    return places


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of the byte at *offset*."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def damage(directory: Path, *positions: int) -> None:
    """Flip a bit in the last byte of the records at *positions*."""
    for path in files(directory):
        for position, (_, behind) in layout(path).items():
            if position in positions:
                flip(path, behind - 1)
