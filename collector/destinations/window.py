"""
Window: the events of one courier between its cursor and what it has read.

    fresh ─▶ in flight ─▶ settled            delivered, skipped or refused
      ▲          └─▶ waiting ─┘              tried, and to be tried again
    parked                                   behind an earlier event of the same person; then fresh

An event names the keys that it shares with others (a person's ids, an order's number). It may only
be sent when every earlier event with one of its keys is settled, or is in the same batch before it.
So one person's events arrive in order, whoever else has to wait. An event that has failed often
while others passed goes by itself, and every other batch at most is such a one.

The cursor is the low-water mark: everything up to it is settled. What is settled beyond it is kept
as runs, of which there is one more than events that wait at most.

Shapes   `take` returns items in the order of seq, ready to be sent as one batch.
Units    seconds on the courier's clock; bytes as parcels say.
"""

import heapq
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import NamedTuple

from collector.destinations.base import Parcel
from collector.store.stored import StoredEvent

ALONE_ATTEMPTS = 3  # that failed while others passed; then an event is sent by itself
PASSED_MAX = 1_000  # events of other groups that a batch passes by


class State(Enum):
    """Where an item is."""

    FRESH = "fresh"
    PARKED = "parked"
    FLYING = "in flight"
    WAITING = "waiting"
    SETTLED = "settled"


class Claim(NamedTuple):
    """That this event is the one of its kind for a business key."""

    event: str
    key: str


class Item:
    """One event that a courier has to bring."""

    __slots__ = (
        "alone",
        "asked",
        "attempts",
        "batch",
        "claim",
        "delay",
        "detail",
        "event",
        "failed",
        "failed_at",
        "failing_seconds",
        "keys",
        "marked",
        "nexts",
        "not_before",
        "parcel",
        "prevs",
        "reason",
        "seq",
        "since",
        "state",
    )

    def __init__(
        self,
        event: StoredEvent,
        parcel: Parcel,
        keys: tuple[Hashable, ...] = (),
        claim: Claim | None = None,
        since: float = 0.0,
    ) -> None:
        self.seq = event.seq
        self.event = event
        self.parcel = parcel
        self.keys = keys
        self.claim = claim
        self.since = since  # when it was read
        self.state = State.FRESH
        self.batch: object = None  # the batch that it is in
        self.prevs: list[Item] = []  # the unsettled one before it with each of its keys
        self.nexts: list[Item] = []  # those that have it among theirs
        self.attempts = 0
        self.delay = 0  # exponent of its next delay
        self.failed = False  # tried in vain
        self.failing_seconds = 0.0  # spent failing while others passed
        self.failed_at: float | None = None
        self.not_before = 0.0
        self.alone = False
        self.asked = False  # the vendor said itself for how long it has to wait
        self.marked = False  # a row in `deliveries` says that it is being sent
        self.reason = ""
        self.detail = ""


class Coverage(NamedTuple):
    """
    What a commit can say: up to *horizon* every event is settled or in *rows*.

    Rows beyond it say how often an event was tried, and that it is being sent.
    """

    position: int
    horizon: int
    rows: list[Item]
    runs: dict[int, int]  # first seq of what is settled beyond the position = its last


