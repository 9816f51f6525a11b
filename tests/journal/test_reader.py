"""Damage: every intact record is read, no wrong byte is, and what is lost is counted."""

import asyncio
import errno
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.errors import JournalError
from collector.journal import FileJournal, Frame, Journal, JournalSettings, Reading
from collector.journal.reader import Reader
from collector.journal.segment import HEAD, Segment

from .harness import (
    append_all,
    as_frame,
    damage,
    files,
    flip,
    forget,
    frame,
    kill,
    layout,
    open_journal,
    opened,
    overwrite,
    read_all,
)

COUNT = 30
FRAMES = {n: frame(n, 20 + n, f"source {n % 3}", n % 4) for n in range(1, COUNT + 1)}
SOME = 16  # that many are in the first three files
FILE_BYTES = 450  # some six frames


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with FRAMES in several files, and an empty newest one since it was closed."""
    directory = tmp_path_factory.mktemp("template") / "journal"

    async def build() -> None:
        async with opened(directory, file_bytes=FILE_BYTES) as journal:
            await append_all(journal, FRAMES.values())

    asyncio.run(build())
    paths = files(directory)
    assert len(paths) > 4
    assert layout(paths[-1]) == {}
    return directory


@pytest.fixture
def paths(template: Path, tmp_path: Path) -> list[Path]:
    """The files of such a journal in `tmp_path`."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return files(tmp_path)


def events(positions: set[int]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for position in positions:
        sums[FRAMES[position].source] += FRAMES[position].events
    return {source: number for source, number in sums.items() if number}


def check(reading: Reading, lost: set[int], after: int = 0, end: int = COUNT) -> None:
    assert {r.position: as_frame(r) for r in reading.records} == {
        n: one for n, one in FRAMES.items() if after < n <= end and n not in lost
    }
    assert reading.lost_frames == len(lost)
    assert reading.end == end


# Each damages the journal and returns the positions that are lost by it.


def data_flipped(paths: list[Path]) -> set[int]:
    damage(paths[0].parent, 3, 15, COUNT)
    return {3, 15, COUNT}


def heads_flipped(paths: list[Path]) -> set[int]:
    lost = set()
    for path, offset in zip(paths[:-1], (0, 5, 9, 13, 20, 28, 33), strict=False):
        position, (start, _) = list(layout(path).items())[1]
        flip(path, start + offset, 2)
        lost.add(position)
    assert len(lost) > 3
    return lost


def source_flipped(paths: list[Path]) -> set[int]:
    position, (start, _) = next(iter(layout(paths[1]).items()))
    flip(paths[1], start + HEAD)
    return {position}


def first_and_last_of_each_file(paths: list[Path]) -> set[int]:
    lost = {edge(layout(path)) for path in paths[:-1] for edge in (min, max)}
    damage(paths[0].parent, *lost)
    return lost


def whole_file_zeroed(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[2])}
    overwrite(paths[2], 0, bytes(paths[2].stat().st_size))
    return lost


def middle_deleted(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[2])}
    paths[2].unlink()
    return lost


def two_in_a_row_deleted(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[1]), *layout(paths[2])}
    paths[1].unlink()
    paths[2].unlink()
    return lost


def oldest_deleted(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[0])}
    paths[0].unlink()
    return lost


def cut(paths: list[Path]) -> set[int]:
    places = layout(paths[1])
    position, (start, _) = list(places.items())[2]
    os.truncate(paths[1], start + 10)
    return {one for one in places if one >= position}


def emptied(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[1])}
    os.truncate(paths[1], 0)
    return lost


def giant_length(paths: list[Path]) -> set[int]:
    position, (start, _) = list(layout(paths[1]).items())[1]
    overwrite(paths[1], start + 8, struct.pack("<I", 2**32 - 1))
    return {position}


def garbage_between(paths: list[Path]) -> set[int]:
    for path in paths[:-1]:
        whole = path.read_bytes()
        for start, _ in reversed(layout(path).values()):
            whole = whole[:start] + os.urandom(1000) + whole[start:]
        path.write_bytes(whole)
    return set()


def garbage_behind(paths: list[Path]) -> set[int]:
    for path in paths:
        path.write_bytes(path.read_bytes() + os.urandom(1000))
    return set()


