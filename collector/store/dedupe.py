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
Errors   OSError when files cannot be written for long, or not be read: those are dropped, and the
         replica is built anew from `seen`.
"""

import errno
import logging
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from collector.settings import Bytes, Count, Section
from collector.store.seen import (
    NO_HISTORY,
    Manifest,
    decode_manifest,
    encode_manifest,
    history_of,
)

if TYPE_CHECKING:
    from collector.store.runs import Run

log = logging.getLogger(__name__)

FAN = 8  # runs of one level that are merged into one of the next
SPAN_MAX = 1 << 32  # of seqs in one run
RECENT_MAX = 8  # times `recent_ids` in memory, while they cannot be written
RETRY_SECONDS = 10.0  # after a file could not be written


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
        self._stopped = threading.Event()  # what the threads do now is not wanted any more
        self._retry_at = 0.0
        self._saved = (0, NO_HISTORY)  # how far the files reach
        self.last_seq = 0
        self.history = NO_HISTORY

    # --- opening and closing ---------------------------------------------------------------

    def open(self) -> None:
        """Take over what an earlier process left; blocks while the files are read and checked."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            manifest = decode_manifest(self._manifest.read_bytes())
            if manifest.runs:
                from collector.store.runs import Run  # noqa: PLC0415  see _start_flush

                for facts in manifest.runs:
                    self._runs.append(Run.open(self._directory, facts))
        except (OSError, ValueError) as exc:
            if self._manifest.exists():
                log.warning("The dedupe files are damaged and built anew from Postgres: %s", exc)
            self.reset()
            return
        self.last_seq, self.history = self._saved = manifest.last_seq, manifest.history
        kept = {run.facts.file for run in self._runs}
        for path in self._directory.glob("*.run"):
            if path.name not in kept:  # of a merge that was not finished
                path.unlink(missing_ok=True)

    def reset(self) -> None:
        """Forget everything: the history of this Postgres is another one."""
        self._abandon()
        _close(self._runs)
        for path in self._directory.glob("*.run"):
            path.unlink(missing_ok=True)
        self._manifest.unlink(missing_ok=True)
        self._runs, self._recent = [], {}
        self.last_seq, self.history = self._saved = 0, NO_HISTORY

    def close(self) -> None:
        """Let go of the files. Ids that are in memory only are read from `seen` at the start."""
        self._abandon()
        self._flusher.shutdown()
        self._merger.shutdown()
        _close(self._runs)
        self._runs = []

    def _abandon(self) -> None:
        """Have the threads stop soon, and throw away what they made. Does not wait for them."""
        self._stopped.set()
        self._stopped = threading.Event()
        flush, merge = self._flush, self._merge
        self._flush = self._merge = None
        if flush is not None:
            flush.work.add_done_callback(_discard)
        if merge is not None:
            # They are being read: to be closed when that has ended.
            self._runs = [run for run in self._runs if run not in merge.runs]
            merge.work.add_done_callback(_discard)
            merge.work.add_done_callback(lambda _: _close(merge.runs))

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
        hashes = _hashes(b"".join(ids))
        found: list[tuple[int, int]] = []
        for known in (self._recent, self._flush.ids if self._flush else {}):
            if known:
                found += [(i, known[hash_]) for i, hash_ in enumerate(hashes) if hash_ in known]
        if self._runs:
            import numpy as np  # noqa: PLC0415  see _start_flush

            array = np.array(hashes, np.uint64)
            try:
                for run in self._runs:
                    for index in run.maybe(array):
                        found += [(index, seq) for seq in run.find(hashes[index])]
            except OSError as exc:
                log.warning("A dedupe file cannot be read; all are built anew: %s", exc.strerror)
                self.reset()
                raise
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
        self._settle()
        if self._retry_at and len(self._recent) >= RECENT_MAX * self._settings.recent_ids:
            raise OSError(errno.ENOSPC, "the dedupe files cannot be written: free some disk space")
        hashes = _hashes(ids)
        self._recent.update(zip(hashes, range(first_seq, first_seq + len(hashes)), strict=True))
        self.last_seq += len(hashes)
        self.history = history or history_of(self.history, ids)
        self._start()

    @property
    def busy(self) -> bool:
        """Whether files should be written first, before more is added."""
        flush = self._flush
        full = len(self._recent) >= self._settings.recent_ids
        return full and flush is not None and not flush.work.done()

    def expire(self, first_seq: int) -> None:
        """Drop the files of which every id is older than *first_seq*."""
        merging = self._merge.runs if self._merge else []
        old = [r for r in self._runs if r.facts.last_seq < first_seq and r not in merging]
        if old:
            self._replace(old, [])

    def _start(self) -> None:
        """Give the threads what is to be done."""
        if time.monotonic() < self._retry_at:
            return
        if self._flush is None and len(self._recent) >= self._settings.recent_ids:
            self._start_flush()
        if self._merge is None:
            self._start_merge()

    def _start_flush(self) -> None:
        # numpy takes 17 MB and is needed from the first file on: an idle collector goes without.
        from collector.store.runs import write_recent  # noqa: PLC0415

        ids, self._recent = self._recent, {}
        work = self._submit(self._flusher, write_recent, ids)
        self._flush = _Flush(ids, self.last_seq, self.history, work)

    def _start_merge(self) -> None:
        from collector.store.runs import merge  # noqa: PLC0415

        by_level: dict[int, list[Run]] = {}
        for run in self._runs:
            by_level.setdefault(run.facts.level, []).append(run)
        for level in sorted(by_level):
            runs = by_level[level]
            span = max(r.facts.last_seq for r in runs) - min(r.facts.first_seq for r in runs)
            if len(runs) >= FAN and span < SPAN_MAX:
                self._merge = _Merge(runs, self._submit(self._merger, merge, runs))
                return

    def _submit(
        self, pool: ThreadPoolExecutor, write: "Callable[..., Run]", what: Any
    ) -> "Future[Run]":
        return pool.submit(write, self._directory, what, self._bits_per_id(), self._stopped.is_set)

    def _settle(self) -> None:
        """Take over what the threads have finished."""
        flush, merge = self._flush, self._merge
        if flush is not None and flush.work.done():
            self._flush = None
            if flush.work.exception() is None:
                self._saved, self._retry_at = (flush.last_seq, flush.history), 0.0
                self._replace([], [flush.work.result()])
            else:
                self._recent = {**flush.ids, **self._recent}  # looked up still, written later
                self._failed(flush.work)
        if merge is not None and merge.work.done():
            self._merge = None
            if merge.work.exception() is None:
                self._replace(merge.runs, [merge.work.result()])
            else:
                self._failed(merge.work)

    def _failed(self, work: "Future[Run]") -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        error = work.exception()
        assert error is not None
        if not isinstance(error, OSError):
            raise error
        log.warning("A dedupe file cannot be written: %s", error.strerror)

    def _replace(self, old: "list[Run]", new: "list[Run]") -> None:
        self._runs = [run for run in self._runs if run not in old] + new
        last_seq, history = self._saved
        manifest = Manifest(last_seq, history, [run.facts for run in self._runs])
        fresh = self._manifest.with_suffix(".new")
        try:
            fresh.write_bytes(encode_manifest(manifest))
            fresh.rename(self._manifest)
        except OSError as exc:
            log.warning("The dedupe manifest cannot be written: %s", exc.strerror)
        for run in old:
            run.close(remove=True)

    def _bits_per_id(self) -> float:
        """Filter bits an id may have, so that all filters together stay within their bound."""
        return self._settings.filter_bytes_max * 8 / max(1, self.count)


def _hashes(ids: bytes) -> tuple[int, ...]:
    """The first 8 bytes of each id, as a number."""
    return struct.unpack(f"<{len(ids) // 8}Q", ids)[::2]


def _close(runs: "list[Run]") -> None:
    for run in runs:
        run.close()


def _discard(work: "Future[Run]") -> None:
    """Throw away the file that *work* made, if it did."""
    if not work.cancelled() and work.exception() is None:
        work.result().close(remove=True)
