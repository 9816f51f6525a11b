"""
Dedupe: which message ids were stored before, by id alone, over days, at a cost that stays flat.

`collector.seen` holds the 16-byte id of every stored event in the order of `seq`, one row for each
transaction. It is the authority: shared by all collectors on one Postgres, written in the same
transaction as the events, expired by dropping a day's partition. An index on it would cost more
than the events themselves, so the index is here: each collector keeps a replica of `seen` for
look-ups, the newest ids in a dict, older ones in sorted files (runs.py), and reads under the
`seq` lock what others stored since. `seq` is dense, so it knows that it missed none; a running
digest over all ids tells whether its history is still the one of this Postgres.

A hit is only a candidate: it is confirmed in `seen` with all 16 bytes before an event counts as
a duplicate. docs/decisions/dedupe.md has the figures.

Units    seq counts stored events from 1.
Errors   none; files that cannot be read are dropped, and the replica is built anew from `seen`.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from collector.settings import Bytes, Count, Section
from collector.store.seen import ID_BYTES, NO_HISTORY, Manifest, history_of

if TYPE_CHECKING:
    from collector.store.runs import Run

log = logging.getLogger(__name__)

FAN = 8  # runs of one level that are merged into one of the next


class DedupeSettings(Section, frozen=True, kw_only=True):
    """How far back a resent event is recognised, and what that may cost."""

    window_days: Count = 7
    filter_bytes_max: Bytes = 64_000_000  # of memory, for filters over all ids in the window
    recent_ids: Count = 65_536  # in a dict, before they are written to a file


class _Flush(NamedTuple):
    """Recent ids on their way to a file, and how far the files reach afterwards."""

    ids: dict[int, int]
    last_seq: int
    history: bytes
    work: "Future[Run]"


class _Merge(NamedTuple):
    runs: "list[Run]"
    work: "Future[Run]"


class SeenIndex:
    """A replica of `collector.seen` for look-ups. Its threads write files, its owner calls it."""

    def __init__(self, directory: Path, settings: DedupeSettings) -> None:
        self._directory = directory
        self._settings = settings
        self._recent: dict[int, int] = {}  # hash to seq
        self._runs: list[Run] = []
        self._flush: _Flush | None = None
        self._merge: _Merge | None = None
        # A long merge must not hold up the next flush, or the dict would grow.
        self._flusher = ThreadPoolExecutor(1, "dedupe-flush")
        self._merger = ThreadPoolExecutor(1, "dedupe-merge")
        self._saved = (0, NO_HISTORY)  # how far the files reach
        self.last_seq = 0
        self.history = NO_HISTORY

    # --- opening and closing ---------------------------------------------------------------

    def open(self) -> None:
        """Take over what an earlier process left; blocks while the filters are read."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            manifest = msgspec.msgpack.decode(self._manifest.read_bytes(), type=Manifest)
            if manifest.runs:
                from collector.store.runs import Run  # noqa: PLC0415  see _start_flush

                self._runs = [Run.open(self._directory, facts) for facts in manifest.runs]
        except FileNotFoundError:
            self.reset()
            return
        except (OSError, ValueError) as exc:
            log.warning("The dedupe files are damaged; they are built anew from Postgres: %s", exc)
            self.reset()
            return
        self.last_seq, self.history = self._saved = manifest.last_seq, manifest.history
        kept = {run.facts.file for run in self._runs}
        for path in self._directory.glob("*.run"):
            if path.name not in kept:  # of a merge that was not finished
                path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Forget everything: the history of this Postgres is another one."""
        self._wait()
        for run in self._runs:
            run.close()
        for path in self._directory.glob("*.run"):
            path.unlink(missing_ok=True)
        self._manifest.unlink(missing_ok=True)
        self._runs, self._recent = [], {}
        self.last_seq, self.history = self._saved = 0, NO_HISTORY

    def close(self) -> None:
        """Let go of the files. Ids that are in memory only are read from `seen` at the start."""
        self._wait()
        self._flusher.shutdown()
        self._merger.shutdown()
        for run in self._runs:
            run.close()
        self._runs = []

    def _wait(self) -> None:
        while self._flush or self._merge:
            for job in (self._flush, self._merge):
                if job is not None:
                    job.work.exception()
            self._settle()

    # --- facts -----------------------------------------------------------------------------

    @property
    def _manifest(self) -> Path:
        return self._directory / "manifest"

    @property
    def count(self) -> int:
        """Ids in the index."""
        flushing = len(self._flush.ids) if self._flush else 0
        return sum(run.facts.count for run in self._runs) + flushing + len(self._recent)

    @property
    def memory_bytes(self) -> int:
        """What filters and bucket starts take in memory."""
        return sum(run.memory_bytes for run in self._runs)

    # --- looking up ------------------------------------------------------------------------

    def candidates(self, ids: Sequence[bytes]) -> list[tuple[int, int]]:
        """(index into *ids*, seq) of every id that may have been stored as that seq."""
        hashes = [int.from_bytes(id_[:8], "little") for id_ in ids]
        found: list[tuple[int, int]] = []
        for known in (self._recent, self._flush.ids if self._flush else {}):
            if known:
                found += [(i, known[hash_]) for i, hash_ in enumerate(hashes) if hash_ in known]
        if self._runs:
            import numpy as np  # noqa: PLC0415  see _start_flush

            array = np.array(hashes, np.uint64)
            for run in self._runs:
                for index in run.maybe(array):
                    found += [(index, seq) for seq in run.find(hashes[index])]
        return found

    # --- growing and shrinking -------------------------------------------------------------

    def adopt(self, last_seq: int, history: bytes) -> None:
        """Begin behind *last_seq*: nothing older is in the window."""
        assert not self.count
        self.last_seq, self.history = last_seq, history

    def skip(self, last_seq: int) -> None:
        """Go on behind *last_seq*: what lies between has left the window."""
        self.last_seq = last_seq

    def add(self, first_seq: int, ids: bytes, history: bytes | None = None) -> None:
        """
        Take in the ids that were stored as *first_seq* and on, 16 bytes each.

        *history* is the digest after them where it is known.
        """
        assert first_seq == self.last_seq + 1
        recent = self._recent
        seq = first_seq
        for at in range(0, len(ids), ID_BYTES):
            recent[int.from_bytes(ids[at : at + 8], "little")] = seq
            seq += 1
        self.last_seq = seq - 1
        self.history = history or history_of(self.history, ids)
        self._settle()
        if len(recent) >= self._settings.recent_ids and self._flush is None:
            self._start_flush()

    def expire(self, first_seq: int) -> None:
        """Drop the files of which every id is older than *first_seq*."""
        merging = self._merge.runs if self._merge else []
        old = [r for r in self._runs if r.facts.last_seq < first_seq and r not in merging]
        if old:
            self._replace(old, [])

    def _start_flush(self) -> None:
        # numpy takes 17 MB and is needed from the first file on: an idle collector goes without.
        from collector.store.runs import write_recent  # noqa: PLC0415

        ids, self._recent = self._recent, {}
        work = self._flusher.submit(write_recent, self._directory, ids, self._bits_per_id())
        self._flush = _Flush(ids, self.last_seq, self.history, work)

    def _start_merge(self) -> None:
        from collector.store.runs import merge  # noqa: PLC0415

        by_level: dict[int, list[Run]] = {}
        for run in self._runs:
            by_level.setdefault(run.facts.level, []).append(run)
        for level in sorted(by_level):
            if len(runs := by_level[level]) >= FAN:
                work = self._merger.submit(merge, self._directory, runs, self._bits_per_id())
                self._merge = _Merge(runs, work)
                return

    def _settle(self) -> None:
        """Take over what the threads have finished, and give them the next work."""
        flush, merge = self._flush, self._merge
        if flush is not None and flush.work.done():
            self._flush = None
            if self._failed(flush.work):
                self._recent = {**flush.ids, **self._recent}  # looked up still, written later
            else:
                self._saved = (flush.last_seq, flush.history)
                self._replace([], [flush.work.result()])
        if merge is not None and merge.work.done():
            self._merge = None
            if not self._failed(merge.work):
                self._replace(merge.runs, [merge.work.result()])
        if self._merge is None:
            self._start_merge()

    @staticmethod
    def _failed(work: "Future[Run]") -> bool:
        error = work.exception()
        if error is None:
            return False
        if not isinstance(error, OSError):
            raise error
        log.warning("A dedupe file cannot be written: %s", error.strerror)
        return True

    def _replace(self, old: "list[Run]", new: "list[Run]") -> None:
        self._runs = [run for run in self._runs if run not in old] + new
        last_seq, history = self._saved
        manifest = Manifest(last_seq, history, [run.facts for run in self._runs])
        fresh = self._manifest.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.msgpack.encode(manifest))
            fresh.rename(self._manifest)
        except OSError as exc:
            log.warning("The dedupe manifest cannot be written: %s", exc.strerror)
        for run in old:
            run.close(remove=True)

    def _bits_per_id(self) -> float:
        """Filter bits an id may have, so that all filters together stay within their bound."""
        return self._settings.filter_bytes_max * 8 / max(1, self.count)