def replaced_by_its_neighbour(paths: list[Path]) -> set[int]:
    lost = {*layout(paths[2])}
    shutil.copy(paths[1], paths[2])
    return lost


def nothing_left(paths: list[Path]) -> set[int]:
    for path in paths[:-1]:
        path.unlink()
    return {*FRAMES}


DAMAGES = [
    data_flipped,
    heads_flipped,
    source_flipped,
    first_and_last_of_each_file,
    whole_file_zeroed,
    middle_deleted,
    two_in_a_row_deleted,
    oldest_deleted,
    cut,
    emptied,
    giant_length,
    garbage_between,
    garbage_behind,
    replaced_by_its_neighbour,
    nothing_left,
]
Inflict = Callable[[list[Path]], set[int]]
damages = pytest.mark.parametrize("inflict", DAMAGES, ids=lambda inflict: inflict.__name__)


@damages
@pytest.mark.parametrize("bytes_max", [1, 200, 1 << 20])
async def test_damage_found_at_the_start_is_read_past_and_counted(
    tmp_path: Path, paths: list[Path], inflict: Inflict, bytes_max: int
) -> None:
    lost = inflict(paths)
    async with opened(tmp_path) as journal:
        assert journal.end == COUNT
        assert journal.accepted == events({*FRAMES})
        # Everything that is lost is in front of the newest header, so its events are known.
        reading = await read_all(journal, 0, bytes_max)
        check(reading, lost)
        assert reading.end == COUNT
        await journal.append(frame(99, source="source 1", events=5))
        following = await read_all(journal, COUNT, bytes_max)
        assert [as_frame(r) for r in following.records] == [frame(99, source="source 1", events=5)]
        assert Counter(reading.lost_events) + Counter(following.lost_events) == events(lost)
        assert following.lost_frames == 0


@damages
async def test_damage_done_while_the_journal_runs_is_read_past_and_counted(
    tmp_path: Path, inflict: Inflict
) -> None:
    async with opened(tmp_path, file_bytes=FILE_BYTES) as journal:
        await append_all(journal, FRAMES.values())
        assert layout(files(tmp_path)[-1])  # it is being written
        await journal.renew(0)  # begins another
        lost = inflict(files(tmp_path))
        check(await read_all(journal), lost)
        assert journal.accepted == events({*FRAMES})


@damages
async def test_a_reader_on_its_way_meets_damage(
    tmp_path: Path, template: Path, inflict: Inflict
) -> None:
    """Whatever is damaged: what was read before stays read, what is behind is counted."""
    for after in (1, 6, 13, 29):
        directory = tmp_path / str(after)
        shutil.copytree(template, directory)
        async with opened(directory) as journal:
            await read_up_to(journal, after)
            lost = {one for one in inflict(files(directory)) if one > after}
            reading = await read_all(journal, after)
            check(reading, lost, after)
            await journal.append(frame(99))
            following = await read_all(journal, COUNT)
            told = Counter(reading.lost_events) + Counter(following.lost_events)
            assert told == events(lost)


async def read_up_to(journal: Journal, end: int) -> None:
    after = 0
    while after < end:
        after = (await journal.read(after, 1)).end


def test_any_bit_of_any_file_may_flip(paths: list[Path]) -> None:
    paths = paths[:3]
    for path in paths:
        whole, places = path.read_bytes(), layout(path)
        for offset in range(len(whole)):
            flip(path, offset, offset % 8)
            lost = {n for n, (start, end) in places.items() if start <= offset < end}
            check(read_directly(paths), lost, end=SOME)
            path.write_bytes(whole)


def test_any_file_may_end_anywhere(paths: list[Path]) -> None:
    paths = paths[:3]
    for path in paths:
        whole, places = path.read_bytes(), layout(path)
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            lost = {n for n, (_, end) in places.items() if end > size}
            check(read_directly(paths), lost, end=SOME)
        path.write_bytes(whole)


def read_directly(paths: list[Path]) -> Reading:
    """As a new process would read them, without the fsyncs of one."""
    segments = [Segment.load(path) for path in paths]
    mark = next(segment.mark for segment in segments if segment.header)
    for segment in segments:
        segment.mark = mark
    return Reader().read(segments, 0, SOME, 1 << 20)


