"""
Trace: one message id, from its request to what every destination made of it.

    rejected_events ─ events ─ couriers ─▶ deliveries | delivery_log | dead_letters

What is not in Postgres may still be in a journal, which nobody can look into from here: then that
is what is said. What a courier has settled so long ago that the log was pruned is settled, and how
is not known any more.

Shapes   a `Fate` for each event and courier, replays included if the event is theirs:

    delivered  skipped  refused    settled, with time, attempts and reason
    waiting  sending               tried, or behind an earlier event of the same person
    pending                        not reached yet
    before_start                   stored before the destination began
    settled                        done with; details no longer kept
    cancelled                      its replay ended before it was reached
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from collector.errors import BadRequest
from collector.store.desk.events import events_with
from collector.store.postgres import Connection
from collector.store.reader import blaming, reading
from collector.store.selection import clause, decode
from collector.store.stored import EPOCH, StoredEvent

REJECTED_MAX = 20


class RejectedEvent(msgspec.Struct, kw_only=True):
    """A time that it was turned down."""

    id: int
    rejected_at: datetime
    received_at: datetime
    source: str | None
    accepted: bool
    reason: str
    detail: str


class Fate(msgspec.Struct, kw_only=True):
    """What a courier made of one event."""

    destination: str
    replay: int  # 0 is live delivery
    outcome: str
    at: datetime | None = None
    attempts: int | None = None
    reason: str | None = None
    detail: str | None = None
    not_before: datetime | None = None  # of one that waits
    held_up_by: str | None = None  # why the courier does not go on
    dead_letter: int | None = None
    retry: int | None = None  # the replay that tries it again


class Stored(msgspec.Struct, kw_only=True):
    """The event in Postgres, and its fates."""

    seq: int
    message_id: str
    type: str
    event: str | None
    source: str
    user_id: str | None
    anonymous_id: str | None
    timestamp: datetime
    original_timestamp: datetime | None
    sent_at: datetime | None
    received_at: datetime
    fates: list[Fate]


class Trace(msgspec.Struct, kw_only=True):
    """All that is known of a message id."""

    message_id: str
    rejected: list[RejectedEvent]
    stored: list[Stored]


async def trace(connection: Connection, message_id: str) -> Trace:
    """What became of *message_id*."""
    rejected = await connection.fetch(
        "select id, rejected_at, received_at, source, accepted, reason, detail "
        "from collector.rejected_events where message_id = $1 order by id desc limit $2",
        message_id,
        REJECTED_MAX,
    )
    events = await events_with(connection, message_id)
    return Trace(
        message_id=message_id,
        rejected=[RejectedEvent(**dict(row)) for row in rejected],
        stored=[
            Stored(
                seq=event.seq,
                message_id=event.message_id,
                type=event.type,
                event=event.event,
                source=event.source,
                user_id=event.user_id,
                anonymous_id=event.anonymous_id,
                timestamp=_at(event.timestamp),
                original_timestamp=_at_or_none(event.original_timestamp),
                sent_at=_at_or_none(event.sent_at),
                received_at=_at(event.received_at),
                fates=await _fates(connection, event),
            )
            for event in events
        ],
    )


async def _fates(connection: Connection, event: StoredEvent) -> list[Fate]:
    couriers = await connection.fetch(
        "select destination, replay, state, reason, first_seq, last_seq, position, "
        "filter::text as filter from collector.couriers "
        "where replay = 0 or $1 between first_seq and last_seq order by destination, replay",
        event.seq,
    )
    ahead = _by_courier(
        await connection.fetch(
            "select destination, replay, state, attempts, reason, detail, not_before "
            "from collector.deliveries where seq <= $1 and last_seq >= $1",
            event.seq,
        )
    )
    logged = _by_courier(
        await connection.fetch(
            "select destination, replay, outcome, reason, attempts, at from collector.delivery_log "
            "where span @> $1::bigint and seqs @> $1::bigint order by at",
            event.seq,
        )
    )
    letters = {
        row["destination"]: row
        for row in await connection.fetch(
            "select id, destination, reason, detail, retry from collector.dead_letters "
            "where seq = $1",
            event.seq,
        )
    }
    fates: list[Fate] = []
    for courier in couriers:
        key = (courier["destination"], courier["replay"])
        entries = logged.get(key, [])
        # The log of an event is what counts; more than one entry is a crash between two commits.
        found = [Fate(destination=key[0], replay=key[1], **_settled(entry)) for entry in entries]
        if not found:
            fate = await _unsettled(connection, event, courier, ahead.get(key, []))
            found = [fate] if fate is not None else []
        fates += found
    for destination, letter in letters.items():
        _attach(fates, destination, letter)
    return fates


def _by_courier(rows: list[Any]) -> dict[tuple[str, int], list[Any]]:
    found: dict[tuple[str, int], list[Any]] = {}
    for row in rows:
        found.setdefault((row["destination"], row["replay"]), []).append(row)
    return found


def _settled(entry: Any) -> dict[str, Any]:
    return {
        "outcome": entry["outcome"],
        "at": entry["at"],
        "attempts": entry["attempts"],
        "reason": entry["reason"] or None,
    }


async def _unsettled(
    connection: Connection, event: StoredEvent, courier: Any, ahead: list[Any]
) -> Fate | None:
    """What is known where the log says nothing; None if the event is not the courier's business."""
    fate = Fate(destination=courier["destination"], replay=courier["replay"], outcome="settled")
    waiting = next((row for row in ahead if row["state"] != "done"), None)
    if waiting is not None:
        fate.outcome = waiting["state"]
        fate.attempts, fate.not_before = waiting["attempts"], waiting["not_before"]
        fate.reason, fate.detail = waiting["reason"] or None, waiting["detail"] or None
    elif event.seq < courier["first_seq"]:
        fate.outcome = "before_start"
    elif courier["replay"] and not await _is_selected(connection, event, courier):
        return None
    elif event.seq > courier["position"] and not ahead:
        fate.outcome = "cancelled" if courier["state"] == "cancelled" else "pending"
    if fate.outcome in {"waiting", "sending", "pending"}:
        fate.held_up_by = courier["reason"]
        if courier["state"] == "cancelled":
            fate.outcome = "cancelled"
    return fate


async def _is_selected(connection: Connection, event: StoredEvent, courier: Any) -> bool:
    """Whether the replay is for this event, as far as can be told now."""
    condition, arguments = clause(decode(courier["filter"]), 3, courier["replay"])
    try:
        async with blaming(), reading(connection):
            found = await connection.fetchval(
                "select true from collector.events e "
                f"where e.received_at = $1 and e.seq = $2 and ({condition})",
                _at(event.received_at),
                event.seq,
                *arguments,
            )
    except BadRequest:  # its condition fails on this event, and so the replay will stop here
        return True
    return found is not None


def _attach(fates: list[Fate], destination: str, letter: Any) -> None:
    """Say of the newest refusal that it is a dead letter."""
    refused = [f for f in fates if f.destination == destination and f.outcome == "refused"]
    if not refused:
        refused = [f for f in fates if f.destination == destination and not f.replay]
    for fate in refused[-1:]:
        fate.dead_letter, fate.retry = letter["id"], letter["retry"]
        fate.detail = fate.detail or letter["detail"]
        if fate.outcome == "settled":  # the log was pruned, and the letter tells
            fate.outcome, fate.reason = "refused", letter["reason"]


def _at(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _at_or_none(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _at(microseconds)
