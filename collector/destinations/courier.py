"""
Courier: brings events to one destination, or says in a table why it does not.

    read ─▶ admission ─▶ window ─▶ batch ─▶ age, claims ─▶ send ─▶ settled, or waits
                                                             └─▶ logbook ─▶ commit

Three kinds of tasks work on one window: one reads ahead, `concurrency` of them send, one commits.
None of them turns while there is nothing to do.

What is sent and not yet committed is sent again after a crash, with the same key. Where the vendor
cannot tell a resend (`on_ambiguous = dead_letter`), a row says "sending" before anything is sent,
and what is found in such a row at the next start is a dead letter.

Units    seconds on the courier's clock, microseconds in events.
Errors   none: Fenced (another collector has the destination now) ends `run`, a selection that
         cannot be read pauses a replay, all else waits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from collector import metrics
from collector.destinations.admission import EXPIRED, Admission, Route
from collector.destinations.base import Destination, Later, Outcome, Refused, Taken
from collector.destinations.logbook import PAUSE_SECONDS, Logbook
from collector.destinations.pace import Breaker, Bucket, Clock, Turns, delay
from collector.destinations.window import ALONE_ATTEMPTS, Item, State, Window
from collector.errors import (
    Ambiguous,
    BadRequest,
    CollectorError,
    DeliveryError,
    Denied,
    TooLarge,
    Unacceptable,
    Unreachable,
)
from collector.store import deliveries
from collector.store.deliveries import CourierKey, Fenced, Saved, Status
from collector.store.line import Line
from collector.store.tail import Chunk

log = logging.getLogger(__name__)

READ_EVENTS = 1_000
AHEAD_BYTES_MAX = 8_000_000  # of parcels that were not tried
WAITING_BYTES_MAX = 64_000_000  # of parcels that wait
COMMIT_SECONDS = 0.5  # what is settled in this time shares a commit
UNCOMMITTED_MAX = 20_000  # settled events; beyond, no more are read
_STALLED = "so many events wait to be tried again that no more are read: see deliveries"


class Feed(Protocol):
    """Where a courier's events come from."""

    @property
    def last_seq(self) -> int | None:
        """Where it ends, if it does."""
        ...

    async def read(self, after: int, events_max: int) -> Chunk:
        """The next events beyond *after*, as soon as there are any."""
        ...


