"""
The journal's contract, as its callers see it.

A second implementation joins by one line in `JOURNALS`; what is special about segment files is
tested in the other modules of this folder.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from collector.errors import JournalError
from collector.journal import FileJournal, Frame, Journal, JournalSettings

from .harness import append_all, as_frame, frame, read_all, settings

Open = Callable[..., Awaitable[Journal]]


async def open_files(directory: Path, **changes: object) -> FileJournal:
    return await FileJournal.open(directory, settings(**changes))


JOURNALS = [pytest.param(open_files, id="files")]
journals = pytest.mark.parametrize("open_journal", JOURNALS)
loops = pytest.mark.parametrize(
    "new_loop",
    [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop"),
    ],
)


@journals
async def test_frames_come_back_in_order_as_they_were_appended(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    frames = [frame(n, n * n, f"source {n % 3}", n) for n in range(40)]
    began = time.time_ns() // 1000
    assert await append_all(journal, frames) == list(range(1, 41))
    reading = await read_all(journal)
    assert [as_frame(record) for record in reading.records] == frames
    assert [record.position for record in reading.records] == list(range(1, 41))
    assert all(began <= r.appended_at <= time.time_ns() // 1000 for r in reading.records)
    assert (reading.end, reading.lost_frames, reading.lost_events) == (40, 0, {})
    await journal.close()


@journals
async def test_frames_appended_together_get_positions_in_the_order_of_the_calls(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    frames = [frame(n) for n in range(500)]
    assert await asyncio.gather(*map(journal.append, frames)) == list(range(1, 501))
    assert [as_frame(record) for record in (await read_all(journal)).records] == frames
    await journal.close()


@journals
async def test_a_read_stops_when_it_has_enough_and_the_next_goes_on(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    await asyncio.gather(*(journal.append(frame(n, 1000)) for n in range(100)))
    assert len((await journal.read(0, 1)).records) == 1
    assert len((await journal.read(1, 10_000)).records) == 10
    assert (await journal.read(11, 5000)).records[0].position == 12
    for after in (99, 50, 0, 98):
        assert (await journal.read(after, 1)).records[0].position == after + 1
    assert len((await journal.read(0, 1 << 20)).records) == 100
    await journal.close()


@journals
async def test_a_read_at_the_end_waits_for_the_next_frame(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    for n in range(3):
        reading = asyncio.create_task(journal.read(n, 1))
        await asyncio.sleep(0.01)
        assert not reading.done()
        await journal.append(frame(n))
        (record,) = (await asyncio.wait_for(reading, 5)).records
        assert as_frame(record) == frame(n)
    await journal.close()


@journals
async def test_a_reader_that_gave_up_waiting_misses_nothing(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    readings = [asyncio.create_task(journal.read(0, 1)) for _ in range(2)]
    await asyncio.sleep(0.01)
    readings[0].cancel()
    await journal.append(frame(1))
    assert [as_frame(record) for record in (await readings[1]).records] == [frame(1)]
    assert readings[0].cancelled()
    assert len((await read_all(journal)).records) == 1
    await journal.close()


@journals
async def test_positions_are_never_used_again(tmp_path: Path, open_journal: Open) -> None:
    end = 0
    identity = None
    for _ in range(4):  # everything is forgotten, by several processes
        journal = await open_journal(tmp_path, file_bytes=500)
        identity = identity or journal.id
        assert (journal.end, journal.end_at_open, journal.id) == (end, end, identity)
        journal.forget(end)
        assert await append_all(journal, map(frame, range(20))) == list(range(end + 1, end + 21))
        end += 20
        journal.forget(end)
        assert journal.end == end
        assert journal.oldest > end - 20
        await journal.close()


@journals
async def test_events_are_summed_by_source_across_reopening_and_forgetting(
    tmp_path: Path, open_journal: Open
) -> None:
    sums: list[dict[str, int]] = [{}]
    for run in range(3):
        journal = await open_journal(tmp_path, file_bytes=700)
        assert journal.accepted == sums[-1]
        for n in range(15):
            one = frame(n, source=f"source {n % 4}", events=run + n % 3)
            await journal.append(one)
            before = sums[-1]
            sums.append({**before, one.source: before.get(one.source, 0) + one.events})
        assert journal.accepted == sums[-1]
        for position, expected in enumerate(sums):
            if position >= journal.oldest:
                assert await journal.totals_at(position) == expected
        assert await journal.totals_at(journal.oldest) == sums[journal.oldest]
        journal.forget(10 * (run + 1))
        await journal.close()


@journals
async def test_a_new_identity_goes_on_with_the_positions(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    first = journal.id
    assert journal.base == 0
    await append_all(journal, map(frame, range(5)))
    second = await journal.renew(3)
    assert second == journal.id != first
    assert (journal.base, journal.end) == (3, 5)
    await append_all(journal, map(frame, range(5, 8)))
    await journal.close()

    journal = await open_journal(tmp_path)
    assert (journal.id, journal.base, journal.end) == (second, 3, 8)
    assert [as_frame(r) for r in (await read_all(journal, 3)).records] == [*map(frame, range(3, 8))]
    third = await journal.renew(100)  # the store knows of positions that got lost here
    assert (journal.base, journal.end) == (100, 100)
    assert await journal.append(frame(9)) == 101
    await journal.close()

    journal = await open_journal(tmp_path)
    assert (journal.id, journal.base, journal.end) == (third, 100, 101)
    assert [as_frame(r) for r in (await read_all(journal, 100)).records] == [frame(9)]
    await journal.close()


@journals
async def test_a_caller_that_gives_up_takes_nobody_with_it(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    tasks = [asyncio.create_task(journal.append(frame(n))) for n in range(9)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done.pop(4), asyncio.CancelledError)
    assert len({*done}) == 8
    assert await journal.append(frame(9)) == journal.end
    records = {r.position: as_frame(r) for r in (await read_all(journal)).records}
    assert all(records[position] == frame(n) for n, position in enumerate(done) if n < 4)
    await journal.close()


@journals
async def test_a_frame_that_cannot_be_written_fails_alone(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path)
    frames = [
        frame(1),
        Frame(b"", "a lone surrogate \ud800", 1),
        Frame(b"", "s" * 65_536, 1),
        Frame(b"", "web", 2**32),
        Frame(b"", "web", -1),
        frame(2),
    ]
    first, *bad, last = await asyncio.gather(*map(journal.append, frames), return_exceptions=True)
    assert (first, last) == (1, 2)
    assert all(isinstance(error, ValueError) for error in bad), bad
    await journal.close()


@journals
async def test_closing_commits_what_waits_and_refuses_what_comes_later(
    tmp_path: Path, open_journal: Open
) -> None:
    journal = await open_journal(tmp_path, group_bytes_max=1000)
    appends = [asyncio.create_task(journal.append(frame(n, 500))) for n in range(20)]
    await asyncio.sleep(0)
    reading = asyncio.create_task(journal.read(20, 1))
    await asyncio.sleep(0)
    await asyncio.gather(journal.close(), journal.close())
    assert [await append for append in appends] == list(range(1, 21))
    for late in (reading, journal.append(frame(1)), journal.read(0, 1), journal.totals_at(1)):
        with pytest.raises(JournalError, match="journal_closed"):
            await asyncio.wait_for(late, 5)
    with pytest.raises(JournalError, match="journal_closed"):
        journal.check_room()
    journal = await open_journal(tmp_path)
    assert len((await read_all(journal)).records) == 20
    await journal.close()


@journals
@loops
def test_a_reader_keeps_up_with_appends_while_files_come_and_go(
    tmp_path: Path, open_journal: Open, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    total = 3000

    async def append(journal: Journal, numbers: range) -> None:
        for n in numbers:
            await journal.append(frame(n, n % 900, f"source {n % 5}", n % 4))
            if n % 50 == 0:
                await asyncio.sleep(0.001)  # so that the reader comes to the end at times

    async def read(journal: Journal) -> list[Frame]:
        found: list[Frame] = []
        while len(found) < total:
            after = len(found)
            reading = await asyncio.wait_for(journal.read(after, 3000), 20)
            assert (reading.lost_frames, reading.lost_events) == (0, {})
            assert [r.position for r in reading.records] == list(
                range(after + 1, after + 1 + len(reading.records))
            )
            found += map(as_frame, reading.records)
            assert reading.end == len(found)
            journal.forget(reading.end)
        return found

    async def run() -> None:
        journal = await open_journal(tmp_path, file_bytes=20_000, group_bytes_max=10_000)
        reading = asyncio.create_task(read(journal))
        step = total // 30
        await asyncio.gather(*(append(journal, range(n, n + step)) for n in range(0, total, step)))
        found = await reading
        expected = [frame(n, n % 900, f"source {n % 5}", n % 4) for n in range(total)]
        assert sorted(found) == sorted(expected)
        assert await journal.totals_at(journal.end) == journal.accepted
        await journal.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


def test_the_defaults_are_usable() -> None:
    defaults = JournalSettings()
    assert defaults.group_bytes_max < defaults.file_bytes < defaults.total_bytes_max
