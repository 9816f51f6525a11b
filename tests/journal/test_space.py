"""The space the journal takes: bounded, given back, and kept as long as promised."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.errors import Busy
from collector.journal import FileJournal
from tests.disks import mounted

from .harness import (
    Clock,
    append_all,
    files,
    forget,
    frame,
    kill,
    open_journal,
    opened,
    read_all,
)


async def fill(journal: FileJournal, clock: Clock | None = None) -> int:
    """Append 1000 bytes at a time until there is no room; return how often there was."""
    for n in range(5000):
        if clock is not None:
            clock.now += 1  # so that the disk is asked each time
        try:
            await journal.append(frame(n, 1000))
        except Busy:
            with pytest.raises(Busy, match="journal_full") as refusal:
                journal.check_room()
            assert refusal.value.status == 503
            assert refusal.value.retry_after_seconds > 0
            return n
    raise AssertionError("the journal has no bound")


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in files(directory))


async def test_a_full_journal_refuses_until_something_is_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path, total_bytes_max=2_000_000) as journal:
        assert journal.bytes_max() == 2_000_000
        count = await fill(journal)
        assert 1900 < count < 2000
        assert 1_990_000 < on_disk(tmp_path) == journal.bytes < 2_002_000
        with pytest.raises(Busy, match="journal_full"):
            await journal.append(frame(1))
        assert len((await read_all(journal)).records) == count
        await forget(journal, count // 2)
        assert journal.bytes == on_disk(tmp_path) < 1_300_000
        again = await fill(journal)
        assert again > 600
        assert [r.position for r in (await read_all(journal, count // 2)).records] == list(
            range(count // 2 + 1, count + again + 1)
        )


@pytest.mark.parametrize("cap", [1, 100, 5000, 70_000, 300_000, 1_000_000])
@pytest.mark.parametrize("size", [0, 1000, 60_000])
async def test_no_cap_is_too_small_to_go_on_for_ever(tmp_path: Path, cap: int, size: int) -> None:
    """The newest file is never unlinked, so it must not be what fills the journal."""
    async with opened(tmp_path, total_bytes_max=cap) as journal:
        frames = 0
        for _ in range(20):  # fill it, store it, and so on
            for n in range(10):
                try:
                    frames = await journal.append(frame(n, size))
                except Busy:
                    assert n or cap == 1
                    break
            reading = await read_all(journal, journal.oldest - 1)
            assert (reading.end, reading.lost_frames) == (frames, 0)
            await forget(journal, frames)
            assert on_disk(tmp_path) <= 2 * (cap + size + 1000)
        assert frames >= 20


async def test_a_small_cap_survives_many_appends_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, total_bytes_max=100_000) as journal:
        stored = 0
        for _ in range(10):
            results = await asyncio.gather(
                *(journal.append(frame(n, 5000)) for n in range(100)), return_exceptions=True
            )
            taken = [result for result in results if isinstance(result, int)]
            assert taken
            assert all(isinstance(result, (int, Busy)) for result in results)
            assert on_disk(tmp_path) < 230_000
            stored += len(taken)
            await forget(journal, stored)
        assert journal.end == stored


async def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, pending_bytes_max=100_000) as journal:
        results = await asyncio.gather(
            *(journal.append(frame(n, 1000)) for n in range(500)), return_exceptions=True
        )
        busy = [result for result in results if isinstance(result, Busy)]
        assert {one.code for one in busy} == {"journal_behind"}
        assert 390 < len(busy) < 410
        assert await journal.append(frame(1)) == journal.end == 501 - len(busy)


async def test_stored_frames_are_kept_as_long_as_promised(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock, keep_seconds=3600.0, file_bytes=1000) as journal:
        await append_all(journal, map(frame, range(50)))
        clock.now += 7200  # Postgres was away; what is stored only now is kept from now on
        await forget(journal, 50)
        kept = files(tmp_path)
        assert journal.oldest == 1
        clock.now += 3599
        await forget(journal, 50)
        assert files(tmp_path) == kept
        clock.now += 1
        await forget(journal, 50)
        assert files(tmp_path) == kept[-1:]


async def test_each_file_is_kept_from_when_it_was_stored(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock, keep_seconds=100.0, file_bytes=1) as journal:
        for position in range(1, 11):
            await journal.append(frame(position))
            await forget(journal, position)
            assert journal.oldest == max(1, position - 10)
            clock.now += 10
        await journal.append(frame(11))
        await forget(journal, 11)
        assert journal.oldest == 1  # known to be stored ten seconds after it was
        clock.now += 95
        await forget(journal, 11)
        assert journal.oldest == 10


async def test_a_wall_clock_that_is_set_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with opened(tmp_path, clock, keep_seconds=100.0, file_bytes=1000) as journal:
        for jump in (0, -10_000_000, 10_000_000):
            monkeypatch.setattr("time.time", lambda jump=jump: 1.7e9 + jump)
            monkeypatch.setattr("time.time_ns", lambda jump=jump: int((1.7e9 + jump) * 1e9))
            await append_all(journal, map(frame, range(20)))
            kept = files(tmp_path)
            await forget(journal, journal.end)
            clock.now += 99
            await forget(journal, journal.end)
            assert files(tmp_path) == kept
            clock.now += 1
            await forget(journal, journal.end)
            assert files(tmp_path) == kept[-1:]


async def test_kept_files_go_when_room_is_needed_and_only_as_many(tmp_path: Path) -> None:
    settings = {"keep_seconds": 1e9, "total_bytes_max": 200_000, "file_bytes": 20_000}
    async with opened(tmp_path, **settings) as journal:
        for n in range(1000):
            await forget(journal, await journal.append(frame(n, 1000)))
            assert on_disk(tmp_path) < 202_000
        assert on_disk(tmp_path) > 170_000


async def test_a_frame_that_is_not_stored_is_never_let_go_of(tmp_path: Path) -> None:
    async with opened(tmp_path, total_bytes_max=100_000, file_bytes=5000) as journal:
        await append_all(journal, map(frame, range(100)))
        for position in (10, 50, 100):
            await forget(journal, position)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(journal._space, "_limit", 1)
                patch.setattr(journal._space, "_limit_until", float("inf"))
                if position < 100:
                    with pytest.raises(Busy):
                        journal.check_room()
            reading = await read_all(journal, position) if position < 100 else None
            assert reading is None or reading.lost_frames == 0
        journal.forget(10**9)  # a cursor from somewhere else
        assert journal.oldest <= 101


async def test_a_store_that_went_back_gets_what_it_lost(tmp_path: Path) -> None:
    """After a failover the cursor may be behind what was already said to be stored."""
    clock = Clock()
    settings = {"keep_seconds": 100.0, "file_bytes": 1000, "total_bytes_max": 50_000}
    async with opened(tmp_path, clock, **settings) as journal:
        await append_all(journal, map(frame, range(100)))
        await forget(journal, 100)
        clock.now += 99
        assert (await journal.read(20, 1)).records[0].position == 21
        clock.now += 500
        assert await fill(journal) < 60  # not at the cost of what is needed again
        await forget(journal, 21)
        assert journal.oldest <= 22
        reading = await read_all(journal, 21)
        assert reading.lost_frames == 0
        await forget(journal, 100)
        assert journal.oldest <= 22  # kept again, from now on


async def test_after_a_restart_the_store_says_again_what_is_stored(tmp_path: Path) -> None:
    settings = {"total_bytes_max": 30_000, "file_bytes": 10_000}
    journal = await open_journal(tmp_path, **settings)
    count = await fill(journal)
    await kill(journal)
    async with opened(tmp_path, **settings) as journal:
        with pytest.raises(Busy):
            await journal.append(frame(1))
        await forget(journal, count)
        assert await journal.append(frame(1)) == count + 1


async def test_a_file_that_cannot_be_unlinked_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, file_bytes=1000) as journal:
        await append_all(journal, map(frame, range(50)))
        before = files(tmp_path)

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", refuse)
            await forget(journal, 50)
        assert files(tmp_path) == before
        assert journal.bytes == on_disk(tmp_path)
        await forget(journal, 50)
        assert files(tmp_path) == before[-1:]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    with mounted(tmp_path / "small", 2) as disk:
        yield disk


@pytest.mark.parametrize("ballast", [0, 500_000])
async def test_a_share_of_the_disk_is_not_exceeded(small_disk: Path, ballast: int) -> None:
    (small_disk / "ballast").write_bytes(bytes(ballast))
    clock = Clock()
    async with opened(small_disk / "journal", clock, disk_share_max=0.25) as journal:
        await fill(journal, clock)
        share = (2 * 2**20 - ballast) / 4
        assert share - 20_000 < journal.bytes < share + 5000


async def test_the_reserve_is_left_to_others(small_disk: Path) -> None:
    clock = Clock()
    settings = {"disk_reserve_bytes": 1_000_000, "file_bytes": 100_000}
    async with opened(small_disk / "journal", clock, **settings) as journal:
        assert 900 < await fill(journal, clock) < 1100
        disk = os.statvfs(small_disk)
        assert 980_000 < disk.f_bavail * disk.f_frsize < 1_010_000
        await forget(journal, journal.end)
        assert await fill(journal, clock) > 800
        (small_disk / "ballast").write_bytes(bytes(900_000))  # somebody else takes the reserve
        clock.now += 1
        with pytest.raises(Busy):
            journal.check_room()
        await forget(journal, journal.end)
        assert await fill(journal, clock) < 200
        (small_disk / "ballast").unlink()
        assert await fill(journal, clock) > 500


async def test_the_disk_is_asked_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    asked = 0
    real = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        nonlocal asked
        asked += 1
        return real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    async with opened(tmp_path, clock) as journal:
        for n in range(100):
            await journal.append(frame(n))
            clock.now += 0.1
        assert 9 <= asked <= 11


async def test_a_disk_that_does_not_say_how_full_it_is_keeps_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", refuse)
    async with opened(tmp_path, total_bytes_max=50_000) as journal:
        assert journal.bytes_max() == 50_000
        assert await fill(journal) < 60
        assert (await read_all(journal)).lost_frames == 0