class Courier:
    """One destination's, live or for a replay."""

    def __init__(
        self,
        key: CourierKey,
        destination: Destination[Any],
        route: Route,
        feed: Feed,
        line: Line,
        epoch: int,
        clock: Clock,
        turns: Turns | None = None,
    ) -> None:
        self.key = key
        self.settings = settings = destination.settings
        self._destination = destination
        self._route = route
        self._feed = feed
        self._clock = clock
        self._turns = turns or Turns()
        self._strict = settings.on_ambiguous == "dead_letter"
        self.logbook = Logbook(key, epoch, line, clock)
        self.window = Window(0)
        self.breaker = Breaker(settings.retry_seconds_min)
        now = clock.now()
        self._requests = Bucket(settings.rate_per_second, settings.rate_burst, now)
        rate = settings.replay_rate_per_second if key.replay else 0
        self._events = Bucket(rate, rate, now)
        self._orders: Status | None = None  # to pause, not yet committed
        self._refused_in_a_row = 0
        self.retried = 0
        self.paused = False
        self.held = True  # whether the lease is ours for now
        self.stalled = False  # so many wait that it reads no more
        self.finished = False
        self._changed = asyncio.Event()  # there may be something to send
        self._space = asyncio.Event()  # there may be room to read

    # --- life --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring events until cancelled, finished, or fenced."""
        extra = {"destination": self.key.destination, "replay": self.key.replay}
        while not self.finished:
            try:
                await self._session()
            except Fenced:
                log.info("A courier was taken over", extra=extra)
                return
            except Exception:
                # A defect of ours. It starts over from its row, and nobody else notices.
                log.exception("A courier failed inside the collector", extra=extra)
                await self._clock.sleep(PAUSE_SECONDS)

    async def _session(self) -> None:
        saved = await self.logbook.open()
        self.window = Window(saved.position)
        # A replay may have been told of its destination's pause, of which its own row says nothing.
        self.paused = self.paused or saved.state == "paused"
        self._orders = None
        senders = 1 if self._strict else self.settings.concurrency
        work: list[Coroutine[Any, Any, None]] = [self._reads(saved), self._commits()]
        work += [self._sends() for _ in range(senders)]
        if self._feed.last_seq is not None:
            work.append(self._ends(self._feed.last_seq))
        tasks = [asyncio.create_task(part) for part in work]
        try:
            while not self.finished:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                tasks = [task for task in tasks if task not in done]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ends(self, last: int) -> None:
        """Return when a replay has come to its end."""
        while self.window.read_to < last or len(self.window):
            self._space.clear()
            await self._space.wait()
        self.finished = True
        await self._commit()

    async def stop(self, seconds: float) -> None:
        """Send nothing more, give what is in flight *seconds*, and write down how it ended."""
        self.hold(held=False)
        with contextlib.suppress(TimeoutError, CollectorError, Fenced):
            async with asyncio.timeout(seconds):
                while self.window.flying:
                    self._space.clear()
                    await self._space.wait()
                await self._commit(whole=True)

    def obey(self, state: str, revision: int) -> None:
        """Do what the courier's row says, unless it was read before our last commit."""
        if revision < self.logbook.revision or self._orders is not None:
            return
        if (state == "paused") != self.paused:
            self.paused = state == "paused"
            self.logbook.status = Status(state)
            self._refused_in_a_row = 0
            self._changed.set()
            self._space.set()

    def hold(self, *, held: bool) -> None:
        """Send only while the lease is ours."""
        if held != self.held:
            self.held = held
            self._changed.set()

    # --- reading -----------------------------------------------------------------------------

    async def _reads(self, saved: Saved) -> None:
        window, last = self.window, self._feed.last_seq
        admission = Admission(
            self._route,
            self.settings,
            self.logbook,
            window,
            saved,
            ordered=self._destination.ordered,
            turns=self._turns,
        )
        events_max = READ_EVENTS
        if self.key.replay:  # what is read at once is sent at once
            events_max = min(READ_EVENTS, self.settings.replay_rate_per_second or READ_EVENTS)
        while last is None or window.read_to < last:
            await self._room()
            try:
                chunk = await self._feed.read(window.read_to, events_max)
            except Unreachable:
                await self._clock.sleep(PAUSE_SECONDS)
                continue
            except BadRequest as exc:
                self._give_up(exc.code, exc.detail)
                await self._resumed()
                continue
            if self.key.replay and chunk.events:
                await self._clock.sleep(self._events.take(self._clock.now(), len(chunk.events)))
            await admission.admit(chunk, self._clock.now())
            self._changed.set()
            self._space.set()
            self.logbook.dirty.set()

    async def _resumed(self) -> None:
        while self.paused:
            self._space.clear()
            await self._space.wait()

    async def _room(self) -> None:
        """Return when there is room for more."""
        settings = self.settings
        while True:
            window = self.window
            full = (
                window.waiting + window.retried >= settings.waiting_events_max
                or window.waiting_bytes >= WAITING_BYTES_MAX
            )
            stalled = full and window.tried > 0
            if stalled != self.stalled:
                self.stalled = stalled
                self.logbook.dirty.set()
            if (
                not full
                and len(window) - window.waiting < settings.ahead_events_max
                and window.bytes - window.waiting_bytes < AHEAD_BYTES_MAX
                and self.logbook.uncommitted < UNCOMMITTED_MAX
            ):
                return
            self._space.clear()
            await self._space.wait()

    # --- sending -----------------------------------------------------------------------------

    async def _sends(self) -> None:
        while True:
            batch = await self._next_batch()
            try:
                await self._bring(batch)
            finally:
                for item in batch:
                    if item.state is State.FLYING:  # not tried after all
                        self.window.restore(item)
                self._changed.set()
                self._space.set()
                self.logbook.dirty.set()

    async def _next_batch(self) -> list[Item]:
        """The next batch, when there is one that may go."""
        settings = self.settings
        our_turn = False
        while True:
            self._changed.clear()
            now = self._clock.now()
            window = self.window
            ready = window.ready(now)
            due = window.next_due()
            seconds: float | None = None  # until something changes
            if self.paused or not self.held:
                pass
            elif blocked := self.breaker.blocked(now):
                seconds = blocked if ready or due is not None else None
            elif ready:
                seconds = (window.oldest_since() or now) + settings.linger_seconds - now
                if seconds <= 0 or ready >= settings.batch_events_max or self._all_read():
                    if not our_turn:
                        await self._turns.mine()
                        our_turn = True  # unless what there was is gone by now
                        continue
                    # What may become a dead letter because nobody answers is tried one by one.
                    risky = self._strict and self.breaker.open
                    events_max = 1 if risky else settings.batch_events_max
                    return window.take(now, events_max, settings.batch_bytes_max)
            elif due is not None:
                if self.breaker.open and window.probe(now):
                    continue  # how long it waits then is for the breaker to say, not for an event
                seconds = due - now
            our_turn = False
            await self._clock.wait(self._changed, seconds)

    def _all_read(self) -> bool:
        last = self._feed.last_seq
        return last is not None and self.window.read_to >= last

    async def _bring(self, batch: list[Item]) -> None:
        """Try to deliver *batch*; each of its items is settled, waits, or is still in flight."""
        batch = await self._claimed(self._young_enough(batch))
        if not batch:
            return
        await self._clock.sleep(self._requests.take(self._clock.now()))
        if self._strict and self._may_send():
            for item in batch:
                item.marked = True
            await self._commit()
        if not self._may_send():  # waiting may have taken longer than the lease
            return
        await self._send(batch)
        if self._strict:
            await self._commit()

    def _may_send(self) -> bool:
        return self.held and not self.paused and not self.breaker.blocked(self._clock.now())

    def _young_enough(self, batch: list[Item]) -> list[Item]:
        """Refuse what the vendor would not take any more."""
        now = self._clock.now()
        young = []
        for item in batch:
            oldest = item.parcel.age_seconds_max
            if oldest is not None and now - item.event.timestamp / 1e6 > oldest:
                detail = f"it happened more than {oldest / 86_400:g} days ago: too old by now"
                self._refuse(item, Refused("too_old", detail))
            else:
                young.append(item)
        return young

    async def _claimed(self, batch: list[Item]) -> list[Item]:
        """Skip what another event has been sent for: one order is one order."""
        wanted = [(item, item.claim) for item in batch if item.claim is not None]
        if not wanted:
            return batch
        if self.logbook.frees(claim for _, claim in wanted):
            await self._commit()
        asked = [(*claim, item.event.message_id) for item, claim in wanted]
        owners = await self.logbook.postgres(deliveries.claim, self.key.destination, asked)
        for (item, _), owner in zip(wanted, owners, strict=True):
            if owner != item.event.message_id:
                self._settle(item, "skipped", "already_sent")
        return [item for item in batch if item.state is State.FLYING]

    async def _send(self, batch: list[Item]) -> None:
        """Send one batch, in smaller parts if it is refused as a whole."""
        for item in batch:
            item.attempts += 1
        self.breaker.began()
        try:
            with metrics.delivery_seconds.labels(self.key.destination).time():
                outcomes = await self._destination.send([item.parcel for item in batch])
            await self._turns.mine()
            assert len(outcomes) == len(batch), "one outcome for each parcel"
        except (Unacceptable, TooLarge) as exc:
            self.breaker.answered()
            await self._split(batch, exc)
        except Denied as exc:
            self.breaker.answered()
            self._untried(batch)
            self._give_up("denied", exc.detail)
        except Unreachable as exc:
            self._failed(batch, exc, exc.seconds)
        except Ambiguous as exc:
            self._in_doubt(batch, exc, exc.seconds)
        except Exception as exc:
            log.exception(
                "A destination failed inside the collector",
                extra={"destination": self.key.destination},
            )
            detail = f"a defect of the collector ({type(exc).__name__}): see its log"
            self._in_doubt(batch, Ambiguous("defect", detail), None)
        except asyncio.CancelledError:
            self.breaker.answered()
            raise
        else:
            self._apply(batch, outcomes)

    async def _split(self, batch: list[Item], error: DeliveryError) -> None:
        """Find what is refused: half and half, until it is alone."""
        if len(batch) == 1:
            self._turned_down(batch[0], Refused(error.code, error.detail))
            return
        self._untried(batch)
        half = len(batch) // 2
        for part in (batch[:half], batch[half:]):
            await self._clock.sleep(self._requests.take(self._clock.now()))
            if not self._may_send():
                return  # it went away meanwhile; who called puts the rest back
            free = self.window.in_order(part)  # of those before them some may wait by now
            if free:
                await self._send(free)

    # --- outcomes ----------------------------------------------------------------------------

    def _apply(self, batch: list[Item], outcomes: Sequence[Outcome]) -> None:
        now = self._clock.now()
        if any(isinstance(outcome, Taken) for outcome in outcomes):
            self.logbook.delivered_at = now
            self._refused_in_a_row = 0
            if self.breaker.passed(now):
                self.window.hurry(now)
        else:
            self.breaker.answered()
        for item, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Taken):
                self._settle(item, "delivered")
            elif isinstance(outcome, Refused):
                self._turned_down(item, outcome)
            else:
                self._retry(item, now, outcome)

    def _failed(self, batch: list[Item], error: CollectorError, seconds: float | None) -> None:
        """None of the batch was taken: all of it waits."""
        now = self._clock.now()
        if batch[0].alone and seconds is None and not self.breaker.open:
            self.breaker.ended()  # it fails while others pass, which says nothing of them
        else:
            self.breaker.failed(now, seconds)
        for item in batch:
            self._retry(item, now, Later(error.code, error.detail, seconds))

    def _in_doubt(self, batch: list[Item], error: Ambiguous, seconds: float | None) -> None:
        """Nobody knows whether the batch was taken."""
        if not self._strict:
            self._failed(batch, error, seconds)
            return
        self.breaker.failed(self._clock.now(), seconds)
        for item in batch:
            self._turned_down(item, Refused("ambiguous", error.detail), free=False)

    def _retry(self, item: Item, now: float, later: Later) -> None:
        """*item* waits, unless it has failed for too long while others passed."""
        settings = self.settings
        self.retried += 1
        self.logbook.error = later.detail
        passed_at = self.breaker.passed_at
        if item.failed_at is not None and (
            (passed_at is not None and passed_at >= item.failed_at)
            # So many wait, behind ones such as this, that no others are there to pass.
            or (item.alone and self.stalled)
        ):
            # As long as it had to wait; what it waited beyond that was for the destination, and
            # so was what it waited while that was away.
            since = max(item.failed_at, self.breaker.back_at)
            item.failing_seconds += max(0.0, min(now, item.not_before) - since)
            item.alone = item.alone or item.attempts >= ALONE_ATTEMPTS
        item.failed_at = now
        item.reason, item.detail = later.reason, later.detail
        item.asked = later.seconds is not None
        if item.failing_seconds > settings.retry_window_seconds:
            detail = f"tried {item.attempts} times while others passed; at last: {later.detail}"
            self._refuse(item, Refused(EXPIRED, detail), free=False)
            return
        seconds = delay(item.delay, settings.retry_seconds_min, settings.retry_seconds_max)
        item.delay += 1
        self.window.wait(item, now + max(seconds, later.seconds or 0.0))

    def _turned_down(self, item: Item, refused: Refused, *, free: bool = True) -> None:
        """The vendor refuses *item*; if it refuses everything, the fault is not in the events."""
        self.logbook.error = refused.detail
        self._refuse(item, refused, free=free)
        self._refused_in_a_row += 1
        longest = self.settings.refused_in_a_row_max
        if longest and self._refused_in_a_row >= longest:
            detail = f"{longest} events in a row were refused, the last one: {refused.detail}"
            self._give_up("refuses_everything", detail)

    def _settle(self, item: Item, outcome: str, reason: str = "") -> None:
        self.window.settle(item)
        self.logbook.settled(item.seq, outcome, reason, item.attempts)

    def _refuse(self, item: Item, refused: Refused, *, free: bool = True) -> None:
        """*item* is given up; its business key is free again if the vendor surely has it not."""
        self.window.settle(item)
        if free and item.claim is not None:
            self.logbook.free(item.claim, item.event.message_id)
        self.logbook.refused(item.event, refused, item.attempts)

    def _untried(self, batch: list[Item]) -> None:
        """Nothing was found out about these: the try does not count."""
        for item in batch:
            item.attempts -= 1

    def _give_up(self, reason: str, detail: str) -> None:
        """Pause until a person has changed something: no event is at fault."""
        self.logbook.error = detail
        if self.paused:
            return
        self.paused = True
        self._orders = Status("paused", reason, detail)
        self.logbook.dirty.set()
        log.error(
            "A destination is paused: %s",
            detail,
            extra={"destination": self.key.destination, "reason": reason},
        )

    # --- commits -----------------------------------------------------------------------------

    async def _commits(self) -> None:
        while True:
            await self.logbook.dirty.wait()
            await self._clock.sleep(COMMIT_SECONDS)
            await self._commit()

    async def _commit(self, *, whole: bool = False) -> None:
        """Write down what has changed; returns when it is on disk."""
        await self.logbook.commit(self.window, self.status, whole=whole)
        if self._orders is not None and self.logbook.status == self._orders:
            self._orders = None
        self._space.set()
        self._changed.set()

    def status(self) -> Status:
        """Whether it goes on, and if not why."""
        if self.finished:
            return Status("done")
        if self._orders is not None:
            return self._orders
        if self.paused:
            return self.logbook.status  # a person's order
        if self.breaker.open:
            return Status("running", "away", "it takes nothing now: see last_error")
        if self.stalled:
            return Status("running", "too_many_waiting", _STALLED)
        return Status()
