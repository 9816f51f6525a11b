"""
The journal against a plain dictionary: append, read, forget, fail, break, crash, open again.

A crash is a copy of the directory made at any of the journal's system calls. What was written but
not synced by then is cut off anywhere, or is zeros or garbage from there on; a name that was not
synced is as it was before. A frame that was not acknowledged may be there after a crash or not;
from then on it is one of both.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from collector.errors import JournalError
from collector.journal import FileJournal, Frame
from collector.journal.segment import Segment

from .harness import as_frame, files, forget, frame, kill, open_journal, read_all

SIZES = st.one_of(st.sampled_from([0, 1, 700, 5000, 200_000]), st.integers(0, 3000))
SPECS = st.lists(
    st.tuples(SIZES, st.integers(0, 3), st.integers(0, 5), st.booleans()), min_size=1, max_size=12
)
CALLS = ("open", "write", "fsync", "fdatasync", "rename", "ftruncate")


class Disk:
    """Between the journal and the system: may fail a call, and be photographed before one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = 0
        self.failing: frozenset[str] = frozenset()
        self.failing_from = 0  # the first call that fails
        self.photograph_at = -1
        self.photograph: dict[str, tuple[bytes, int]] | None = None  # bytes, and how many synced
        self.unnamed: dict[str, tuple[bytes, int] | None] = {}  # what a crash brings back
        self.journal: FileJournal
        self.end = 0  # of the journal when the photograph was taken
        self._synced = {path.name: path.stat().st_size for path in directory.iterdir()}
        self._real = {name: getattr(os, name) for name in CALLS}

    @contextmanager
    def between(self) -> Iterator[None]:
        for name in CALLS:
            setattr(os, name, getattr(self, name))
        try:
            yield
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    def _look(self) -> dict[str, tuple[bytes, int]]:
        return {
            path.name: (path.read_bytes(), self._synced.get(path.name, 0))
            for path in self.directory.iterdir()
        }

    def _before(self, call: str) -> None:
        if self.calls == self.photograph_at:
            self.photograph = self._look()
            self.unnamed = dict(self.unnamed)
            self.frozen = dict(self.unnamed)
            self.end = self.journal.end
        self.calls += 1
        if call in self.failing and self.calls > self.failing_from:
            raise OSError(5, "Input/output error")

    def _name(self, fd: int) -> str | None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        return path.name if self.directory in (path, path.parent) else None

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TRUNC:
            self._before("open")
            self._synced[path.name] = 0
        return int(self._real["open"](path, flags, mode))

    def write(self, fd: int, data: memoryview) -> int:
        if self._name(fd) is None:
            return int(self._real["write"](fd, data))
        self._before("write")
        half = len(data) // 2 or 1  # the next call may find it half written
        return int(self._real["write"](fd, data[:half]))

    def _sync(self, call: str, fd: int) -> None:
        name = self._name(fd)
        if name is not None:
            self._before(call)
        self._real[call](fd)
        if name == self.directory.name:
            self.unnamed = {}
        elif name is not None:
            self._synced[name] = os.fstat(fd).st_size

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self._before("ftruncate")
        self._real["ftruncate"](fd, size)
        name = self._name(fd)
        assert name
        self._synced[name] = min(size, self._synced.get(name, 0))

    def rename(self, source: Path, target: Path) -> None:
        self._before("rename")
        if target.name not in self.unnamed:
            old = self._synced.get(target.name)
            self.unnamed[target.name] = None if old is None else (target.read_bytes(), old)
        self._real["rename"](source, target)
        self._synced[target.name] = self._synced.pop(source.name, 0)

    def develop(self, directory: Path, chance: random.Random) -> None:
        """Make *directory* what a crash might have left at the time of the photograph."""
        assert self.photograph is not None
        left = dict(self.photograph)
        for name, before in self.frozen.items():
            if chance.random() < 0.5:
                left.pop(name, None)
                if before is not None:
                    left[name] = before
        directory.mkdir()
        for name, (content, synced) in left.items():
            size = chance.choice([synced, len(content), chance.randint(synced, len(content))])
            rest = len(content) - size
            tail = chance.choice([b"", bytes(rest), chance.randbytes(rest)])
            (directory / name).write_bytes(content[:size] + tail)


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="journal-model-"))
        self.directory = self.root / "0"
        self.runner = asyncio.Runner()
        self.number = 0
        self.known: dict[int, Frame] = {}  # what was acknowledged, by position
        self.lost: set[int] = set()  # of those, what was damaged since
        self.refused: list[Frame] = []  # what was not acknowledged, and may yet appear by a crash
        self.end = self.stored = 0
        self.accepted: Counter[str] = Counter()
        self.damaged = False  # ever
        self.tampered = False  # with the file that is being written, which it will notice
        self.sizes = {"file_bytes": 2000, "group_bytes_max": 10_000}
        self.open()

    def open(self) -> None:
        self.tampered = self.wrote = False
        self.journal = self.runner.run(open_journal(self.directory, **self.sizes))

    def teardown(self) -> None:
        self.runner.run(self.journal.close())
        self.runner.close()
        shutil.rmtree(self.root)

    def frames(self, specs: list[tuple[int, int, int, bool]]) -> list[Frame]:
        made = []
        for size, source, events, hostile in specs:
            self.number += 1
            one = frame(self.number, size, f"source {source}", events)
            if hostile and (paths := files(self.directory)):  # data that looks like the journal's
                one = one._replace(data=one.data[: size // 2] + paths[-1].read_bytes()[-size:])
            made.append(one)
        return made

    def acknowledge(self, position: int, one: Frame) -> None:
        assert position == self.end + 1
        self.wrote = True
        self.end = position
        self.known[position] = one
        self.accepted[one.source] += one.events

    async def together(self, frames: list[Frame]) -> list[int | BaseException]:
        return await asyncio.gather(*map(self.journal.append, frames), return_exceptions=True)

    # --- what may happen -------------------------------------------------------------------

    @rule(specs=SPECS)
    def append(self, specs: list[tuple[int, int, int, bool]]) -> None:
        frames = self.frames(specs)
        results = self.runner.run(self.together(frames))
        for one, result in zip(frames, results, strict=True):
            if isinstance(result, int):
                self.acknowledge(result, one)
            else:
                assert self.tampered, result
                self.refused.append(one)
        if self.tampered:
            self.tampered = False
            self.append(specs)

    @precondition(lambda self: self.end > self.stored)
    @rule(share=st.floats(0, 1), bytes_max=st.sampled_from([1, 1000, 1 << 20]))
    def read(self, share: float, bytes_max: int) -> None:
        after = self.stored + int(share * (self.end - self.stored))
        reading = self.runner.run(read_all(self.journal, after, bytes_max))
        expected = {p: one for p, one in self.known.items() if p > after and p not in self.lost}
        found = {record.position: as_frame(record) for record in reading.records}
        assert found.keys() == expected.keys(), (found.keys() - expected, expected.keys() - found)
        assert found == expected
        assert reading.lost_frames == self.end - after - len(expected)
        worth: Counter[str] = Counter()
        for position in self.lost:
            worth[self.known[position].source] += self.known[position].events
        assert Counter(reading.lost_events) <= worth
        if not self.damaged:
            totals = Counter(self.runner.run(self.journal.totals_at(after)))
            for position in range(after + 1, self.end + 1):
                totals[self.known[position].source] += self.known[position].events
            assert +totals == +self.accepted

    @rule(share=st.floats(0, 1))
    def forget(self, share: float) -> None:
        self.stored += int(share * (self.end - self.stored))
        self.runner.run(forget(self.journal, self.stored))
        assert self.damaged or self.journal.oldest <= self.stored + 1

    @rule(
        file_bytes=st.sampled_from([1, 2000, 100_000]),
        group_bytes_max=st.sampled_from([1, 10_000, 1_000_000]),
    )
    def reopen(self, file_bytes: int, group_bytes_max: int) -> None:
        self.runner.run(self.journal.close())
        self.sizes = {"file_bytes": file_bytes, "group_bytes_max": group_bytes_max}
        self.open()
        if self.journal.end != self.end:  # the end is known if this process wrote anything
            assert self.damaged
            assert not self.wrote
        self.recover()

    @rule()
    def renew(self) -> None:
        identity = self.journal.id
        assert self.runner.run(self.journal.renew(self.stored)) != identity

    @rule(
        specs=SPECS,
        calls=st.frozensets(st.sampled_from(CALLS), min_size=1),
        failing_from=st.integers(0, 12),
    )
    def fail(
        self, specs: list[tuple[int, int, int, bool]], calls: frozenset[str], failing_from: int
    ) -> None:
        frames = self.frames(specs)
        disk = Disk(self.directory)
        disk.journal, disk.failing, disk.failing_from = self.journal, calls, failing_from
        with disk.between():
            results = self.runner.run(self.together(frames))
        for one, result in zip(frames, results, strict=True):
            if isinstance(result, int):
                self.acknowledge(result, one)
            else:
                assert isinstance(result, JournalError)
                self.refused.append(one)

    @rule(specs=SPECS, photograph_at=st.integers(0, 40), seed=st.integers(0, 2**32))
    def crash(self, specs: list[tuple[int, int, int, bool]], photograph_at: int, seed: int) -> None:
        frames = self.frames(specs)
        disk = Disk(self.directory)
        disk.journal, disk.photograph_at = self.journal, photograph_at
        with disk.between():
            results = self.runner.run(self.together(frames))
            self.runner.run(kill(self.journal))
            if disk.photograph is None:  # it was late: at rest, then
                disk.photograph_at = disk.calls
                disk._before("")
        for one, result in zip(frames, results, strict=True):
            assert self.tampered or isinstance(result, int), result
            if isinstance(result, int) and result <= disk.end:
                self.acknowledge(result, one)
            else:
                self.refused.append(one)
        shutil.rmtree(self.directory)
        self.directory = self.root / str(int(self.directory.name) + 1)
        disk.develop(self.directory, random.Random(seed))
        self.open()
        self.recover()

    def recover(self) -> None:
        """Take over what the journal has after a crash, as far as it may have that."""
        end = self.journal.end
        for position in range(end + 1, self.end + 1):  # its torn tail is what was damaged in it
            gone = position in self.lost or position <= self.stored
            assert gone, f"{position} was acknowledged and is gone"
            self.lost.discard(position)
            del self.known[position]
        found = {}
        if end > self.stored:
            reading = self.runner.run(read_all(self.journal, self.stored))
            found = {record.position: as_frame(record) for record in reading.records}
        for position in range(self.end + 1, end + 1):
            if position not in found:  # damaged before anybody knew it
                assert self.damaged
                found[position] = Frame(b"", "", 0)
                self.lost.add(position)
            else:
                assert found[position] in self.refused
            self.known[position] = found[position]
            self.accepted[found[position].source] += found[position].events
        self.end = end
        self.stored = min(self.stored, end)
        self.refused = []

    @precondition(lambda self: files(self.directory))
    @rule(
        which=st.integers(0, 1000),
        place=st.floats(0, 1),
        length=st.sampled_from([0, 1, 1, 30, 3000]),
        seed=st.integers(0, 2**32),
        how=st.sampled_from(["flip", "flip", "overwrite", "splice", "cut", "unlink"]),
    )
    def damage(self, which: int, place: float, length: int, seed: int, how: str) -> None:
        paths = files(self.directory)
        index = which % len(paths)
        path, chance = paths[index], random.Random(seed)
        segment = Segment.load(path)
        segment.mark = self.journal._appender.identity.mark
        whole = path.read_bytes()
        records = list(segment.records(0))
        start = int(place * len(whole))
        stop = min(len(whole), start + length)
        changed = bytearray(whole)
        match how:
            case "flip" if start < len(whole):
                changed[start] ^= 1 << chance.randrange(8)
                stop = start + 1
            case "overwrite":
                changed[start:stop] = bytes(
                    byte ^ chance.randint(1, 255) for byte in whole[start:stop]
                )
            case "splice":
                changed[start:stop] = chance.randbytes(chance.choice([0, 1, 100]))
            case "cut":
                stop = len(whole)
                del changed[start:]
            case "unlink":
                start, stop = 0, len(whole)
                changed.clear()
                path.unlink()
        if bytes(changed) == whole and path.exists():
            return
        self.tampered |= index == len(paths) - 1 and len(changed) != len(whole)
        self.tampered |= not path.exists()
        self.damaged = True
        following = int(paths[index + 1].stem) if index + 1 < len(paths) else self.end + 1
        begin = segment.data_start
        for record, behind in records:
            # The record's own beginning, whatever garbage is in front of it.
            begin = behind - _length(record.source, record.data)
            hit = begin < stop and start < behind if start < stop else begin < start < behind
            if hit and segment.first <= record.position < following:
                self.lost.add(record.position)
        if path.exists():
            with path.open("r+b") as file:  # the same file, which may be open
                file.write(changed)
                file.truncate()
            # A bit that flips twice is whole again; data may hold a copy of what was lost.
            last = segment.first - 1
            for record, _ in segment.records(0):
                if last < record.position < following:
                    last = record.position
                    if as_frame(record) == self.known.get(last):
                        self.lost.discard(last)

    @invariant()
    def its_end_is_known(self) -> None:
        assert self.journal.end == self.end
        if not self.damaged:
            assert +Counter(self.journal.accepted) == +self.accepted


def _length(source: str, data: bytes) -> int:
    return 34 + len(source.encode()) + len(data)


JournalMachine.TestCase.settings = hypothesis_settings(
    max_examples=int(os.environ.get("JOURNAL_MODEL_EXAMPLES", "60")),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestJournal = JournalMachine.TestCase
