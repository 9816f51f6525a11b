"""Appending: on disk before it is said to be, in few fsyncs, and whole again after disk errors."""

import asyncio
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.errors import JournalError
from collector.journal import FileJournal, Frame
from tests.disks import mounted

from .harness import (
    append_all,
    as_frame,
    files,
    frame,
    kill,
    layout,
    open_journal,
    opened,
    read_all,
)

APPEND_AND_TELL = """
import asyncio, os, sys
from pathlib import Path
from collector.journal import FileJournal, Frame, JournalSettings

async def main():
    settings = JournalSettings(disk_reserve_bytes=1, disk_share_max=1.0, file_bytes=2000)
    journal = await FileJournal.open(Path(sys.argv[1]) / "new" / "journal", settings)
    for round in range(10):
        await asyncio.gather(*(journal.append(Frame(b"x" * 100, "web", 1)) for _ in range(7)))
        os.write(1, b"acknowledged\\n")

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not on this machine")
def test_the_kernel_has_synced_every_byte_and_name_before_append_returns(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "openat,open,write,pwrite64,rename,renameat,renameat2,mkdir,mkdirat,fsync,fdatasync"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={calls}"]
    script = [sys.executable, "-c", APPEND_AND_TELL, str(tmp_path)]
    done = subprocess.run([*command, *script], capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace is not permitted here")
    assert done.returncode == 0, done.stderr

    unsynced: set[str] = set()  # files with bytes, and directories with names, not yet on disk
    written = acknowledged = 0
    for line in _finished(trace.read_text().splitlines()):
        call, arguments = line.split("(", 1)
        if call == "write" and "acknowledged" in arguments:
            assert not unsynced
            acknowledged += 1
            continue
        if str(tmp_path) not in arguments or " = -1 " in line:
            continue
        named = [Path(name) for name in re.findall(r'"(/[^"]*)"', arguments)]
        handle = re.match(r"\d+<([^>]*)>", arguments)
        if call in ("write", "pwrite64"):
            assert handle
            if Path(handle[1]).name != "lock":  # nobody needs it after a crash
                unsynced.add(handle[1])
                written += 1
        elif call in ("fsync", "fdatasync"):
            assert handle
            unsynced.discard(handle[1])
        elif call.startswith(("rename", "mkdir")):
            # The file keeps its bytes' state under the new name; the directory has a new name.
            assert str(named[0]) not in unsynced
            unsynced.add(str(named[-1].parent))
    assert acknowledged == 10
    assert written > 10


def _finished(lines: list[str]) -> Iterator[str]:
    """The calls of a trace in the order in which they returned, each as one line."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, call = line.split(None, 1)
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.removesuffix("<unfinished ...>").rstrip()
        elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            yield begun.pop(thread) + resumed[1]
        elif "(" in call and not call.startswith(("---", "+++")):
            yield call


