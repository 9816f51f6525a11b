"""
Window: the events of one courier between its cursor and what it has read.

    fresh ─▶ in flight ─▶ settled            delivered, skipped or refused
      ▲          └─▶ waiting ─┘              tried, and to be tried again
    parked                                   behind an earlier event of the same person

An event names the keys that it shares with others (a person's ids, an order's number). It may only
be sent when every earlier event with one of its keys is settled, or is in the same batch before it.
So one person's events arrive in order, whoever else has to wait.

The cursor is the low-water mark: everything up to it is settled. What is settled beyond it is kept
as runs, of which there is one more than events that wait at most.

Shapes   `take` returns items in the order of seq, ready to be sent as one batch.
Units    seconds on the courier's clock; bytes as parcels say.
"""

import heapq
from collections.abc import Hashable
from enum import Enum
from typing import NamedTuple

from collector.destinations.base import Parcel
from collector.store.stored import StoredEvent

ALONE_ATTEMPTS = 3  # that failed while others passed; then an event is sent by itself


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
        "attempts",
        "batch",
        "claim",
        "delay",
        "detail",
        "event",
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
        self.prevs: list[Item] = []  # unsettled ones before it with the same keys
        self.nexts: list[Item] = []
        self.attempts = 0
        self.delay = 0  # exponent of its next delay
        self.failing_seconds = 0.0  # spent failing while others passed
        self.failed_at: float | None = None
        self.not_before = 0.0
        self.alone = False
        self.marked = False  # a row in `deliveries` says that it is being sent
        self.reason = ""
        self.detail = ""


class Coverage(NamedTuple):
    """What a commit can say: up to *horizon* every event is settled or in *rows*."""

    position: int
    horizon: int
    rows: list[Item]
    runs: dict[int, int]  # first seq of what is settled beyond the position = its last

    @property
    def settled_ahead(self) -> int:
        return sum(last - first + 1 for first, last in self.runs.items())


class Window:
    """The events that were read and are not settled, and which of them may go."""

    def __init__(self, position: int) -> None:
        self.read_to = position
        self.bytes = 0
        self.waiting = 0  # tried, or behind one that was
        self.flying = 0
        self._unsettled: dict[int, Item] = {}
        self._last: dict[Hashable, Item] = {}  # the newest unsettled item with a key
        self._ready: list[tuple[int, Item]] = []  # may go now; a heap by seq
        self._due: list[tuple[float, int, Item]] = []  # may go later; a heap by time
        self._since: float | None = None  # when the oldest of those that may go was read

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
        if item.not_before:  # from an earlier life
            item.state = State.WAITING
            self.waiting += 1
            self._schedule(item)
        elif item.prevs:
            item.state = State.PARKED
            self.waiting += 1
        else:
            heapq.heappush(self._ready, (item.seq, item))

    # --- out ---------------------------------------------------------------------------------

    def ready(self, now: float) -> int:
        """How many may go at *now*, those behind them with the same keys not counted."""
        self._wake(now)
        return len(self._ready)

    def oldest_since(self) -> float | None:
        """When the first of those that may go was read."""
        return self._ready[0][1].since if self._ready else None

    def next_due(self) -> float | None:
        """When the next of those that wait may go."""
        while self._due and not self._is_due(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take(self, now: float, events_max: int, bytes_max: int) -> list[Item]:
        """The next batch, in flight from now on; empty if none may go."""
        self._wake(now)
        batch: list[Item] = []
        token = object()
        claims: set[Claim] = set()
        behind: list[tuple[int, Item]] = []  # may go in this batch, because of it
        size = 0
        while len(batch) < events_max and (self._ready or behind):
            source = behind if behind and (not self._ready or behind < self._ready) else self._ready
            item = source[0][1]
            if item.state is State.FLYING:
                heapq.heappop(source)
                continue
            parcel = item.parcel
            if batch and (
                size + parcel.size > bytes_max
                or parcel.group != batch[0].parcel.group
                or item.alone
                or batch[0].alone
                or item.claim in claims
            ):
                break
            heapq.heappop(source)
            if item.state is not State.FRESH:
                self.waiting -= 1
            item.state, item.batch = State.FLYING, token
            self.flying += 1
            batch.append(item)
            size += parcel.size
            if item.claim is not None:
                claims.add(item.claim)
            for after in item.nexts:
                if after.state is State.PARKED and _free(after, token):
                    heapq.heappush(behind, (after.seq, after))
        return batch

    # --- back --------------------------------------------------------------------------------

    def settle(self, item: Item) -> None:
        """*item* is delivered, skipped or refused: what was parked behind it may go."""
        if item.state in {State.PARKED, State.WAITING}:
            self.waiting -= 1
        self.flying -= item.state is State.FLYING
        item.state = State.SETTLED
        del self._unsettled[item.seq]
        self.bytes -= item.parcel.size
        for key in item.keys:
            if self._last.get(key) is item:
                del self._last[key]
        for after in item.nexts:
            after.prevs.remove(item)
            if not after.prevs and after.state is State.PARKED:
                heapq.heappush(self._ready, (after.seq, after))
        item.nexts = []

    def wait(self, item: Item, until: float) -> None:
        """*item* was tried and goes again at *until*; what came behind it in its batch parks."""
        self.flying -= 1
        item.state, item.batch, item.marked, item.not_before = State.WAITING, None, False, until
        self.waiting += 1
        self._schedule(item)

    def restore(self, item: Item) -> None:
        """*item* was not tried after all, and may go at once."""
        if item.attempts:
            self.wait(item, item.not_before)
            return
        self.flying -= 1
        item.batch, item.marked = None, False
        if item.prevs:
            item.state = State.PARKED
            self.waiting += 1
        else:
            item.state = State.FRESH
            heapq.heappush(self._ready, (item.seq, item))

    def hurry(self, now: float) -> None:
        """All that wait may go at *now*: what they waited for is over."""
        waiting = [item for _, _, item in self._due if item.state is State.WAITING]
        self._due = []
        for item in waiting:
            item.delay = 0
            item.not_before = min(item.not_before, now)
            self._schedule(item)

    # --- for the books -----------------------------------------------------------------------

    def coverage(self) -> Coverage:
        """What can be committed: all up to the first event that is under way without a row."""
        rows: list[Item] = []
        runs: dict[int, int] = {}
        position = None
        last = 0  # the unsettled one before
        horizon = self.read_to
        for seq in sorted(self._unsettled):
            if position is None:
                position = seq - 1
            elif seq > last + 1:
                runs[last + 1] = seq - 1
            item = self._unsettled[seq]
            if item.state is State.FRESH or (item.state is State.FLYING and not item.marked):
                horizon = seq - 1
                break
            rows.append(item)
            last = seq
        else:
            if position is not None and self.read_to > last:
                runs[last + 1] = self.read_to
        return Coverage(self.read_to if position is None else position, horizon, rows, runs)

    def oldest(self) -> Item | None:
        """The unsettled event with the lowest number."""
        return self._unsettled[min(self._unsettled)] if self._unsettled else None

    def is_fresh(self, seq: int) -> bool:
        """Whether *seq* was read and has not been tried."""
        item = self._unsettled.get(seq)
        return item is not None and item.state is State.FRESH

    # --- inside ------------------------------------------------------------------------------

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
                heapq.heappush(self._ready, (item.seq, item))


def _free(item: Item, token: object) -> bool:
    """Whether all before *item* are in the batch *token*."""
    return all(before.batch is token for before in item.prevs)
