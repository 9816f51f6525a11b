"""
Logbook: what a courier has settled, and what of that is written down.

Entries wait here until a commit covers them: everything before the first event that is under way.
A commit is tried until Postgres has it. Where its answer was lost, the revision of the courier's
row tells whether it was made.

Shapes   rows of `deliveries` are kept in mind as (attempts, not before, sending), runs as
         first = last seq, so that a commit writes only what has changed.
Errors   Fenced when another collector has the destination now.
"""

import asyncio
import bisect
from collections import Counter
from collections.abc import Awaitable, Callable
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
        """Events that are settled and would be brought again after a crash."""
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

    def settled(self, seq: int, outcome: str, reason: str = "", attempts: int = 0) -> None:
        """The event *seq* is delivered, skipped or refused."""
        self._settled.append(Settled(seq, outcome, reason, attempts))
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

    # --- commits -----------------------------------------------------------------------------

    async def commit(self, window: Window, status: Callable[[], Status]) -> None:
        """Write down what has changed; returns when it is on disk."""
        async with self._turn:
            self.dirty.clear()
            coverage = window.coverage()
            change = self._change(window, coverage, status())
            if change is not None:
                await self._write(change)
                self._written(change, coverage)

    def _change(self, window: Window, coverage: Coverage, status: Status) -> Change | None:
        """What the next commit says, taken out of what waits to be said."""
        position, horizon, waiting, runs = coverage
        keep = []
        for item in waiting:
            flying = item.state is State.FLYING
            if self._rows.get(item.seq) != (item.attempts, item.not_before, flying):
                keep.append(_row(item, sending=flying))
        present = {item.seq for item in waiting}
        drop = [
            seq
            for seq in self._rows
            if seq not in present and (seq <= horizon or window.is_fresh(seq))
        ]
        drop += [first for first in self._runs if first not in runs]
        longer = [(first, last) for first, last in runs.items() if self._runs.get(first) != last]
        settled, self._settled = _until(horizon, self._settled)
        letters, self._letters = _until(horizon, self._letters)
        freed, self._freed = self._freed, []
        error, self.error = self.error, None
        changed = status if status != self.status else None
        if position == self.position and not (
            keep or drop or longer or settled or freed or changed or error
        ):
            return None
        oldest = window.oldest()
        return Change(
            revision=self.revision,
            position=position,
            settled_ahead=coverage.settled_ahead,
            keep=keep,
            runs=longer,
            drop=drop,
            settled=settled,
            letters=letters,
            freed=freed,
            oldest_at=oldest.event.received_at if oldest else None,
            delivered_at=self.delivered_at,
            last_error=error,
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

    def _written(self, change: Change, coverage: Coverage) -> None:
        self.revision += 1
        self.position = change.position
        for seq in change.drop:
            self._rows.pop(seq, None)
        for row in change.keep:
            self._rows[row.seq] = (row.attempts, row.not_before, row.sending)
        self._runs = coverage.runs
        for _, outcome, reason, _ in change.settled:
            self.counts[outcome, reason] += 1
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


def _until(horizon: int, entries: list[E]) -> tuple[list[E], list[E]]:
    """*entries* up to *horizon*, and those beyond."""
    here = [entry for entry in entries if entry.seq <= horizon]
    if len(here) == len(entries):
        return here, []
    return here, [entry for entry in entries if entry.seq > horizon]


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