class Disk:
    """What `os` did to journal files, and where it is told to fail."""

    def __init__(self, patch: pytest.MonkeyPatch, directory: Path) -> None:
        self.directory = str(directory)
        self.syncs = 0
        self.sizes: list[int] = []  # of what was written between two syncs
        self.short = 0  # a write takes at most so many bytes, if not 0
        self.failing: dict[str, OSError] = {}
        self._unsynced = 0
        self._real = {name: getattr(os, name) for name in ("write", "fdatasync", "ftruncate")}
        patch.setattr(os, "write", self.write)
        patch.setattr(os, "fdatasync", self.fdatasync)
        patch.setattr(os, "ftruncate", self.ftruncate)

    def fail(self, number: int, *calls: str) -> None:
        self.failing = {call: OSError(number, os.strerror(number)) for call in calls}

    def heal(self) -> None:
        self.failing = {}

    def _ours(self, fd: int, call: str) -> bool:
        ours = os.readlink(f"/proc/self/fd/{fd}").startswith(self.directory)
        if ours and call in self.failing:
            raise self.failing[call]
        return ours

    def write(self, fd: int, data: memoryview) -> int:
        if self._ours(fd, "write"):
            if self.short:
                data = data[: self.short]
            self._unsynced += len(data)
        written: int = self._real["write"](fd, data)
        return written

    def fdatasync(self, fd: int) -> None:
        if self._ours(fd, "fdatasync"):
            self.syncs += 1
            self.sizes.append(self._unsynced)
            self._unsynced = 0
        self._real["fdatasync"](fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self._ours(fd, "ftruncate")
        self._real["ftruncate"](fd, size)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disk:
    return Disk(monkeypatch, tmp_path)


async def test_append_returns_after_the_sync_of_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdatasync
    on_disk = b""

    def fdatasync(fd: int) -> None:
        nonlocal on_disk
        real(fd)
        on_disk = b"".join(path.read_bytes() for path in files(tmp_path))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    async with opened(tmp_path, file_bytes=5000) as journal:

        async def append(n: int) -> None:
            await journal.append(frame(n))
            assert frame(n).data in on_disk

        for _ in range(5):
            await asyncio.gather(*map(append, range(20)))


async def test_what_waits_shares_one_sync(tmp_path: Path, disk: Disk) -> None:
    async with opened(tmp_path) as journal:
        await asyncio.gather(*(journal.append(frame(n)) for n in range(1000)))
        assert disk.syncs == journal.commits == 1

        async def keep_on(number: int) -> None:
            for n in range(20):
                await journal.append(frame(number * 100 + n))

        await asyncio.gather(*map(keep_on, range(50)))
        assert journal.commits <= 1 + 20 * 3


async def test_one_sync_covers_bounded_bytes(tmp_path: Path, disk: Disk) -> None:
    async with opened(tmp_path, group_bytes_max=10_000) as journal:
        large = journal.append(frame(0, 50_000))  # alone, since it is larger than a group may be
        await asyncio.gather(large, *(journal.append(frame(n, 1000)) for n in range(1, 100)))
        assert sorted(disk.sizes)[-1] < 51_000
        assert sorted(disk.sizes)[-2] <= 10_000
        assert 11 <= disk.syncs <= 13
        assert len((await read_all(journal)).records) == 100


async def test_a_disk_that_takes_little_at_a_time_gets_all(tmp_path: Path, disk: Disk) -> None:
    disk.short = 7
    frames = [frame(n, 300) for n in range(20)]
    async with opened(tmp_path, file_bytes=2000) as journal:
        await asyncio.gather(*map(journal.append, frames))
    async with opened(tmp_path) as journal:
        assert [as_frame(record) for record in (await read_all(journal)).records] == frames


async def refused(journal: FileJournal, *frames: Frame) -> None:
    """Append *frames* together; each of them must be refused."""
    results = await asyncio.wait_for(
        asyncio.gather(*map(journal.append, frames), return_exceptions=True), 10
    )
    for result in results:
        assert isinstance(result, JournalError), result
        assert result.code == "journal_unwritable"


FAILURES = {
    "full": (errno.ENOSPC, "write"),
    "broken": (errno.EIO, "fdatasync"),
    "broken for writing too": (errno.EIO, "write", "fdatasync"),
    "so that nothing can be cut off": (errno.EIO, "fdatasync", "ftruncate"),
    "read-only": (errno.EROFS, "write", "ftruncate"),
}
failures = pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())


@failures
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("before", [0, 5])
async def test_a_failing_disk_refuses_all_that_waits_and_recovers_by_itself(
    tmp_path: Path, disk: Disk, failure: tuple[int, *tuple[str, ...]], times: int, before: int
) -> None:
    async with opened(tmp_path) as journal:
        frames = [frame(n) for n in range(before)]
        await append_all(journal, frames)
        for attempt in range(times):
            disk.fail(*failure)
            await refused(journal, *(frame(1000 + 10 * attempt + n) for n in range(4)))
            assert journal.trouble == os.strerror(failure[0])
            assert (journal.end, sum(journal.accepted.values())) == (before, before)
        disk.heal()
        for n in range(before, before + 10):
            assert await journal.append(frame(n)) == n + 1
            frames.append(frame(n))
        assert journal.trouble is None
        reading = await read_all(journal)
        assert [as_frame(record) for record in reading.records] == frames
        assert (reading.lost_frames, reading.lost_events) == (0, {})
        await kill(journal)
    async with opened(tmp_path) as journal:
        assert (journal.end, journal.accepted) == (len(frames), {"web": len(frames)})
        reading = await read_all(journal)
        assert [as_frame(record) for record in reading.records] == frames
        assert (reading.lost_frames, reading.lost_events) == (0, {})


@failures
async def test_a_crash_after_a_failure_gives_no_position_two_contents(
    tmp_path: Path, disk: Disk, failure: tuple[int, *tuple[str, ...]]
) -> None:
    journal = await open_journal(tmp_path)
    frames = [frame(n) for n in range(5)]
    unacknowledged = [frame(n) for n in range(100, 104)]
    await append_all(journal, frames)
    disk.fail(*failure)
    await refused(journal, *unacknowledged)
    disk.heal()
    await kill(journal)
    async with opened(tmp_path) as journal:
        # What was not acknowledged may be there or not; from now on it is one of both.
        found = [as_frame(record) for record in (await read_all(journal)).records]
        assert found == frames or (
            found == frames + unacknowledged and "ftruncate" in failure  # else they were cut off
        )
        assert journal.end == journal.end_at_open == len(found)
        assert await journal.append(frame(200)) == len(found) + 1
        again = [as_frame(record) for record in (await read_all(journal)).records]
        assert again == [*found, frame(200)]


