"""
Dispatch: which couriers run in this collector, and who tells them what to do.

    every second    leases renewed → rows of couriers read → started, paused, resumed, ended

Of several collectors on one Postgres the one that holds a destination's lease delivers to it. The
lease's epoch fences the others off: a commit under an older one is refused. Sending cannot be
fenced, so a collector that could not renew stops sending before its lease has run out.

Errors   ConfigError for settings that can never work, before anything starts.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from collector import metrics
from collector.destinations.base import Destination
from collector.destinations.beginnings import Beginnings
from collector.destinations.courier import Courier
from collector.destinations.outbound import Outbound
from collector.destinations.pace import Clock, SystemClock, Turns
from collector.destinations.route import Kind, Route
from collector.destinations.settings import DestinationSettings
from collector.errors import Unreachable
from collector.store import deliveries, leases, selection
from collector.store.deliveries import CourierKey, Order
from collector.store.line import Line
from collector.store.postgres import Postgres
from collector.store.selection import Selection
from collector.store.tail import Chunk, Tail

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
LEASE_SECONDS = 10.0
RENEW_SECONDS = 2.5
MARGIN_SECONDS = 2.0  # before the lease ends, sending does
LETTERS_SECONDS = 10.0  # between two counts of dead letters
STOP_SECONDS = 5.0  # for requests that are under way
REPLAYS_MAX = 2  # of one destination at once


class LiveFeed:
    """What is stored, as it is stored."""

    last_seq: int | None = None

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    async def read(self, after: int, events_max: int) -> Chunk:
        """The next events beyond *after*, as soon as there are any."""
        return await self._tail.read(after, events_max)


class ReplayFeed:
    """What a replay is for."""

    def __init__(self, tail: Tail, replay: int, last_seq: int, chosen: Selection) -> None:
        self.last_seq: int | None = last_seq
        self._tail = tail
        self._replay = replay
        self._chosen = chosen

    async def read(self, after: int, events_max: int) -> Chunk:
        """The next of them beyond *after*."""
        assert self.last_seq is not None
        return await self._tail.select(after, self.last_seq, self._chosen, self._replay, events_max)


class _Running(NamedTuple):
    courier: Courier
    task: asyncio.Task[None]


class Post:
    """One configured destination, and its couriers here."""

    def __init__(self, settings: DestinationSettings, kinds: Mapping[str, Kind]) -> None:
        self.settings = settings
        self.http = Outbound(
            timeout_seconds=settings.timeout_seconds,
            connections_max=settings.concurrency * (1 + REPLAYS_MAX),
            private_addresses=settings.private_addresses,
        )
        self.destination: Destination[Any] = settings.build(self.http)
        self.route = Route(self.destination, kinds)
        encoded = msgspec.json.encode(settings)
        self.digest = hashlib.sha256(encoded).hexdigest()
        self.type = str(type(settings).__struct_config__.tag)
        self.epoch: int | None = None  # of our lease
        self.registered = False  # whether it has a row since then
        self.running: dict[int, _Running] = {}  # by replay
        self.letters = 0

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def lease(self) -> str:
        return f"destination:{self.settings.name}"

    @property
    def live(self) -> Courier | None:
        found = self.running.get(0)
        return found.courier if found else None


class Dispatch:
    """Every configured destination."""

    def __init__(
        self,
        settings: Sequence[DestinationSettings],
        postgres: Postgres,
        kinds: Mapping[str, Kind],
        *,
        stores: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
        journal_id: str = "",  # whose leases are ours after a kill; without one, nobody's
        place: Path | None = None,  # of the file that says since when each is in the settings
    ) -> None:
        self._stores = stores  # whether Postgres has been brought up to our schema
        self._clock = clock or SystemClock()
        self._posts = {one.name: Post(one, kinds) for one in settings if one.enabled}
        self.tail = Tail(postgres)
        self._books = Line(postgres)
        self._turns = Turns()
        self._control = Line(postgres)
        life = uuid.uuid4().hex[:8]
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{journal_id or life}:{life}"
        self._inherited = False
        self._beginnings = Beginnings(place, self._posts, self._clock.now())
        self._task: asyncio.Task[None] | None = None
        self._renewed_at = float("-inf")
        self._expiry: asyncio.TimerHandle | None = None  # of the lease, in case nobody renews it
        self._counted_at = float("-inf")

    # --- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; Postgres may be away."""
        if not self._posts:
            return
        for post in self._posts.values():
            await post.destination.open()
        self._task = asyncio.create_task(self._rounds(), name="dispatch")

    async def stop(self) -> None:
        """End what is under way within bounds, and leave the destinations to others."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._expiry is not None:
            self._expiry.cancel()
        running = [one for post in self._posts.values() for one in post.running.values()]
        stops = [one.courier.stop(STOP_SECONDS) for one in running]
        for ended in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("A courier did not write down how it ended", exc_info=ended)
        for one in running:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in running), return_exceptions=True)
        with contextlib.suppress(Unreachable, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                names = [post.lease for post in self._posts.values()]
                await self._control.do(leases.resign, names, self._owner)
        for post in self._posts.values():
            await post.destination.close()
            await post.http.close()
        await self.tail.close()
        await self._books.close()
        await self._control.close()

    def stored(self, last_seq: int) -> None:
        """Events up to *last_seq* are in Postgres."""
        self.tail.stored(last_seq)

    # --- rounds ------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        while not self._stores():
            await self._clock.sleep(ROUND_SECONDS / 4)
        while True:
            try:
                await self._round()
            except Unreachable:  # the line has logged it
                self._hold()
            except Exception:
                log.exception("The dispatcher failed inside the collector")
            await self._clock.sleep(ROUND_SECONDS)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _round(self) -> None:
        if not self._inherited:
            names = [post.lease for post in self._posts.values()]
            await self._control.do(leases.inherit, names, self._owner)
            self._inherited = True
        if self._now() - self._renewed_at >= RENEW_SECONDS:
            await self._renew()
        self._hold()
        last, rows = await self._control.do(deliveries.orders, list(self._posts))
        self.tail.stored(last)
        found = {(row.destination, row.replay): row for row in rows}
        for post in self._posts.values():
            try:
                if post.epoch is not None:
                    await self._direct(post, found)
            except Unreachable:
                raise
            except Exception:  # such as a replay for something that only a newer collector knows
                log.exception("A destination cannot be directed", extra={"destination": post.name})
        if self._now() - self._counted_at >= LETTERS_SECONDS:
            letters = await self._control.do(deliveries.letters)
            self._counted_at = self._now()
            for post in self._posts.values():
                post.letters = letters.get(post.name, 0)

    async def _renew(self) -> None:
        asked_at = self._now()  # the lease runs from when Postgres was asked, at the latest
        names = [post.lease for post in self._posts.values()]
        epochs = await self._control.do(leases.acquire_all, names, self._owner, LEASE_SECONDS)
        self._renewed_at = asked_at
        if self._expiry is not None:
            self._expiry.cancel()
        # Postgres may hang for longer than the lease, and the rounds with it.
        self._expiry = asyncio.get_running_loop().call_at(
            asked_at + LEASE_SECONDS - MARGIN_SECONDS, self._hold
        )
        for post in self._posts.values():
            epoch = epochs.get(post.lease)
            if epoch != post.epoch:
                await self._end(post, list(post.running))
                post.epoch = epoch
                post.registered = False

    def _hold(self) -> None:
        """Let couriers send only while nobody else can have their lease."""
        held = self._now() < self._renewed_at + LEASE_SECONDS - MARGIN_SECONDS
        for post in self._posts.values():
            for running in post.running.values():
                running.courier.hold(held=held)

    async def _direct(self, post: Post, found: Mapping[tuple[str, int], Order]) -> None:
        """Have the couriers of *post* be as their rows say."""
        if not post.registered:
            await self._register(post)
            return  # its row is read in the next round
        live = found.get((post.name, 0))
        if live is None:  # somebody deleted it
            post.registered = False
            return
        mine = {replay: row for (name, replay), row in found.items() if name == post.name}
        await self._end(post, [replay for replay in post.running if replay not in mine])
        ended = [replay for replay, one in post.running.items() if one.task.done()]
        await self._end(post, ended)
        for replay, row in mine.items():
            if replay not in post.running:
                if replay and (row.state != "running" or len(post.running) > REPLAYS_MAX):
                    continue
                self._begin(post, row)
            # A replay has a pause of its own, and shares that of its destination.
            state = "paused" if live.state == "paused" else row.state
            post.running[replay].courier.obey(state, row.revision)

    async def _register(self, post: Post) -> None:
        """See to it that the destination has a row, and that the row knows its settings."""
        settings = post.settings
        await self._control.do(
            deliveries.register,
            post.name,
            post.type,
            settings.start,
            self._beginnings[post.name],
            post.digest,
        )
        await self._control.do(deliveries.configured, post.name, post.digest)
        post.registered = True

    def _begin(self, post: Post, row: Order) -> None:
        assert post.epoch is not None
        feed: LiveFeed | ReplayFeed = LiveFeed(self.tail)
        if row.replay:
            chosen = selection.decode(row.filter)
            assert row.last_seq is not None
            feed = ReplayFeed(self.tail, row.replay, row.last_seq, chosen)
        courier = Courier(
            CourierKey(post.name, row.replay),
            post.destination,
            post.route,
            feed,
            self._books,
            post.epoch,
            self._clock,
            self._turns,
        )
        task = asyncio.create_task(courier.run(), name=f"courier {post.name} {row.replay}")
        post.running[row.replay] = _Running(courier, task)

    async def _end(self, post: Post, replays: Sequence[int]) -> None:
        for replay in replays:
            running = post.running.pop(replay)
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)

    # --- facts -------------------------------------------------------------------------------

    def facts(self) -> list[dict[str, Any]]:
        """What `status` shows: one entry for each destination."""
        return [self._facts(post) for post in self._posts.values()]

    def _facts(self, post: Post) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "name": post.name,
            "type": post.type,
            "here": post.epoch is not None,
            "dead_letters": post.letters,
            "replays": sum(1 for replay in post.running if replay),
        }
        courier = post.live
        if courier is not None:
            status = courier.status()
            facts |= {
                "state": status.state,
                "reason": status.reason,
                "pending": self._pending(courier),
                "waiting": courier.window.waiting,
                "oldest_seconds": round(self._oldest(courier), 3),
                "delivered": courier.logbook.total("delivered"),
                "skipped": courier.logbook.total("skipped"),
                "refused": courier.logbook.total("refused"),
            }
        return facts

    def _pending(self, courier: Courier) -> int:
        unread = self.tail.last_seq - courier.window.read_to
        return max(0, unread) + len(courier.window)

    def _oldest(self, courier: Courier) -> float:
        """Seconds since the oldest event that waits was received."""
        oldest = courier.window.oldest()
        return (
            0.0 if oldest is None else max(0.0, self._clock.now() - oldest.event.received_at / 1e6)
        )

    def publish(self, accounts: metrics.Accounts) -> None:
        """Show the destinations' books as metrics."""
        label = ["destination"]

        def each(read: Callable[[Courier], float]) -> Callable[[], metrics.Sums]:
            return lambda: {
                (post.name,): read(post.live)
                for post in self._posts.values()
                if post.live is not None
            }

        def outcome(name: str) -> Callable[[], metrics.Sums]:
            return lambda: {
                (post.name, reason): events
                for post in self._posts.values()
                if post.live is not None
                for (kind, reason), events in post.live.logbook.counts.items()
                if kind == name
            }

        accounts.counter(
            "collector_destination_delivered_events",
            "Events that the destination took.",
            label,
            each(lambda courier: courier.logbook.total("delivered")),
        )
        accounts.counter(
            "collector_destination_skipped_events",
            "Events that were not for the destination, by reason.",
            [*label, "reason"],
            outcome("skipped"),
        )
        accounts.counter(
            "collector_destination_refused_events",
            "Events that the destination will never take, by reason; they are dead letters.",
            [*label, "reason"],
            outcome("refused"),
        )
        accounts.counter(
            "collector_destination_retried_events",
            "Times that an event was not taken and waits for another try, since the start.",
            label,
            each(lambda courier: courier.retried),
        )
        accounts.gauge(
            "collector_destination_pending_events",
            "Stored events that are not settled.",
            label,
            each(self._pending),
        )
        accounts.gauge(
            "collector_destination_waiting_events",
            "Events that wait for another try, or behind one that does.",
            label,
            each(lambda courier: courier.window.waiting),
        )
        accounts.gauge(
            "collector_destination_oldest_pending_seconds",
            "Age of the oldest event that is not settled.",
            label,
            each(self._oldest),
        )
        accounts.gauge(
            "collector_destination_paused",
            "1 while the destination is paused, by hand or because it refuses us.",
            label,
            each(lambda courier: float(courier.paused)),
        )
        accounts.gauge(
            "collector_destination_away",
            "1 while the destination takes nothing.",
            label,
            each(lambda courier: float(courier.breaker.open)),
        )
        accounts.gauge(
            "collector_destination_dead_letters",
            "Events in dead_letters.",
            label,
            lambda: {(post.name,): post.letters for post in self._posts.values()},
        )
