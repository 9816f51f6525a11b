"""
A courier with a vendor that does what a test says, a clock that a test moves, and real Postgres.

A crash is the courier's task cancelled hard: what it knew is gone, what it has committed is there.
"""

import asyncio
import heapq
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import asyncpg

from collector.destinations.base import TAKEN, Destination, Mail, Mapped, Outcome, Parcel
from collector.destinations.courier import Courier, Feed
from collector.destinations.dispatch import LiveFeed, ReplayFeed
from collector.destinations.outbound import Outbound
from collector.destinations.route import Route
from collector.destinations.settings import DestinationSettings
from collector.errors import Ambiguous, Unreachable
from collector.event import EVENT_TYPES
from collector.store import deliveries
from collector.store.deliveries import CourierKey
from collector.store.line import Line
from collector.store.postgres import Postgres
from collector.store.selection import Selection, encode
from collector.store.tail import Tail

QUIET_TURNS = 25  # of the loop without a job for Postgres: everybody waits for the clock by then
KINDS = {"default": "server"}
HOUR = 3_600.0
Behaviour = Callable[[Sequence[Parcel]], Sequence[Outcome]]


class Traffic:
    """What lines do: which jobs, and how many right now."""

    def __init__(self) -> None:
        self.jobs: Counter[str] = Counter()
        self.busy = 0

    async def idle(self) -> None:
        """Return when nobody does anything but wait for the clock."""
        quiet = 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0.0005 if self.busy else 0)
            quiet = 0 if self.busy else quiet + 1


