"""The window against a plain list of events: what may go, what is written down, what is counted."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from collector.destinations.base import Parcel
from collector.destinations.window import PASSED_MAX, Claim, Item, State, Window
from tests.destinations.events import stored

BYTES_MAX = 50


@dataclass
class Plain:
    """One event, as the model knows it."""

    item: Item
    flying: int = 0  # the number of the batch that it is in
    attempts: int = 0
    marked: bool = False
    not_before: float = 0.0

    @property
    def seq(self) -> int:
        return self.item.seq


def make(
    seq: int, *keys: str, size: int = 10, group: str | None = None, claim: Claim | None = None
) -> Item:
    parcel = Parcel(f"m{seq}", None, size, group)
    return Item(
        stored(seq=seq, message_id=f"m{seq}"), parcel, (*keys, *([claim] * bool(claim))), claim
    )


class WindowMachine(RuleBasedStateMachine):
    """Anything a courier may do, in any order."""

    @initialize(position=st.integers(0, 5))
    def begin(self, position: int) -> None:
        self.window = Window(position)
        self.position = position
        self.events: dict[int, Plain] = {}  # that are not settled, in order
        self.settled: set[int] = set()
        self.batches = 0
        self.now = 1_000.0

    # --- what the model knows ----------------------------------------------------------------

    def before(self, plain: Plain) -> list[Plain]:
        """Unsettled ones that come first."""
        keys = set(plain.item.keys)
        return [
            other
            for other in self.events.values()
            if other.seq < plain.seq and keys & set(other.item.keys)
        ]

    def candidates(self) -> list[Plain]:
        """What may be the first of a batch."""
        return [
            plain
            for plain in self.events.values()
            if not plain.flying
            and (not plain.attempts or plain.not_before <= self.now)
            and not self.before(plain)
        ]

    def is_fresh(self, plain: Plain) -> bool:
        return not plain.flying and not plain.attempts and not self.before(plain)

    # --- what a courier does -----------------------------------------------------------------

    @rule(
        gap=st.integers(0, 3),
        keys=st.sets(st.sampled_from("abcde"), max_size=3),
        size=st.integers(1, BYTES_MAX + 10),
        group=st.sampled_from([None, None, "g"]),
        claim=st.sampled_from([None, None, Claim("Order Completed", "1")]),
        attempts=st.sampled_from([0, 0, 0, 2]),
        delay=st.floats(-5, 50),
        alone=st.booleans(),
    )
    def read(
        self,
        gap: int,
        keys: set[str],
        size: int,
        group: str | None,
        claim: Claim | None,
        attempts: int,
        delay: float,
        alone: bool,
    ) -> None:
        """The next event, perhaps tried in an earlier life; those in the gap are skipped."""
        seq = self.window.read_to + gap + 1
        item = make(seq, *sorted(keys), size=size, group=group, claim=claim)
        plain = Plain(item)
        if attempts:
            plain.attempts = item.attempts = attempts
            plain.not_before = item.not_before = self.now + delay
            item.alone = alone
        self.settled.update(range(self.window.read_to + 1, seq))
        self.events[seq] = plain
        self.window.add(item)
        self.window.read_to = seq

    @rule(events=st.integers(1, 4))
    def skip(self, events: int) -> None:
        """Events that are not for the destination."""
        self.settled.update(range(self.window.read_to + 1, self.window.read_to + events + 1))
        self.window.read_to += events

    @rule(events_max=st.integers(1, 6))
    def take(self, events_max: int) -> None:
        possible = self.candidates()
        assert self.window.ready(self.now) == len(possible)
        batch = self.window.take(self.now, events_max, BYTES_MAX)
        assert bool(batch) == bool(possible)
        assert len(batch) <= events_max
        self.batches += 1
        taken: set[int] = set()
        for item in batch:
            plain = self.events[item.seq]
            assert plain.item is item
            assert not plain.flying
            assert not plain.attempts or plain.not_before <= self.now or self.before(plain)
            assert {other.seq for other in self.before(plain)} <= taken, "it overtook another"
            taken.add(item.seq)
        for item in batch:
            plain = self.events[item.seq]
            plain.flying, plain.marked = self.batches, False
        if not batch:
            return
        assert [item.seq for item in batch] == sorted(taken)
        assert len({item.parcel.group for item in batch}) == 1
        claims = [item.claim for item in batch if item.claim]
        assert len(claims) == len(set(claims)), "one order twice in a batch"
        assert len(batch) == 1 or sum(item.parcel.size for item in batch) <= BYTES_MAX
        assert len(batch) == 1 or not any(item.alone for item in batch)
        same = [plain.seq for plain in possible if plain.item.alone == batch[0].alone]
        assert batch[0].seq == min(same), "one that may go was passed by"

    def flying(self, data: st.DataObject) -> Plain:
        return data.draw(st.sampled_from([p for p in self.events.values() if p.flying]))

    @precondition(lambda self: any(plain.flying for plain in self.events.values()))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """In any order: a vendor may take the second of a batch and not the first."""
        plain = self.flying(data)
        del self.events[plain.seq]
        self.settled.add(plain.seq)
        self.window.settle(plain.item)

    @precondition(lambda self: any(plain.flying for plain in self.events.values()))
    @rule(data=st.data(), delay=st.floats(0, 50), alone=st.booleans())
    def wait(self, data: st.DataObject, delay: float, alone: bool) -> None:
        plain = self.flying(data)
        plain.flying, plain.marked = 0, False
        plain.attempts += 1
        plain.item.attempts += 1
        plain.item.alone = plain.item.alone or alone
        plain.not_before = self.now + delay
        self.window.wait(plain.item, plain.not_before)

    @precondition(lambda self: any(plain.flying for plain in self.events.values()))
    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """A batch that was not sent after all: all of it goes back."""
        number = self.flying(data).flying
        for plain in self.events.values():
            if plain.flying == number:
                plain.flying, plain.marked = 0, False
                self.window.restore(plain.item)

    @precondition(lambda self: any(plain.flying for plain in self.events.values()))
    @rule(data=st.data())
    def mark(self, data: st.DataObject) -> None:
        """A row will say that it is being sent."""
        number = self.flying(data).flying
        for plain in self.events.values():
            if plain.flying == number:
                plain.marked = plain.item.marked = True

    @precondition(lambda self: any(plain.flying for plain in self.events.values()))
    @rule(data=st.data())
    def halve(self, data: st.DataObject) -> None:
        """Of the second half goes what nothing outside of it has to precede."""
        number = self.flying(data).flying
        batch = [plain for plain in self.events.values() if plain.flying == number]
        part = batch[len(batch) // 2 :]
        found = {item.seq for item in self.window.in_order([plain.item for plain in part])}
        for plain in part:
            free = {other.seq for other in self.before(plain)} <= found
            assert (plain.seq in found) == free

    @rule()
    def hurry(self) -> None:
        self.window.ready(self.now)  # those whose time has come have left the queue
        self.window.hurry(self.now)
        for plain in self.events.values():
            if plain.attempts and not plain.flying and not plain.item.alone:
                plain.not_before = min(plain.not_before, self.now)

    @rule()
    def probe(self) -> None:
        """One of those that wait goes before its time."""
        self.window.ready(self.now)
        waiting = [
            plain
            for plain in self.events.values()
            if not plain.flying
            and plain.attempts
            and plain.not_before > self.now
            and not self.before(plain)
        ]
        assert self.window.probe(self.now) == bool(waiting)
        if waiting:
            waiting[0].not_before = self.now

    @rule(seconds=st.floats(0.5, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # --- what holds at any time --------------------------------------------------------------

    @invariant()
    def everything_is_counted(self) -> None:
        window, events = self.window, self.events
        waiting = [p for p in events.values() if not p.flying and not self.is_fresh(p)]
        assert len(window) == len(events)
        assert window.flying == sum(1 for plain in events.values() if plain.flying)
        assert window.waiting == len(waiting)
        assert window.waiting_bytes == sum(plain.item.parcel.size for plain in waiting)
        assert window.bytes == sum(plain.item.parcel.size for plain in events.values())
        assert window.tried == sum(1 for plain in events.values() if plain.attempts)
        assert window.retried == sum(1 for p in events.values() if p.attempts and p.flying)
        oldest = window.oldest()
        assert (oldest.seq if oldest else None) == min(events, default=None)

    @invariant()
    def what_can_be_written_down_is_true(self) -> None:
        position, horizon, rows, runs = self.window.coverage()
        assert position == min(self.events, default=self.window.read_to + 1) - 1
        under_way = [
            plain.seq
            for plain in self.events.values()
            if self.is_fresh(plain) or (plain.flying and not plain.marked)
        ]
        assert horizon == min(under_way, default=self.window.read_to + 1) - 1
        listed = {seq for first, last in runs.items() for seq in range(first, last + 1)}
        assert listed == {seq for seq in self.settled if position < seq <= horizon}
        assert all(last + 1 not in runs for last in runs.values()), "runs are as long as can be"
        expected = {
            plain.seq
            for plain in self.events.values()
            if plain.seq <= horizon or (plain.marked if plain.flying else plain.attempts)
        }
        assert {item.seq for item in rows} == expected

    @invariant()
    def the_whole_of_it_is_true_as_well(self) -> None:
        position, horizon, rows, runs = self.window.coverage(whole=True)
        assert position == min(self.events, default=self.window.read_to + 1) - 1
        assert horizon == self.window.read_to
        listed = {seq for first, last in runs.items() for seq in range(first, last + 1)}
        assert listed == {seq for seq in self.settled if seq > position}
        assert {item.seq for item in rows} == {
            plain.seq
            for plain in self.events.values()
            if (plain.marked if plain.flying else not self.is_fresh(plain))
        }

    @invariant()
    def somebody_is_told_when_to_look_again(self) -> None:
        """Nothing is stuck: what does not go now waits for a time, or for one that is in flight."""
        if self.events and not any(plain.flying for plain in self.events.values()):
            assert self.window.ready(self.now) or self.window.next_due() is not None

    def teardown(self) -> None:
        """At the end everything can be settled."""
        if not hasattr(self, "window"):
            return
        for plain in list(self.events.values()):
            if plain.flying:
                self.window.settle(plain.item)
        while batch := self.window.take(1e12, 7, BYTES_MAX):
            for item in batch:
                self.window.settle(item)
        window = self.window
        assert len(window) == 0
        assert (window.waiting, window.waiting_bytes, window.tried) == (0, 0, 0)
        assert (window.flying, window.retried, window.bytes) == (0, 0, 0)
        assert window.next_due() is None
        assert window.coverage() == (window.read_to, window.read_to, [], {})
        assert not window._last, "keys of settled events are forgotten"


TestWindow = WindowMachine.TestCase


# --- cases that once went wrong, by name -------------------------------------------------------


def taken(window: Window, now: float = 0.0, events_max: int = 10) -> list[int]:
    return [item.seq for item in window.take(now, events_max, 1_000_000)]


def test_one_that_is_settled_early_does_not_let_the_next_overtake_the_first() -> None:
    window = Window(0)
    first, second, third = (make(seq, "u") for seq in (1, 2, 3))
    window.add(first)
    window.add(second)
    assert taken(window) == [1, 2]
    window.add(third)
    first.attempts = 1
    window.wait(first, 10.0)
    window.settle(second)
    window.add(fourth := make(4, "u"))
    assert taken(window) == []
    assert taken(window, 10.0) == [1, 3, 4]
    assert fourth.state is State.FLYING


def test_events_of_other_groups_are_passed_by_and_go_next() -> None:
    window = Window(0)
    for seq in range(1, 9):
        window.add(make(seq, group="even" if seq % 2 == 0 else "odd"))
    assert taken(window) == [1, 3, 5, 7]
    assert taken(window) == [2, 4, 6, 8]


def test_a_batch_does_not_look_at_everything_for_others_of_its_group() -> None:
    window = Window(0)
    for seq in range(1, 3 * PASSED_MAX):
        window.add(make(seq, group="rare" if seq in {1, 2 * PASSED_MAX} else "common"))
    assert taken(window) == [1]


def test_events_that_go_by_themselves_leave_every_other_batch_to_the_rest() -> None:
    window = Window(0)
    for seq in range(1, 5):
        item = make(seq)
        item.attempts, item.alone = 3, True
        window.add(item)
    for seq in range(5, 9):
        window.add(make(seq))
    assert [taken(window, events_max=2) for _ in range(6)] == [[1], [5, 6], [2], [7, 8], [3], [4]]


def test_a_heavy_user_costs_no_more_than_many_light_ones() -> None:
    """By counting the looks at an event's keys, not by the clock."""

    class Counted(str):
        looks = 0

        def __hash__(self) -> int:
            Counted.looks += 1
            return str.__hash__(self)

        def __eq__(self, other: object) -> bool:
            Counted.looks += 1
            return str.__eq__(self, other)

    def looks(events: int) -> int:
        Counted.looks = 0
        window = Window(0)
        for seq in range(1, events + 1):
            window.add(make(seq, Counted("u"), Counted("a")))
        while batch := window.take(0.0, 100, 1_000_000):
            for item in batch:
                window.settle(item)
        assert len(window) == 0
        return Counted.looks

    assert looks(4_000) < 4.4 * looks(1_000)
