"""
Logbook: what a courier has settled, and what of that is written down.

Entries wait here until a commit covers them: everything before the first event that is under way.
A commit is tried until Postgres has it, and what it says is forgotten only then. Where its answer
was lost, the revision of the courier's row tells whether it was made.

Shapes   rows of `deliveries` are kept in mind as (attempts, not before, sending), runs as
         first = last seq, so that a commit writes only what has changed.
Errors   Fenced when another collector has the destination now.
"""

import asyncio
import bisect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from collector.destinations.base import Refused
from collector.destinations.pace import Clock
from collector.destinations.window import Claim, Coverage, Item, State, Window
from collector.errors import Unreachable
from collector.store import deliveries
from collector.store.deliveries import (
    Change,
    CourierKey,
    DeadLetter,
    Fenced,
    Saved,
    Settled,
    Status,
    Waiting,
)
from collector.store.line import Line
from collector.store.stored import StoredEvent

T = TypeVar("T")
E = TypeVar("E", Settled, DeadLetter)

PAUSE_SECONDS = 1.0  # when Postgres is away


class Logbook:
    """What became of a courier's events."""

    def __init__(self, key: CourierKey, epoch: int, line: Line, clock: Clock) -> None:
        self.key = key
        self.dirty = asyncio.Event()  # there is something to commit
        self.counts: Counter[tuple[str, str]] = Counter()  # by outcome and reason
        self.position = 0
        self.status = Status()  # what the courier's row says, as far as we know
        self.revision = 0
        self.delivered_at: float | None = None
        self.error: str | None = None  # the last, if it is news
        self._epoch = epoch
        self._line = line
        self._clock = clock
        self._turn = asyncio.Lock()
        self._settled: list[Settled] = []
        self._letters: list[DeadLetter] = []
        self._freed: list[tuple[str, str, str]] = []
        self._rows: dict[int, tuple[int, float, bool]] = {}
        self._runs: dict[int, int] = {}

    @property
    def uncommitted(self) -> int:
        """Entries that wait; what they are about would be brought again after a crash."""
        return len(self._settled)

    def total(self, outcome: str) -> int:
        """Events with this outcome, for whatever reason."""
        return sum(events for (kind, _), events in self.counts.items() if kind == outcome)

    async def open(self) -> Saved:
        """Take the courier over, and forget what we knew: the rows are what counts."""
        saved = await self.postgres(deliveries.open_courier, self.key, self._epoch)
        self.revision = saved.revision
        self.position = saved.position
        self.status = Status(saved.state, saved.reason)
        self.counts = Counter(saved.counts)
        self._settled, self._letters, self._freed = [], [], []
        self._rows = {row.seq: (row.attempts, row.not_before, row.sending) for row in saved.waiting}
        self._runs = dict(saved.runs)
        return saved

    async def postgres(self, job: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do *job*, for as long as it takes Postgres to be there."""
        while True:
            try:
                return await self._line.do(job, *arguments)
            except Unreachable:
                await self._clock.sleep(PAUSE_SECONDS)  # the store says what the matter is

    # --- entries -----------------------------------------------------------------------------

    def settled(
        self, seq: int, outcome: str, reason: str = "", attempts: int = 0, *, events: int = 1
    ) -> None:
        """The event *seq*, or so many from there on, is delivered, skipped or refused."""
        self._settled.append(Settled(seq, outcome, reason, attempts, events))
        self.dirty.set()

    def refused(self, event: StoredEvent, refused: Refused, attempts: int) -> None:
        """*event* is given up and becomes a dead letter."""
        self._letters.append(
            DeadLetter(
                event.seq,
                event.message_id,
                event.type,
                event.event,
                event.source,
                event.received_at,
                refused.reason,
                refused.detail,
                attempts,
            )
        )
        self.settled(event.seq, "refused", refused.reason, attempts)

    def unreadable(self, seq: int, detail: str) -> None:
        """Postgres has the event *seq* and cannot give it back."""
        self._letters.append(DeadLetter(seq, None, None, None, None, None, "unreadable", detail, 0))
        self.settled(seq, "refused", "unreadable")

    def free(self, claim: Claim, message_id: str) -> None:
        """Another event may have the business key *claim*: this one was not taken."""
        self._freed.append((*claim, message_id))

    def frees(self, claims: Iterable[Claim]) -> bool:
        """Whether one of *claims* is free again, which Postgres does not know yet."""
        wanted = set(claims)
        return any((event, key) in wanted for event, key, _ in self._freed)

    # --- commits -----------------------------------------------------------------------------

    async def commit(
        self, window: Window, status: Callable[[], Status], *, whole: bool = False
    ) -> None:
        """Write down what has changed, *whole* as in `coverage`; returns when it is on disk."""
        async with self._turn:
            self.dirty.clear()
            coverage = window.coverage(whole=whole)
            runs = _joined(coverage, self._runs)
            change = self._change(window, coverage, runs, status())
            if change is not None:
                seen = len(self._settled), len(self._letters)
                await self._write(change)
                self._written(change, runs, coverage.horizon, *seen)

    def _change(
        self, window: Window, coverage: Coverage, runs: dict[int, int], status: Status
    ) -> Change | None:
        """What the next commit says."""
        position, horizon, rows, _ = coverage
        keep = []
        for item in rows:
            flying = item.state is State.FLYING
            if self._rows.get(item.seq) != (item.attempts, item.not_before, flying):
                keep.append(_row(item, sending=flying))
        present = {item.seq for item in rows}
        drop = [
            seq
            for seq, (_, _, sending) in self._rows.items()
            if seq not in present and (seq <= horizon or (sending and window.is_untried(seq)))
        ]
        drop += [first for first in self._runs if first not in runs]
        longer = [(first, last) for first, last in runs.items() if self._runs.get(first) != last]
        settled, letters = _until(horizon, self._settled), _until(horizon, self._letters)
        changed = status if status != self.status else None
        if position == self.position and not (
            keep or drop or longer or settled or self._freed or changed or self.error
        ):
            return None
        oldest = window.oldest()
        return Change(
            revision=self.revision,
            position=position,
            settled_ahead=sum(last - first + 1 for first, last in runs.items()),
            keep=keep,
            runs=longer,
            drop=drop,
            settled=settled,
            letters=letters,
            freed=list(self._freed),
            oldest_at=oldest.event.received_at if oldest else None,
            delivered_at=self.delivered_at,
            last_error=self.error,
            status=changed,
        )

    async def _write(self, change: Change) -> None:
        """Commit *change* once, however often Postgres goes away meanwhile."""
        in_doubt = False
        while True:
            try:
                await self._line.do(deliveries.commit, self.key, self._epoch, change)
                return
            except Unreachable:
                in_doubt = True
                await self._clock.sleep(PAUSE_SECONDS)
            except Fenced:
                if in_doubt and change.revision + 1 == await self.postgres(
                    deliveries.revision_of, self.key, self._epoch
                ):
                    return  # it was made, and the answer got lost
                raise

    def _written(
        self, change: Change, runs: dict[int, int], horizon: int, settled: int, letters: int
    ) -> None:
        """*change* is on disk: forget of the first so many entries what it said."""
        self.revision += 1
        self.position = change.position
        for seq in change.drop:
            self._rows.pop(seq, None)
        for row in change.keep:
            self._rows[row.seq] = (row.attempts, row.not_before, row.sending)
        self._runs = runs
        for entry in change.settled:
            self.counts[entry.outcome, entry.reason] += entry.events
        self._settled = _beyond(horizon, self._settled, settled)
        self._letters = _beyond(horizon, self._letters, letters)
        self._freed = self._freed[len(change.freed) :]
        if self.error == change.last_error:
            self.error = None
        if change.status is not None:
            self.status = change.status


class Runs:
    """Numbers as runs, to be asked whether one is among them."""

    def __init__(self, runs: dict[int, int]) -> None:
        self._firsts = sorted(runs)
        self._lasts = [runs[first] for first in self._firsts]

    def __contains__(self, seq: int) -> bool:
        index = bisect.bisect_right(self._firsts, seq) - 1
        return index >= 0 and seq <= self._lasts[index]

    def gaps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The runs of numbers from *first* to *last* that are not among them."""
        index = max(0, bisect.bisect_right(self._firsts, first) - 1)
        while first <= last:
            if index == len(self._firsts) or self._firsts[index] > last:
                yield first, last
                return
            if first < self._firsts[index]:
                yield first, self._firsts[index] - 1
            first = max(first, self._lasts[index] + 1)
            index += 1


def _joined(coverage: Coverage, written: dict[int, int]) -> dict[int, int]:
    """
    What is settled beyond the position: as the window has it, and as it was *written*.

    After a start the window learns only by reading on what had been settled in an earlier life.
    """
    joined = dict(coverage.runs)
    end = max(joined, default=None)  # the first of the last run
    for first, last in sorted(written.items()):
        if last <= coverage.horizon:
            continue
        first = max(first, coverage.horizon + 1)  # noqa: PLW2901
        if end is not None and joined[end] + 1 == first:
            joined[end] = last
        else:
            joined[first] = last
            end = first
    return joined


def _until(horizon: int, entries: list[E]) -> list[E]:
    """Those of *entries* up to *horizon*."""
    return [entry for entry in entries if entry.seq <= horizon]


def _beyond(horizon: int, entries: list[E], seen: int) -> list[E]:
    """*entries* without those of the first *seen* that are up to *horizon*."""
    return [entry for entry in entries[:seen] if entry.seq > horizon] + entries[seen:]


def _row(item: Item, *, sending: bool) -> Waiting:
    return Waiting(
        item.seq,
        item.event.message_id,
        item.attempts,
        item.failing_seconds,
        item.not_before,
        item.reason or ("" if sending else "behind_another"),
        item.detail,
        sending,
    )