class FakeClock:
    """Time that passes when a test says so; who sleeps wakes one after the other."""

    def __init__(self, idle: Callable[[], Awaitable[None]]) -> None:
        self._now = time.time()
        self._idle = idle
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self._now

    def _alarm(self, seconds: float) -> asyncio.Future[None]:
        alarm = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._numbers), alarm))
        return alarm

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            await self._alarm(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if event.is_set():
            return True
        woken = asyncio.create_task(event.wait())
        alarm = self._alarm(seconds) if seconds is not None else None
        try:
            await asyncio.wait(
                [woken, *([alarm] if alarm else [])], return_when=asyncio.FIRST_COMPLETED
            )
            return woken.done()
        finally:
            woken.cancel()
            if alarm is not None:
                alarm.cancel()

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass, and everything happen that happens meanwhile."""
        end = self._now + seconds
        while True:
            await self._idle()
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            if not self._sleepers or self._sleepers[0][0] > end:
                break
            self._now = max(self._now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now:
                alarm = heapq.heappop(self._sleepers)[2]
                if not alarm.done():
                    alarm.set_result(None)
        self._now = end
        await self._idle()


class FakeSettings(DestinationSettings, frozen=True, kw_only=True, tag="fake"):
    """Those of all destinations."""

    def build(self, http: Outbound) -> "Fake":
        return Fake(self, http, VENDORS[self.name])


class Vendor:
    """Takes everything, unless `behave` says otherwise: it returns outcomes, or raises."""

    def __init__(self) -> None:
        self.behave: Behaviour = take
        self.answer: Callable[[], Awaitable[None]] | None = None  # awaited before it answers
        self.requests: list[list[str]] = []  # keys, as they came
        self.taken: list[str] = []
        self.at: list[float] = []  # when requests came
        self.under_way = self.under_way_max = 0
        self.now: Callable[[], float] = time.time

    @property
    def seen(self) -> Counter[str]:
        return Counter(itertools.chain.from_iterable(self.requests))

    async def take(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        self.requests.append([parcel.key for parcel in batch])
        self.at.append(self.now())
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        try:
            outcomes = self.behave(batch)  # it has them, whether its answer comes or not
            self.taken += [
                parcel.key
                for parcel, outcome in zip(batch, outcomes, strict=True)
                if outcome is TAKEN
            ]
            if self.answer is not None:
                await self.answer()
            return outcomes
        finally:
            self.under_way -= 1


VENDORS: dict[str, Vendor] = {}


class Fake(Destination[FakeSettings]):
    """A destination whose parcels are the events themselves."""

    types: ClassVar[frozenset[str]] = EVENT_TYPES
    integrations: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: FakeSettings, http: Any, vendor: Vendor) -> None:
        super().__init__(settings, http)
        self.vendor = vendor
        self.mapping: Callable[[Mail], Mapped] = lambda mail: Parcel(
            mail.event.message_id, mail.event, 100
        )

    def map(self, mail: Mail) -> Mapped:
        return self.mapping(mail)

    async def send(self, batch: Sequence[Parcel], *, test: bool = False) -> Sequence[Outcome]:
        return await self.vendor.take(batch)


def event(message_id: str, user: str | None = "u", **columns: Any) -> dict[str, Any]:
    """A row to be, of a track event."""
    return {"message_id": message_id, "type": "track", "event": "E", "user_id": user, **columns}


def users(events: int, count: int, first: int = 0) -> list[dict[str, Any]]:
    """`m0`, `m1`, … of so many users in turn."""
    return [event(f"m{n}", f"u{n % count}") for n in range(first, first + events)]


JSON = ("context", "properties", "traits", "integrations", "extra")
COLUMNS = (
    *("message_id", "type", "event", "user_id", "anonymous_id", "previous_id", "source"),
    *("received_at", "timestamp", *JSON),
)


async def store(connection: asyncpg.Connection, events: Iterable[dict[str, Any]]) -> int:
    """Put *events* where the writer would, and return the number of the last one."""
    moment = datetime.now(UTC)
    async with connection.transaction():
        last: int = await connection.fetchval(
            "select last from collector.sequence for no key update"
        )
        rows = []
        for last, row in enumerate(events, last + 1):  # noqa: B020
            values = {"source": "default", "received_at": moment, "timestamp": moment} | row
            texts = [
                json.dumps(value) if name in JSON and isinstance(value, dict) else value
                for name, value in ((name, values.get(name)) for name in COLUMNS)
            ]
            rows.append((last, *texts))
        await connection.executemany(
            f"insert into collector.events (seq, {', '.join(COLUMNS)}) values "
            f"({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 2))})",
            rows,
        )
        await connection.execute("update collector.sequence set last = $1", last)
    return last


class Depot:
    """One destination and its couriers."""

    def __init__(
        self, connection: asyncpg.Connection, dsn: str, traffic: Traffic, **settings: Any
    ) -> None:
        self.connection = connection
        self.traffic = traffic
        self.clock = FakeClock(traffic.idle)
        self.settings = FakeSettings(**{"name": "hook", "start": "beginning", **settings})
        self.vendor = Vendor()
        self.vendor.now = self.clock.now
        self.destination = Fake(self.settings, None, self.vendor)
        self.postgres = Postgres(dsn)
        self.tail = Tail(self.postgres)
        self.books = Line(self.postgres)
        self.epoch = 0
        self.couriers: dict[int, Courier] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def courier(self) -> Courier:
        return self.couriers[0]

    def ended(self, replay: int = 0) -> bool:
        return self._tasks[replay].done()

    # --- what happens ------------------------------------------------------------------------

    async def add(self, *events: dict[str, Any]) -> int:
        """Events are stored, and the tail hears of it."""
        last = await store(self.connection, events)
        self.tail.stored(last)
        return last

    async def start(self, replay: int = 0, selection: Selection | None = None) -> Courier:
        """A courier begins, after a crash as well; its destination is registered if it is new."""
        self.epoch += 1
        name = self.settings.name
        await deliveries.register(
            self.connection, name, "fake", self.settings.start, self.clock.now(), ""
        )
        feed: Feed = LiveFeed(self.tail)
        if replay:
            last = await self.ask(
                "select last_seq from collector.couriers where replay = $1", replay
            )
            feed = ReplayFeed(self.tail, replay, last, selection or Selection())
        self.couriers[replay] = courier = Courier(
            CourierKey(name, replay),
            self.destination,
            Route(self.destination, KINDS),  # type: ignore[arg-type]
            feed,
            self.books,
            self.epoch,
            self.clock,
        )
        self._tasks[replay] = asyncio.create_task(courier.run())
        await self.traffic.idle()
        return courier

    async def crash(self, replay: int = 0) -> None:
        """As if the process were killed."""
        task = self._tasks.pop(replay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.traffic.idle()

    async def replay(self, selection: Selection, first: int = 1, last: int | None = None) -> int:
        """The row of a new replay."""
        found: int = await self.connection.fetchval(
            "insert into collector.couriers (destination, replay, type, first_seq, last_seq, "
            "position, filter) select $1, nextval('collector.replay_ids'), 'fake', $2, "
            "coalesce($3, s.last), $2::bigint - 1, $4::text::jsonb from collector.sequence s "
            "returning replay",
            self.settings.name,
            first,
            last,
            encode(selection),
        )
        return found

    async def obey(self, replay: int = 0) -> None:
        """What the dispatcher does each second."""
        _, orders = await deliveries.orders(self.connection, [self.settings.name])
        states = {order.replay: order for order in orders}
        order = states[replay]
        self.couriers[replay].obey(order.state, order.revision)
        await self.traffic.idle()

    async def advance(self, seconds: float) -> None:
        await self.clock.advance(seconds)

    async def until(
        self, true: Callable[[], Any], seconds: float = HOUR, step: float = 1.0
    ) -> float:
        """Let time pass until *true* is, and return how long that took."""
        began = self.clock.now()
        await self.clock.advance(0.0)
        while not true():
            assert self.clock.now() - began < seconds, f"not in time: {self.courier.status()}"
            await self.clock.advance(step)
        return self.clock.now() - began

    async def settle(self, seconds: float = HOUR, step: float = 1.0) -> None:
        """Let time pass until everything stored is settled, and all of it written down."""
        assert not self.ended(), self._tasks
        await self.until(lambda: self.courier.logbook.position >= self.tail.last_seq, seconds, step)
        await self.advance(1.0)

    async def close(self) -> None:
        for replay in list(self._tasks):
            await self.crash(replay)
        await self.tail.close()
        await self.books.close()
        await self.connection.close()

    # --- what is known -----------------------------------------------------------------------

    async def ask(self, sql: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(sql, *arguments)

    async def counts(self, replay: int = 0) -> dict[str, int]:
        """By outcome, with the reason if it has one."""
        rows = await self.connection.fetch(
            "select outcome, reason, events from collector.delivery_counts where replay = $1",
            replay,
        )
        return {
            ":".join(filter(None, (row["outcome"], row["reason"]))): row["events"] for row in rows
        }

    async def letters(self) -> dict[str, str]:
        """Dead letters: message id = reason."""
        rows = await self.connection.fetch(
            "select coalesce(message_id, '?') as id, reason from collector.dead_letters "
            "order by seq"
        )
        return {row["id"]: row["reason"] for row in rows}

    async def row(self, replay: int = 0) -> asyncpg.Record:
        return await self.connection.fetchrow(
            "select * from collector.couriers where replay = $1", replay
        )

    async def rows_ahead(self) -> dict[int, str]:
        found = await self.connection.fetch("select seq, state from collector.deliveries")
        return {row["seq"]: row["state"] for row in found}

    async def assert_books_close(self, *, pending: int | None = None) -> None:
        """stored since first_seq = delivered + skipped + refused + pending, each event once."""
        row = await self.row()
        last = await self.ask("select last from collector.sequence")
        counted = sum((await self.counts()).values())
        open_ = last - row["position"] - row["settled_ahead"]
        assert last - row["first_seq"] + 1 == counted + open_, (dict(row), counted, last)
        if pending is not None:
            assert open_ == pending
        twice = await self.connection.fetch(
            "select n from collector.delivery_log l cross join lateral unnest(l.seqs) r "
            "cross join lateral generate_series(lower(r), upper(r) - 1) n "
            "where l.replay = 0 group by n having count(*) > 1"
        )
        assert not twice, f"counted twice: {twice}"
        ahead = await self.ask(
            "select coalesce(sum(last_seq - seq + 1), 0) from collector.deliveries "
            "where replay = 0 and state = 'done'"
        )
        assert ahead == row["settled_ahead"], "the runs are what is settled ahead"

    def assert_in_order(self, users: int) -> None:
        """`m0`, `m1`, … of so many users in turn: everybody's were first taken in their order."""
        latest: dict[int, int] = {}
        for key in dict.fromkeys(self.vendor.taken):
            number = int(key[1:])
            before = latest.get(number % users, -1)
            assert before < number, f"m{number} came after m{before}"
            latest[number % users] = number


# --- what a vendor may do ----------------------------------------------------------------------


def take(batch: Sequence[Parcel]) -> Sequence[Outcome]:
    """All of it."""
    return [TAKEN] * len(batch)


def away(batch: Sequence[Parcel]) -> Sequence[Outcome]:
    """Nothing arrives."""
    raise Unreachable("unavailable", "nobody is there")


def hang_up(batch: Sequence[Parcel]) -> Sequence[Outcome]:
    """Whether anything arrived is unknown."""
    raise Ambiguous("server_error", "no answer came")


def except_for(outcomes: Mapping[str, Outcome]) -> Behaviour:
    """Item by item: all is taken but for some."""
    return lambda batch: [outcomes.get(parcel.key, TAKEN) for parcel in batch]


def failing_with(error: Exception, *keys: str) -> Behaviour:
    """Fails for a batch as a whole if one of *keys* is in it."""

    def behave(batch: Sequence[Parcel]) -> Sequence[Outcome]:
        if any(parcel.key in keys for parcel in batch):
            raise error
        return take(batch)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after the other, and then the last for ever."""
    rest = list(behaviours)

    def behave(batch: Sequence[Parcel]) -> Sequence[Outcome]:
        now = rest.pop(0) if len(rest) > 1 else rest[0]
        return now(batch)

    return behave