class Window:
    """The events that were read and are not settled, and which of them may go."""

    def __init__(self, position: int) -> None:
        self.read_to = position
        self.bytes = 0
        self.waiting = 0  # for another try, or behind another event
        self.waiting_bytes = 0
        self.tried = 0  # in vain, so far
        self.flying = 0
        self.retried = 0  # of those in flight, that were tried in vain before
        self._unsettled: dict[int, Item] = {}
        self._last: dict[Hashable, Item] = {}  # the newest unsettled item with a key
        self._ready: list[tuple[int, Item]] = []  # may go now; a heap by seq
        self._lone: list[tuple[int, Item]] = []  # the same of those that go by themselves
        self._was_lone = False  # the last batch
        self._due: list[tuple[float, int, Item]] = []  # may go later; a heap by time

    def __len__(self) -> int:
        return len(self._unsettled)

    def __contains__(self, seq: int) -> bool:
        return seq in self._unsettled

    # --- in ----------------------------------------------------------------------------------

    def add(self, item: Item) -> None:
        """Take in the next event; those before it have been added."""
        self._unsettled[item.seq] = item
        self.bytes += item.parcel.size
        for key in item.keys:
            last = self._last.get(key)
            if last is not None and last not in item.prevs:
                item.prevs.append(last)
                last.nexts.append(item)
            self._last[key] = item
        if item.attempts:  # in an earlier life
            item.state, item.failed = State.WAITING, True
            self.tried += 1
            self._count_waiting(item, 1)
            self._schedule(item)
        elif item.prevs:
            item.state = State.PARKED
            self._count_waiting(item, 1)
        else:
            self._may_go(item)

    # --- out ---------------------------------------------------------------------------------

    def ready(self, now: float) -> int:
        """How many may go at *now*, those behind them with the same keys not counted."""
        self._wake(now)
        return len(self._ready) + len(self._lone)

    def oldest_since(self) -> float | None:
        """When the first of those that may go was read."""
        return min((heap[0][1].since for heap in (self._ready, self._lone) if heap), default=None)

    def next_due(self) -> float | None:
        """When the next of those that wait may go."""
        while self._due and not self._is_due(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take(self, now: float, events_max: int, bytes_max: int) -> list[Item]:
        """The next batch, in flight from now on; empty if none may go."""
        self._wake(now)
        token = object()
        self._was_lone = bool(self._lone) and not (self._ready and self._was_lone)
        if self._was_lone:
            item = heapq.heappop(self._lone)[1]
            self._fly(item, token)
            return [item]
        batch: list[Item] = []
        claims: set[Claim] = set()
        behind: list[tuple[int, Item]] = []  # may go in this batch, because of it
        passed: list[tuple[int, Item]] = []  # of other groups
        size = 0
        while len(batch) < events_max and (self._ready or behind):
            source = behind if behind and (not self._ready or behind < self._ready) else self._ready
            item = source[0][1]
            if batch and item.parcel.group != batch[0].parcel.group:
                heapq.heappop(source)
                if source is self._ready:  # else it stays parked behind one of this batch
                    passed.append((item.seq, item))
                    if len(passed) >= PASSED_MAX:
                        break
                continue
            if batch and (size + item.parcel.size > bytes_max or item.claim in claims):
                break
            heapq.heappop(source)
            self._fly(item, token)
            batch.append(item)
            size += item.parcel.size
            if item.claim is not None:
                claims.add(item.claim)
            for after in item.nexts:
                if after.state is State.PARKED and not after.alone and _free(after, token):
                    heapq.heappush(behind, (after.seq, after))
        for entry in passed:
            heapq.heappush(self._ready, entry)
        return batch

    def in_order(self, part: Sequence[Item]) -> list[Item]:
        """Those of *part*, in flight, that nothing outside of it has to precede."""
        free: dict[int, Item] = {}
        for item in part:
            if all(before.seq in free for before in item.prevs):
                free[item.seq] = item
        return list(free.values())

    # --- back --------------------------------------------------------------------------------

    def settle(self, item: Item) -> None:
        """*item* is delivered, skipped or refused: what was parked behind it may go."""
        if item.state in {State.PARKED, State.WAITING}:
            self._count_waiting(item, -1)
        if item.state is State.FLYING:
            self._land(item)
        self.tried -= item.failed
        item.state = State.SETTLED
        del self._unsettled[item.seq]
        self.bytes -= item.parcel.size
        if item.prevs:
            self._bridge(item)
        else:  # almost always: it is first in each of its lines
            for key in item.keys:
                if self._last.get(key) is item:
                    del self._last[key]
        for after in item.nexts:
            after.prevs.remove(item)
            if not after.prevs and after.state is State.PARKED:
                if not after.attempts:
                    after.state = State.FRESH
                    self._count_waiting(after, -1)
                self._may_go(after)
        item.nexts.clear()

    def wait(self, item: Item, until: float) -> None:
        """*item* was tried and goes again at *until*; what came behind it in its batch parks."""
        self._land(item)
        self.tried += not item.failed
        item.failed = True
        item.state, item.batch, item.marked, item.not_before = State.WAITING, None, False, until
        self._count_waiting(item, 1)
        self._schedule(item)

    def restore(self, item: Item) -> None:
        """*item* was not tried after all, and may go at once."""
        if item.attempts:
            self.wait(item, item.not_before)
            return
        self._land(item)
        item.batch, item.marked = None, False
        if item.prevs:
            item.state = State.PARKED
            self._count_waiting(item, 1)
        else:
            item.state = State.FRESH
            self._may_go(item)

    def hurry(self, now: float) -> None:
        """
        All that wait may go at *now*: what they waited for is over.

        But not those that failed while others passed, nor what the vendor asked to wait for.
        """
        due, self._due = self._due, []
        waiting = [entry[2] for entry in due if self._is_due(entry)]
        for item in self._unsettled.values():
            if not item.alone and not item.asked:
                item.delay = 0
                item.not_before = min(item.not_before, now)
        for item in waiting:
            self._schedule(item)

    def probe(self, now: float) -> bool:
        """Let one of those that wait go at *now*, if there is any, to see whether it is taken."""
        waiting = [
            entry[2]
            for entry in self._due
            if self._is_due(entry) and not entry[2].prevs and not entry[2].asked
        ]
        if not waiting:
            return False
        first = min(waiting, key=_seq)
        first.not_before = now
        self._schedule(first)
        return True

    # --- for the books -----------------------------------------------------------------------

    def coverage(self, *, whole: bool = False) -> Coverage:
        """
        What can be committed: all up to the first event that is under way without a row.

        Or the *whole* of it, with a run for whatever lies between such events: more to write, and
        nothing that was settled is brought again.
        """
        rows: list[Item] = []
        runs: dict[int, int] = {}
        position = None
        last = 0  # the unsettled one before
        horizon: int | None = None
        for seq, item in self._unsettled.items():  # they were added in order
            if horizon is None:
                if position is None:
                    position = seq - 1
                elif seq > last + 1:
                    runs[last + 1] = seq - 1
                if not whole and _is_under_way(item):
                    horizon = seq - 1
                last = seq
            if _has_row(item) or (horizon is None and item.state is State.PARKED):
                rows.append(item)
        if horizon is None:
            horizon = max(self.read_to, last)  # beyond read_to in the middle of an admission
            if position is not None and self.read_to > last:
                runs[last + 1] = self.read_to
        return Coverage(self.read_to if position is None else position, horizon, rows, runs)

    def oldest(self) -> Item | None:
        """The unsettled event with the lowest number."""
        return next(iter(self._unsettled.values()), None)

    def is_untried(self, seq: int) -> bool:
        """Whether *seq* was read, and there is nothing to say of it."""
        item = self._unsettled.get(seq)
        return item is not None and item.state in {State.FRESH, State.PARKED}

    # --- inside ------------------------------------------------------------------------------

    def _bridge(self, item: Item) -> None:
        """Who is behind *item* is now behind those before it: sent in one batch, it came first."""
        for key in item.keys:
            before = max(_with(key, item.prevs), key=_seq, default=None)
            after = min(_with(key, item.nexts), key=_seq, default=None)
            if after is None:
                if self._last.get(key) is item:
                    self._last.pop(key)
                    if before is not None:
                        self._last[key] = before
            elif before is not None and before not in after.prevs:
                after.prevs.append(before)
                before.nexts.append(after)
        for before in item.prevs:
            before.nexts.remove(item)
        item.prevs.clear()

    def _may_go(self, item: Item) -> None:
        heapq.heappush(self._lone if item.alone else self._ready, (item.seq, item))

    def _fly(self, item: Item, token: object) -> None:
        if item.state is not State.FRESH:
            self._count_waiting(item, -1)
        item.state, item.batch = State.FLYING, token
        self.flying += 1
        self.retried += item.failed

    def _land(self, item: Item) -> None:
        self.flying -= 1
        self.retried -= item.failed

    def _count_waiting(self, item: Item, events: int) -> None:
        self.waiting += events
        self.waiting_bytes += events * item.parcel.size

    def _schedule(self, item: Item) -> None:
        heapq.heappush(self._due, (item.not_before, item.seq, item))

    def _is_due(self, entry: tuple[float, int, Item]) -> bool:
        at, _, item = entry
        return item.state is State.WAITING and item.not_before == at

    def _wake(self, now: float) -> None:
        """Move those whose time has come to those that may go."""
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            item = entry[2]
            if not self._is_due(entry):
                continue
            if item.prevs:  # it was sent behind another one, that waits too
                item.state = State.PARKED
            else:
                self._may_go(item)


def _free(item: Item, token: object) -> bool:
    """Whether all before *item* are in the batch *token*."""
    return all(before.batch is token for before in item.prevs)


def _is_under_way(item: Item) -> bool:
    return item.state is State.FRESH or (item.state is State.FLYING and not item.marked)


def _has_row(item: Item) -> bool:
    """Whether a row says something of *item* that matters after a crash."""
    if item.state is State.FLYING:
        return item.marked
    return item.attempts > 0


def _with(key: Hashable, items: Sequence[Item]) -> list[Item]:
    return [item for item in items if key in item.keys] if items else []


def _seq(item: Item) -> int:
    return item.seq
