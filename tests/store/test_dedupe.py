"""The dedupe index against a plain dict: false candidates are allowed, a missing one never."""

import contextlib
import os
import random
import shutil
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from collector.store import dedupe, runs
from collector.store.dedupe import DedupeSettings, SeenIndex
from collector.store.seen import ID_BYTES, NO_HISTORY, decode_manifest, history_of


class Row(NamedTuple):
    """A row of `collector.seen`."""

    first_seq: int
    ids: bytes
    history: bytes

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.ids) // ID_BYTES - 1


class Authority:
    """`collector.seen` and `collector.sequence` as plain lists."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.last = 0
        self.history = NO_HISTORY

    def store(self, ids: bytes) -> Row:
        self.history = history_of(self.history, ids)
        self.rows.append(Row(self.last + 1, ids, self.history))
        self.last += len(ids) // ID_BYTES
        return self.rows[-1]

    def read(self, index: SeenIndex) -> None:
        """Bring *index* up to date, as the writer does."""
        if index.last_seq and not any(
            row.last_seq == index.last_seq and row.history == index.history for row in self.rows
        ):
            index.reset()
        fresh = [row for row in self.rows if row.first_seq > index.last_seq]
        if not fresh and index.last_seq < self.last:
            index.reset()
            index.adopt(self.last, self.history)
        for row in fresh:
            if row.first_seq != index.last_seq + 1:
                index.skip(row.first_seq - 1)
            while index.busy:
                time.sleep(0.001)
            index.add(row.first_seq, row.ids, row.history)

    def known(self) -> list[tuple[bytes, int]]:
        return [
            (row.ids[at : at + ID_BYTES], row.first_seq + at // ID_BYTES)
            for row in self.rows
            for at in range(0, len(row.ids), ID_BYTES)
        ]


def fresh_ids(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count * ID_BYTES)


def assert_knows(index: SeenIndex, known: list[tuple[bytes, int]]) -> None:
    found = set(index.candidates([id_ for id_, _ in known]))
    missing = [seq for at, (_, seq) in enumerate(known) if (at, seq) not in found]
    assert not missing, f"{len(missing)} of {len(known)} ids are not found, seq {missing[:5]}"


class IndexMachine(RuleBasedStateMachine):
    """Anything that may happen to an index, in any order."""

    @initialize(recent=st.sampled_from([1, 5, 16, 64]), bits=st.sampled_from([1, 100, 10_000_000]))
    def begin(self, recent: int, bits: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dedupe"))
        self.directory = self.root / "0"
        self.settings = DedupeSettings(recent_ids=recent, filter_bytes_max=bits)
        self.authority = Authority()
        self.seed = 0
        self.copies = 0
        self.index = SeenIndex(self.directory, self.settings)
        self.index.open()

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            shutil.rmtree(self.root)

    def _open(self) -> None:
        self.index = SeenIndex(self.directory, self.settings)
        self.index.open()
        self.authority.read(self.index)

    @rule(counts=st.lists(st.integers(1, 40), min_size=1, max_size=20))
    def store(self, counts: list[int]) -> None:
        for count in counts:
            self.seed += 1
            row = self.authority.store(fresh_ids(count, self.seed))
            while self.index.busy:
                time.sleep(0.001)
            self.index.add(row.first_seq, row.ids)

    @rule(counts=st.lists(st.integers(1, 300), min_size=1, max_size=5))
    def another_collector_stores(self, counts: list[int]) -> None:
        for count in counts:
            self.seed += 1
            self.authority.store(fresh_ids(count, self.seed))
        self.authority.read(self.index)

    @rule(where=st.floats(0, 1, exclude_max=True))
    def look_up(self, where: float) -> None:
        known = self.authority.known()
        at = int(where * len(known))
        assert_knows(self.index, known[at : at + 200])

    @rule()
    def ask_for_what_was_never_stored(self) -> None:
        self.index.candidates([os.urandom(ID_BYTES) for _ in range(50)])

    @rule(share=st.floats(0, 1))
    def expire(self, share: float) -> None:
        rows = self.authority.rows
        self.authority.rows = rows[int(len(rows) * share) :]
        if self.authority.rows:
            self.index.expire(self.authority.rows[0].first_seq)

    @rule()
    def pause(self) -> None:
        time.sleep(0.005)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self._open()

    @rule(others=st.booleans())
    def crash(self, others: bool) -> None:
        """Go on from what is on the disk at this moment, as another process would."""
        self.copies += 1
        copied = self.root / str(self.copies)
        copied.mkdir()
        for path in self.directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                shutil.copyfile(path, copied / path.name)
        self.index.close()
        self.directory = copied
        if others:
            self.seed += 1
            self.authority.store(fresh_ids(17, self.seed))
        self._open()

    @rule(
        which=st.floats(0, 1, exclude_max=True),
        where=st.floats(0, 1, exclude_max=True),
        how=st.sampled_from(["flip", "cut", "longer", "empty", "remove"]),
    )
    def damage(self, which: float, where: float, how: str) -> None:
        self.index.close()
        files = sorted(self.directory.iterdir(), key=lambda path: (path.stat().st_size, path.name))
        if files:
            path = files[int(which * len(files))]
            content = bytearray(path.read_bytes())
            if how == "flip" and content:
                content[int(where * len(content))] ^= 1 << int(which * 1000) % 8
            elif how == "cut":
                del content[int(where * len(content)) :]
            elif how == "longer":
                content += b"x"
            elif how == "empty":
                content.clear()
            path.unlink() if how == "remove" else path.write_bytes(content)
        self._open()

    @rule(kept=st.integers(0, 10))
    def postgres_is_restored(self, kept: int) -> None:
        """The history goes back, and on in another way."""
        rows = self.authority.rows[:kept]
        self.authority.rows = rows
        self.authority.last = rows[-1].last_seq if rows else 0
        self.authority.history = rows[-1].history if rows else NO_HISTORY
        for _ in range(3):
            self.seed += 1
            self.authority.store(fresh_ids(25, self.seed))
        self.authority.read(self.index)

    @invariant()
    def the_newest_are_known(self) -> None:
        if hasattr(self, "index"):
            assert self.index.last_seq == self.authority.last
            assert self.index.history == self.authority.history
            rows = self.authority.rows[-3:]
            newest = Authority()
            newest.rows = rows
            assert_knows(self.index, newest.known())


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SeenIndex]:
    """An index that writes a file for every thousand ids."""
    opened = SeenIndex(tmp_path / "dedupe", DedupeSettings(recent_ids=1_000))
    opened.open()
    yield opened
    opened.close()


def fill(index: SeenIndex, authority: Authority, rows: int, each: int = 500) -> None:
    for _ in range(rows):
        row = authority.store(os.urandom(each * ID_BYTES))
        while index.busy:
            time.sleep(0.001)
        index.add(row.first_seq, row.ids)


def settled(index: SeenIndex, authority: Authority, files: int) -> None:
    """Wait until the threads have brought it down to so many files."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        fill(index, authority, 1, 1)
        if len(list(index._directory.glob("*.run"))) <= files:
            return
        time.sleep(0.01)
    raise AssertionError(sorted(index._directory.iterdir()))