async def test_what_could_not_be_cut_off_is_ignored_even_behind_damage(
    tmp_path: Path, disk: Disk
) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, map(frame, range(5)))
        disk.fail(errno.EIO, "fdatasync", "ftruncate")
        await refused(journal, *(frame(n) for n in range(100, 109)))
        disk.heal()
        await append_all(journal, map(frame, range(5, 8)))
        abandoned, newest = files(tmp_path)
        assert [*layout(abandoned)] == list(range(1, 15))
        assert [*layout(newest)] == [6, 7, 8]
        start, end = layout(abandoned)[5]
        whole = bytearray(abandoned.read_bytes())
        whole[start:end] = bytes(end - start)
        abandoned.write_bytes(whole)

        expected = [frame(n) for n in (0, 1, 2, 3, 5, 6, 7)]
        for bytes_max in (1, 1 << 20):
            reading = await read_all(journal, 0, bytes_max)
            assert [as_frame(record) for record in reading.records] == expected
            assert reading.lost_frames == 1
    async with opened(tmp_path) as journal:
        assert journal.end == 8
        reading = await read_all(journal)
        assert [as_frame(record) for record in reading.records] == expected
        assert (reading.lost_frames, reading.lost_events) == (1, {"web": 1})


async def test_a_reader_may_wait_at_the_end_of_a_file_that_is_abandoned(
    tmp_path: Path, disk: Disk
) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, map(frame, range(3)))
        await read_all(journal)
        reading = asyncio.create_task(journal.read(3, 1))
        disk.fail(errno.EIO, "fdatasync", "ftruncate")
        await refused(journal, frame(100), frame(101))
        disk.heal()
        assert not reading.done()
        await journal.append(frame(3))
        assert [as_frame(record) for record in (await reading).records] == [frame(3)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with mounted(tmp_path / "small", 1) as disk:
        yield disk


async def test_a_full_disk_refuses_and_takes_again_when_it_has_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    async with opened(small_disk / "journal", file_bytes=100_000) as journal:
        frames: list[Frame] = []

        async def fill() -> None:
            for n in range(1000):
                try:
                    await journal.append(one := frame(len(frames), 10_000))
                except JournalError:
                    assert n
                    return
                frames.append(one)

        # The journal is not told of a limit here that would let it refuse before the disk does.
        journal._space._limit_until = float("inf")
        for size in (300_000, 100_000, 0):
            ballast.write_bytes(bytes(size or 1))
            await fill()
            assert journal.trouble == os.strerror(errno.ENOSPC)
            await refused(journal, *(frame(n, 50_000) for n in range(5000, 5003)))
            check = await read_all(journal)
            assert [as_frame(record) for record in check.records] == frames
            assert check.lost_frames == 0
        ballast.unlink()
        await kill(journal)
    async with opened(small_disk / "journal") as journal:  # on a disk that is full
        found = [as_frame(record) for record in (await read_all(journal)).records]
        assert found[: len(frames)] == frames
        journal.forget(journal.end)
        assert await journal.append(frame(9999)) == len(found) + 1


async def test_a_limit_on_the_size_of_files_is_a_disk_error_like_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await append_all(journal, map(frame, range(3)))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = files(tmp_path)[-1].stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500, limits[1]))
        try:
            await refused(journal, *(frame(n, 400) for n in range(100, 104)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await journal.append(frame(3)) == 4
        found = [as_frame(record) for record in (await read_all(journal)).records]
        assert found == [*map(frame, range(4))]


async def test_a_file_that_cannot_be_begun_refuses_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Callable[..., object]]] = [
        ("fsync", os.fsync),
        ("rename", os.rename),
        ("open", os.open),
    ]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with opened(tmp_path) as journal:
        opened_before = len(os.listdir(f"/proc/{os.getpid()}/fd"))
        for n, (name, _) in enumerate(calls):
            journal._appender._let_go()
            before = [path for path in files(tmp_path) if layout(path)]
            with monkeypatch.context() as patch:
                patch.setattr(os, name, refuse)
                for _ in range(20):
                    await refused(journal, frame(100))
            assert [path for path in files(tmp_path) if layout(path)] == before
            assert await journal.append(frame(n)) == n + 1
        found = [as_frame(record) for record in (await read_all(journal)).records]
        assert found == [*map(frame, range(len(calls)))]
        assert len(os.listdir(f"/proc/{os.getpid()}/fd")) <= opened_before + 5