@pytest.mark.parametrize("damaged", [[-1], [1], [2], [1, 2], [2, 3, 4]])
async def test_damaged_headers_lose_no_totals(
    tmp_path: Path, paths: list[Path], damaged: list[int]
) -> None:
    lost = {min(layout(paths[1]))}
    damage(tmp_path, *lost)
    for index in damaged:
        flip(paths[index], 20)
    async with opened(tmp_path) as journal:
        assert journal.end == COUNT
        assert journal.accepted == events({*FRAMES})
        reading = await read_all(journal)
        check(reading, lost)
        assert await journal.append(frame(99, source="source 0", events=1)) == COUNT + 1
        following = await read_all(journal, COUNT)
        assert Counter(reading.lost_events) + Counter(following.lost_events) == events(lost)
        for position in range(COUNT + 1):
            told = Counter(await journal.totals_at(position))
            whole = Counter(events({n for n in FRAMES if n <= position}))
            assert told in (whole, whole - Counter(events(lost)))


async def test_events_lost_are_told_after_a_restart_in_between(
    tmp_path: Path, paths: list[Path]
) -> None:
    last = max(layout(paths[1]))
    damage(tmp_path, last)
    async with opened(tmp_path) as journal:
        reading = await journal.read(last - 1, 1)
        assert (reading.lost_frames, reading.end) == (1, last + 1)
    # The store took note of the lost frame, and stopped where the next file begins.
    async with opened(tmp_path) as journal:
        reading = await journal.read(last, 1)
        assert reading.lost_frames == 0
        assert reading.lost_events == events({last})
    async with opened(tmp_path) as journal:
        reading = await journal.read(last + 1, 1)
        assert (reading.lost_frames, reading.lost_events) == (0, {})


async def test_events_lost_are_told_when_the_file_was_let_go_of_meanwhile(tmp_path: Path) -> None:
    async with opened(tmp_path, file_bytes=FILE_BYTES) as journal:
        await append_all(journal, FRAMES.values())
        oldest = files(tmp_path)[0]
        damage(tmp_path, 2)
        last = max({*layout(oldest)} - {2})
        await read_up_to(journal, last)
        await forget(journal, last)
        assert not oldest.exists()
        reading = await journal.read(last, 1)
        assert reading.lost_events == events({2})


async def test_a_newest_file_removed_while_running_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, list(FRAMES.values())[:10])
        files(tmp_path)[-1].unlink()
        with pytest.raises(JournalError, match="journal_unwritable"):
            await journal.append(frame(99))
        rest = list(FRAMES.values())[10:]
        assert await append_all(journal, rest) == list(range(11, COUNT + 1))
        reading = await read_all(journal)
        check(reading, set(range(1, 11)))
        assert reading.lost_events == events(set(range(1, 11)))


@pytest.mark.parametrize("to", [0, 10, 600])
async def test_a_newest_file_cut_or_grown_while_running_is_replaced(
    tmp_path: Path, to: int
) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, list(FRAMES.values())[:10])
        (path,) = files(tmp_path)
        places = layout(path)
        os.truncate(path, to or path.stat().st_size + 500)
        with pytest.raises(JournalError, match="journal_unwritable"):
            await journal.append(frame(99))
        await append_all(journal, list(FRAMES.values())[10:])
        lost = {n for n, (_, behind) in places.items() if to and behind > to}
        reading = await read_all(journal)
        check(reading, lost)
        assert reading.lost_events == events(lost)


async def test_records_moved_towards_the_header_are_found(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, FRAMES.values())
        (path,) = files(tmp_path)
        path.write_bytes(path.read_bytes()[40:])
        check(await read_all(journal), set())


async def test_without_its_newest_files_the_journal_ends_earlier(
    tmp_path: Path, paths: list[Path]
) -> None:
    for path in paths[-2:]:
        path.unlink()
    end = max(layout(paths[-3]))
    async with opened(tmp_path) as journal:
        assert (journal.end, journal.end_at_open) == (end, end)  # by which the store sees it
        assert journal.accepted == events(set(range(1, end + 1)))
        # The store takes a new identity, so that a position names one frame still.
        identity = journal.id
        assert await journal.renew(end) != identity
        assert await journal.append(frame(99)) == end + 1
        assert journal.end_at_open == end
    async with opened(tmp_path) as journal:
        assert (journal.id != identity, journal.base, journal.end) == (True, end, end + 1)