def test_every_id_is_found_while_threads_write_and_merge(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path / "dedupe", DedupeSettings(recent_ids=512))
    index.open()
    authority = Authority()
    known: list[tuple[bytes, int]] = []
    pick = random.Random(1)
    for _ in range(250):
        row = authority.store(os.urandom(200 * ID_BYTES))
        while index.busy:
            time.sleep(0.001)
        index.add(row.first_seq, row.ids)
        known += [
            (row.ids[at : at + ID_BYTES], row.first_seq + at // ID_BYTES)
            for at in range(0, len(row.ids), ID_BYTES)
        ]
        assert_knows(index, pick.sample(known, 100))
    assert_knows(index, known)
    assert index.count == len(known) == 50_000
    settled(index, authority, 30)
    assert_knows(index, known)
    index.close()
    manifest = decode_manifest((tmp_path / "dedupe" / "manifest").read_bytes())
    assert max(facts.level for facts in manifest.runs) >= 2


def test_an_index_that_was_closed_knows_what_it_knew(tmp_path: Path) -> None:
    directory, authority = tmp_path / "dedupe", Authority()
    chosen = DedupeSettings(recent_ids=1_000)
    index = SeenIndex(directory, chosen)
    index.open()
    fill(index, authority, 40)
    settled(index, authority, 20)
    index.close()
    again = SeenIndex(directory, chosen)
    again.open()
    assert 0 < authority.last - again.last_seq < 10_000
    assert again.history == next(r.history for r in authority.rows if r.last_seq == again.last_seq)
    authority.read(again)
    assert_knows(again, authority.known())
    again.close()


@pytest.mark.parametrize("part", ["hashes", "offsets", "filter", "starts", "manifest"])
def test_a_flipped_bit_is_noticed_wherever_it_is(
    tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory, authority = tmp_path / "dedupe", Authority()
    chosen = DedupeSettings(recent_ids=1_000)
    index = SeenIndex(directory, chosen)
    index.open()
    fill(index, authority, 20)
    settled(index, authority, 20)
    index.close()
    facts = decode_manifest((directory / "manifest").read_bytes()).runs[0]
    path = directory / ("manifest" if part == "manifest" else facts.file)
    size = path.stat().st_size
    at = {
        "hashes": 100,
        "offsets": facts.count * 8 + 100,
        "filter": facts.count * 12 + 10,
        "starts": size - 3,
        "manifest": size // 2,
    }[part]
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    again = SeenIndex(directory, chosen)
    again.open()
    assert (again.last_seq, again.count) == (0, 0)
    assert "damaged" in caplog.text
    authority.read(again)
    assert_knows(again, authority.known())
    again.close()


def test_a_file_that_becomes_unreadable_is_built_anew(index: SeenIndex) -> None:
    authority = Authority()
    fill(index, authority, 20)
    settled(index, authority, 20)
    for path in index._directory.glob("*.run"):
        os.truncate(path, 0)
    with pytest.raises(OSError, match="shorter"):
        index.candidates([id_ for id_, _ in authority.known()])
    authority.read(index)
    assert_knows(index, authority.known())


def test_a_disk_that_refuses_bounds_the_memory_and_loses_nothing(
    index: SeenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "RETRY_SECONDS", 0.05)
    authority = Authority()
    fill(index, authority, 20)
    settled(index, authority, 20)
    away = index._directory.with_name("away")
    index._directory.rename(away)

    def store_for_long() -> None:
        for _ in range(100):
            row = authority.store(os.urandom(500 * ID_BYTES))
            index.add(row.first_seq, row.ids)
            time.sleep(0.01)

    with pytest.raises(OSError, match="cannot be written"):
        store_for_long()
    refused = authority.rows.pop()
    assert_knows(index, authority.known())
    assert index.count <= index.last_seq
    away.rename(index._directory)
    time.sleep(0.1)
    authority.rows.append(refused)
    until = time.monotonic() + 10
    while index.last_seq < authority.last and time.monotonic() < until:
        try:
            index.add(refused.first_seq, refused.ids, refused.history)
        except OSError:
            # What is in memory goes to a file as soon as there may be one.
            index._start()
            time.sleep(0.05)
    assert_knows(index, authority.known())
    assert not list(index._directory.glob("*.new"))


def test_a_failed_write_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_recent(tmp_path, {1: 1, 2: 2}, 16, lambda: False)
    assert not list(tmp_path.iterdir())


def test_neither_reset_nor_close_waits_for_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SLICE", 1 << 12)
    each = 60_000
    for end in (SeenIndex.reset, SeenIndex.close):
        index = SeenIndex(tmp_path / end.__name__, DedupeSettings(recent_ids=each))
        index.open()
        authority = Authority()
        for _ in range(30):
            fill(index, authority, 1, each)
            if index._merge is not None:
                break
            time.sleep(0.05)
        assert index._merge is not None
        work = index._merge.work
        began = time.monotonic()
        end(index)
        assert time.monotonic() - began < 0.5
        if end is SeenIndex.reset:
            authority.read(index)
            assert_knows(index, authority.known()[::100])
            index.close()
        assert work.done()
        kept = {path.name for path in (tmp_path / end.__name__).glob("*.run")}
        opened = SeenIndex(tmp_path / end.__name__, DedupeSettings())
        opened.open()
        assert opened.last_seq
        assert kept >= {run.facts.file for run in opened._runs}
        opened.close()


def test_a_merge_takes_memory_for_a_slice_and_not_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SLICE", 1 << 14)
    each = 1 << 16
    made = []
    for number in range(8):
        hashes = memoryview(os.urandom(each * 8)).cast("Q")
        recent = {hash_: number * each + at + 1 for at, hash_ in enumerate(hashes)}
        made.append(runs.write_recent(tmp_path, recent, 8, lambda: False))
    tracemalloc.start()
    merged = runs.merge(tmp_path, made, 8, lambda: False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    ids = 8 * each
    # The filter and the bucket starts stay; a slice is held a few times over.
    assert peak < ids * 8 / 8 + ids // 64 * 40 + 2 * runs.SLICE * 80 + 2_000_000, peak
    assert merged.facts.count == ids
    assert all(merged.find(hash_) == [seq] for hash_, seq in list(recent.items())[::50])
    for run in [*made, merged]:
        run.close()


def test_filters_stay_near_their_bound_however_many_ids_there_are(tmp_path: Path) -> None:
    bound = 50_000
    index = SeenIndex(tmp_path, DedupeSettings(recent_ids=1_000, filter_bytes_max=bound))
    index.open()
    authority = Authority()
    most = 0.0
    for _ in range(300):
        fill(index, authority, 1, 1_000)
        least = index.count * runs.BITS_MIN / 8
        most = max(most, index.memory_bytes / (max(bound, least) + index.count / 8))
    assert most < 2.0, most
    index.close()


def test_runs_too_far_apart_are_not_merged(
    index: SeenIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "SPAN_MAX", 20_000)
    authority = Authority()
    for _ in range(12):
        fill(index, authority, 2)
        # Nine tenths of all seqs left the window, or are of no concern.
        authority.rows[:] = authority.rows[-2:]
        authority.last += 9_000
        index.skip(authority.last)
    time.sleep(0.1)
    fill(index, authority, 1, 1)
    assert {run.facts.level for run in index._runs} == {0}
    assert_knows(index, authority.known())
