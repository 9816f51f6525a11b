"""
Admission: from events that were read to items in the window, or to a reason why not.

    done in an earlier life → Postgres cannot give it back → gate → person → overrides and mapping

Numbers are dense, so one that is missing is an event whose day was dropped: it is counted.

Errors   none of an event: whatever its mapping raises is logged, and it is a dead letter.
"""

import hashlib
import logging
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from collector.destinations.base import Mapped, Parcel, Refused, Skipped
from collector.destinations.logbook import Logbook, Runs
from collector.destinations.pace import Turns
from collector.destinations.settings import DestinationSettings
from collector.destinations.window import ALONE_ATTEMPTS, Claim, Item, Window
from collector.store import deliveries
from collector.store.deliveries import Saved, Waiting
from collector.store.stored import NOTHING, Json, StoredEvent
from collector.store.tail import Chunk

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPIRED: Final = "expired"
KEY_BYTES = 200  # longer ones are kept as their hash: an index has no room for them
_UNKNOWN = (
    "the collector ended while it was being sent, and this destination cannot tell a resend: "
    "look there whether it arrived, then retry or drop it"
)
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Route(Protocol):
    """The way of one event up to its parcel; pure."""

    @property
    def reads_person(self) -> bool:
        """Whether `map` looks at the person."""
        ...

    def skip(self, event: StoredEvent) -> str | None:
        """Why it does not go to this destination."""
        ...

    def map(self, event: StoredEvent, person: Json) -> Mapped:
        """What is sent for it."""
        ...


class Admission:
    """Takes in what a courier reads, from where it stood when it began."""

    def __init__(
        self,
        route: Route,
        settings: DestinationSettings,
        logbook: Logbook,
        window: Window,
        saved: Saved,
        *,
        ordered: bool,
        turns: Turns,
    ) -> None:
        self._route = route
        self._settings = settings
        self._logbook = logbook
        self._window = window
        self._ordered = ordered
        self._turns = turns
        self._old = {row.seq: row for row in saved.waiting}
        self._done = Runs(saved.runs)

    async def admit(self, chunk: Chunk, now: float) -> None:
        """Decide about each event of *chunk*."""
        turns = self._turns
        await turns.mine()
        if not self._logbook.key.replay:
            self._count_missing(chunk)
        for seq, detail in chunk.unreadable:
            self._logbook.unreadable(seq, detail)
        wanted = []
        for event in chunk.events:
            if self._passes(event):
                wanted.append(event)
            if turns.over:
                await turns.mine()
        persons = await self._persons(wanted)
        for event in wanted:
            self._take_in(event, persons.get(event.user_id or "", NOTHING), now)
            self._window.read_to = event.seq  # others may send and commit this much already
            if turns.over:
                await turns.mine()
        self._window.read_to = chunk.read_to

    def _passes(self, event: StoredEvent) -> bool:
        if event.seq in self._done:
            return False
        row = self._old.get(event.seq)
        if row is not None:
            if row.sending and self._settings.on_ambiguous == "dead_letter":
                self._logbook.refused(event, Refused("ambiguous", _UNKNOWN), row.attempts)
                return False
            return True
        reason = self._guarded(event, self._route.skip, event)
        if isinstance(reason, Refused):
            self._logbook.refused(event, reason, 0)
        elif reason is not None:
            self._logbook.settled(event.seq, "skipped", reason)
        return reason is None

    def _count_missing(self, chunk: Chunk) -> None:
        """Count what lies between the events of *chunk*, days of it in one entry."""
        after = self._window.read_to
        if chunk.read_to - after == len(chunk.events) + len(chunk.unreadable):
            return
        there = sorted(
            [event.seq for event in chunk.events] + [bad.seq for bad in chunk.unreadable]
        )
        for seq in [*there, chunk.read_to + 1]:
            for first, last in self._done.gaps(after + 1, seq - 1):
                self._logbook.settled(first, "refused", EXPIRED, events=last - first + 1)
            after = seq

    async def _persons(self, events: Iterable[StoredEvent]) -> dict[str, Json]:
        """What was said of the users of *events*, where the destination wants to know."""
        if not self._route.reads_person:
            return {}
        wanted = {event.user_id for event in events if event.user_id}
        if not wanted:
            return {}
        found = await self._logbook.postgres(deliveries.persons, sorted(wanted))
        return {user_id: self._decoded(text) for user_id, text in found.items()}

    def _decoded(self, text: str) -> Json:
        try:
            return _decode(text)
        except msgspec.DecodeError:
            log.exception(
                "Traits of a user cannot be decoded, and are left out",
                extra={"destination": self._settings.name},
            )
            return NOTHING

    def _guarded(self, event: StoredEvent, job: Callable[..., T], *arguments: Any) -> T | Refused:
        """What *job* returns, or why *event* is refused because it failed."""
        try:
            return job(*arguments)
        except msgspec.DecodeError as exc:
            return Refused("unreadable", f"its JSON cannot be decoded: {exc}")
        except Exception:
            log.exception(
                "A mapping failed inside the collector",
                extra={"destination": self._settings.name, "seq": event.seq},
            )
            return Refused("mapping_failed", "a defect of the collector: see its log")

    def _take_in(self, event: StoredEvent, person: Json, now: float) -> None:
        mapped = self._guarded(event, self._route.map, event, person)
        claim = None
        if isinstance(mapped, Parcel):
            found = self._guarded(event, claim_of, event, self._settings.once)
            if isinstance(found, Refused):
                mapped = found
            else:
                claim = found
        if isinstance(mapped, Skipped):
            self._logbook.settled(event.seq, "skipped", mapped.reason)
        elif isinstance(mapped, Refused):
            self._logbook.refused(event, mapped, 0)
        else:
            item = Item(event, mapped, self._keys(event, claim), claim, now)
            row = self._old.get(event.seq)
            if row is not None and row.attempts:
                _resume(item, row, now)
            self._window.add(item)

    def _keys(self, event: StoredEvent, claim: Claim | None) -> tuple[Hashable, ...]:
        """What it shares with events that it must not overtake."""
        keys: list[Hashable] = []
        if self._ordered:
            if event.user_id is not None:
                keys.append("u" + event.user_id)
            if event.anonymous_id is not None:
                keys.append("a" + event.anonymous_id)
            if event.previous_id is not None:  # of an alias: may be of either kind
                keys += ["u" + event.previous_id, "a" + event.previous_id]
        if claim is not None:
            keys.append(claim)
        return tuple(dict.fromkeys(keys))


def _resume(item: Item, row: Waiting, now: float) -> None:
    """Go on with *item* where its row stands."""
    item.attempts = item.delay = row.attempts
    item.failing_seconds = row.failing_seconds
    item.not_before = row.not_before
    item.failed_at = now
    item.alone = row.attempts >= ALONE_ATTEMPTS and row.failing_seconds > 0
    item.reason, item.detail = row.reason, row.detail


def claim_of(event: StoredEvent, once: dict[str, str]) -> Claim | None:
    """The business key of *event*, if it is of a kind of which there is one for each."""
    path = once.get(event.event or "") if event.type == "track" else None
    if path is None:
        return None
    value: Any = event.properties
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) or value is event.properties else None
    if value is None and path == "order_id":
        value = event.properties.get("orderId")  # as version 1 of the spec has it
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return None
    key = str(value)
    encoded = key.encode(errors="replace")
    if len(encoded) > KEY_BYTES:
        key = f"sha256:{hashlib.sha256(encoded).hexdigest()}"
    return Claim(event.event or "", key)