async def test_a_directory_replaced_by_an_older_copy_is_seen_by_its_end(tmp_path: Path) -> None:
    directory, copy = tmp_path / "journal", tmp_path / "copy"
    async with opened(directory) as journal:
        await append_all(journal, list(FRAMES.values())[:10])
        shutil.copytree(directory, copy)
        await append_all(journal, list(FRAMES.values())[10:])
        identity = journal.id
    shutil.rmtree(directory)
    copy.rename(directory)
    async with opened(directory) as journal:
        assert (journal.id, journal.end_at_open) == (identity, 10)
        assert (await read_all(journal)).lost_frames == 0
        await journal.renew(journal.end_at_open)
        assert await journal.append(frame(99)) == 11


async def test_a_torn_tail_is_normal(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal") as journal:
        await append_all(journal, FRAMES.values())
        shutil.copytree(tmp_path / "journal", tmp_path / "crashed")
    (path,) = files(tmp_path / "crashed")
    whole, places = path.read_bytes(), layout(path)
    for size in range(places[COUNT][0], len(whole)):
        path.write_bytes(whole[:size])
        journal = await open_journal(tmp_path / "crashed")
        assert journal.torn_bytes == size - places[COUNT][0]
        assert (journal.end, journal.accepted) == (COUNT - 1, events({*FRAMES} - {COUNT}))
        await kill(journal)
    async with opened(tmp_path / "crashed") as journal:
        assert await journal.append(FRAMES[COUNT]) == COUNT
        check(await read_all(journal), set())
    async with opened(tmp_path / "crashed") as journal:
        assert journal.torn_bytes == 0
        check(await read_all(journal), set())


async def test_after_closing_nothing_is_torn_so_damage_is_counted(
    tmp_path: Path, paths: list[Path]
) -> None:
    os.truncate(paths[-2], layout(paths[-2])[COUNT][0] + 1)
    async with opened(tmp_path) as journal:
        assert journal.torn_bytes == 0
        check(await read_all(journal), {COUNT})


async def test_a_reopened_journal_leaves_old_files_as_they_are(tmp_path: Path) -> None:
    await kill(journal := await open_journal(tmp_path))
    for n in range(1, 4):
        before = {path: path.read_bytes() for path in files(tmp_path)}
        journal = await open_journal(tmp_path)
        await journal.append(FRAMES[n])
        await kill(journal)
        assert len(files(tmp_path)) == len(before) + 1
        assert {path: path.read_bytes() for path in before} == before


async def test_a_disk_that_cannot_be_read_is_said_and_not_taken_for_damage(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:
        assert len((await journal.read(0, 500)).records) < COUNT

        def refuse(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for after in (0, 4, 20):
            with monkeypatch.context() as patch:
                patch.setattr(os, "pread", refuse)
                with pytest.raises(JournalError, match=r"journal_unreadable.*Input/output error"):
                    await journal.read(after, 1 << 20)
                with pytest.raises(JournalError, match="journal_unreadable"):
                    await journal.totals_at(after + 1)
            reading = await read_all(journal, after)
            check(reading, set(), after)
            assert reading.lost_events == {}


async def test_what_the_store_tells_counts_where_the_file_behind_the_cursor_is_gone(
    tmp_path: Path,
) -> None:
    """Else what was stored out of that file would be counted as lost."""
    journal = await FileJournal.open(tmp_path, JournalSettings())
    for _ in range(10):
        await journal.append(Frame(b"x", "shop", 3))
    next(tmp_path.glob("*.journal")).unlink()
    with pytest.raises(JournalError):
        await journal.append(Frame(b"y", "shop", 3))  # the file was noticed to be gone
    await journal.append(Frame(b"z", "shop", 3))
    journal.tell(4, {"shop": 12})
    assert await journal.totals_at(4) == {"shop": 12}
    reading = await journal.read(4, 1000)
    assert (reading.end, reading.lost_frames, reading.lost_events) == (11, 6, {"shop": 18})
    await journal.close()
