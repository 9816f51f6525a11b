"""The journal's directory: one process at a time, and an identity that damage does not change."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.errors import ConfigError, JournalError
from collector.journal import FileJournal

from .harness import (
    append_all,
    as_frame,
    files,
    flip,
    forget,
    frame,
    kill,
    open_journal,
    opened,
    read_all,
    settings,
)

HOLD = """
import asyncio, sys
from pathlib import Path
from collector.journal import FileJournal, Frame, JournalSettings

async def main():
    settings = JournalSettings(disk_reserve_bytes=1, disk_share_max=1.0)
    journal = await FileJournal.open(Path(sys.argv[1]), settings)
    position = await journal.append(Frame(b"x", "web", 1))
    print(position, flush=True)
    if sys.stdin.readline() == "close\\n":
        await journal.close()
        print("closed", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


class Holder:
    """Another process that has the journal open."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdin
        self.position = int(self.process.stdout.readline())

    def close(self) -> None:
        """Let it close the journal, and stay."""
        assert self.process.stdout
        assert self.process.stdin
        self.process.stdin.write("close\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "closed\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("how", ["close", "kill -9"])
async def test_a_second_process_is_refused_until_the_first_lets_go(
    tmp_path: Path, how: str
) -> None:
    holder = Holder(tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(ConfigError, match=rf"process {holder.process.pid}\)"):
                await FileJournal.open(tmp_path, settings())
        if how == "close":
            holder.close()
        else:
            holder.process.send_signal(signal.SIGKILL)
            holder.process.wait()
        async with opened(tmp_path) as journal:
            assert journal.end == holder.position == 1
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    finally:
        holder.end()


async def test_the_lock_is_let_go_of_when_opening_fails(tmp_path: Path) -> None:
    (tmp_path / "identity.json").mkdir()
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be used"):
            await open_journal(tmp_path)
    (tmp_path / "identity.json").rmdir()
    async with opened(tmp_path) as journal:
        assert journal.end == 0


async def test_a_directory_that_cannot_be_made_is_a_setting_to_correct(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "journal", Path("/proc/journal")):
        with pytest.raises(ConfigError, match=str(directory)):
            await open_journal(directory)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """While it is open nothing can be made or changed in *directory*, not even by root."""
    if os.geteuid():
        directory.chmod(0o500)
        for path in directory.iterdir():
            path.chmod(0o400)
    else:
        mount = ["mount", "--bind", "-o", "ro", str(directory), str(directory)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        if os.geteuid():
            directory.chmod(0o700)
            for path in directory.iterdir():
                path.chmod(0o600)
        else:
            subprocess.run(["umount", "-l", str(directory)], check=True)


async def test_a_directory_that_cannot_be_written_is_a_setting_to_correct(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.append(frame(1))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with read_only(tmp_path), pytest.raises(ConfigError, match=r"Read-only|Permission denied"):
        await open_journal(tmp_path)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


async def test_a_directory_that_becomes_read_only_refuses_and_recovers(tmp_path: Path) -> None:
    async with opened(tmp_path, file_bytes=1) as journal:  # each frame in a file of its own
        await append_all(journal, map(frame, range(3)))
        with read_only(tmp_path):
            for n in range(2):
                with pytest.raises(JournalError, match="journal_unwritable"):
                    await journal.append(frame(100 + n))
            assert len((await read_all(journal)).records) == 3
            with pytest.raises(JournalError, match="journal_unwritable"):
                await journal.renew(3)
            assert journal.base == 0
        assert await journal.append(frame(3)) == 4
        found = [as_frame(record) for record in (await read_all(journal)).records]
        assert found == [*map(frame, range(4))]


async def test_a_directory_that_is_away_for_a_while_is_not_taken_for_a_loss(
    tmp_path: Path,
) -> None:
    """As when its disk is unmounted: nothing is lost, and nothing is written elsewhere."""
    directory = tmp_path / "journal"
    async with opened(directory, file_bytes=1) as journal:
        await append_all(journal, map(frame, range(5)))
        assert (await journal.read(0, 1)).end == 1
        directory.rename(tmp_path / "away")
        for empty in (False, True):
            if empty:
                directory.mkdir()
            with pytest.raises(JournalError, match="journal_unreadable"):
                await read_all(journal, 1)
            with pytest.raises(JournalError, match="journal_unwritable"):
                await journal.append(frame(100))
            assert not files(directory)
        directory.rmdir()
        (tmp_path / "away").rename(directory)
        assert await journal.append(frame(5)) == 6
        reading = await read_all(journal, 1)
        assert [as_frame(record) for record in reading.records] == [*map(frame, range(1, 6))]
        assert reading.lost_frames == 0


async def test_a_directory_replaced_while_running_is_not_written(tmp_path: Path) -> None:
    """Another process could have it: the lock went with the directory that was replaced."""
    directory, copy = tmp_path / "journal", tmp_path / "copy"
    async with opened(directory, file_bytes=1) as journal:
        await append_all(journal, map(frame, range(3)))
        shutil.copytree(directory, copy)
        await append_all(journal, map(frame, range(3, 5)))
        shutil.rmtree(directory)
        copy.rename(directory)
        async with opened(directory) as other:
            with pytest.raises(JournalError, match="journal_unwritable"):
                await journal.append(frame(100))
            reading = await read_all(journal)  # reading harms nobody
            assert [as_frame(record) for record in reading.records] == [*map(frame, range(3))]
            assert reading.lost_frames == 2
            assert other.end == 3


async def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    others = {"notes.journal": b"hello", "1.journal": b"", "٠" * 20 + ".journal": b"", "x": b"y"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    for _ in range(2):
        async with opened(tmp_path) as journal:
            await journal.append(frame(1))
    for name, content in others.items():
        assert (tmp_path / name).read_bytes() == content


async def test_unfinished_files_are_cleared_away(tmp_path: Path) -> None:
    for name in ("identity.new", "00000000000000000001.new"):
        (tmp_path / name).write_bytes(b"half")
    async with opened(tmp_path) as journal:
        assert await journal.append(frame(1)) == 1
        assert list(tmp_path.glob("*.new")) == []


IDENTITY_DAMAGES = {
    "gone": None,
    "empty": b"",
    "cut": 0.5,
    "not JSON": b"\0" * 100,
    "not text": b"\xff\xfe{}",
    "another shape": b'{"id": 5}',
    "without its checksum": b'{"identity":{"id":"x","base":1,"mark":"AAAA"},"crc32c":0}',
}


def damage_identity(directory: Path, how: bytes | float | None) -> None:
    path = directory / "identity.json"
    if how is None:
        path.unlink()
    elif isinstance(how, bytes):
        path.write_bytes(how)
    else:
        os.truncate(path, int(path.stat().st_size * how))


@pytest.mark.parametrize("how", IDENTITY_DAMAGES.values(), ids=IDENTITY_DAMAGES.keys())
@pytest.mark.parametrize("renewed", [False, True])
async def test_a_damaged_identity_is_found_in_the_newest_file(
    tmp_path: Path, how: bytes | float | None, renewed: bool
) -> None:
    async with opened(tmp_path, file_bytes=1) as journal:
        await append_all(journal, map(frame, range(5)))
        if renewed:
            await journal.renew(3)
        identity, base = journal.id, journal.base
    damage_identity(tmp_path, how)
    for _ in range(2):
        async with opened(tmp_path) as journal:
            assert (journal.id, journal.base, journal.end) == (identity, base, 5)
            assert len((await read_all(journal)).records) == 5


async def test_no_bit_of_the_identity_changes_it_unseen(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path)
    await journal.append(frame(1))
    identity = await journal.renew(1)
    await kill(journal)
    path = tmp_path / "identity.json"
    whole = path.read_bytes()
    for offset in range(len(whole)):
        flip(path, offset, offset % 8)
        journal = await open_journal(tmp_path)
        assert (journal.id, journal.base) == (identity, 1)
        await kill(journal)
        path.write_bytes(whole)


@pytest.mark.parametrize("how", [None, b"{}"])
async def test_without_any_trace_of_its_identity_a_journal_takes_a_new_one(
    tmp_path: Path, how: bytes | None
) -> None:
    """Then all that is still there is read again: the store knows the events that it has."""
    journal = await open_journal(tmp_path, file_bytes=1)
    await append_all(journal, map(frame, range(5)))
    identity = journal.id
    await forget(journal, 2)
    await kill(journal)
    damage_identity(tmp_path, how)
    flip(files(tmp_path)[-1], 20)
    async with opened(tmp_path) as journal:
        assert journal.id != identity
        assert (journal.base, journal.end) == (2, 5)
        found = [as_frame(record) for record in (await read_all(journal, journal.base)).records]
        assert found == [*map(frame, range(2, 5))]
        identity = journal.id
    async with opened(tmp_path) as journal:
        assert journal.id == identity


async def test_a_full_disk_keeps_no_journal_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:
        await journal.append(frame(1))

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    monkeypatch.setattr(os, "write", refuse)
    async with opened(tmp_path) as journal:
        assert len((await read_all(journal)).records) == 1


async def test_two_journals_have_different_identities_and_marks(tmp_path: Path) -> None:
    journals = [await open_journal(tmp_path / str(n)) for n in range(3)]
    assert len({journal.id for journal in journals}) == 3
    assert len({journal._appender.identity.mark for journal in journals}) == 3
    await asyncio.gather(*(journal.close() for journal in journals))


async def test_only_its_user_can_read_a_journal(tmp_path: Path) -> None:
    async with opened(tmp_path / "a" / "journal") as journal:
        await journal.append(frame(1))
        assert (tmp_path / "a" / "journal").stat().st_mode & 0o077 == 0
        for path in (tmp_path / "a" / "journal").iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
