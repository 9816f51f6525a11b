"""
Replays: events that are sent to a destination again, or for the first time after it began.

A replay is a row of `couriers`: the dispatcher sees it within a second and brings its events with a
courier of its own, beside live delivery and slower than it. Which numbers it spans is known by
whole days, because those are found at once; which events of them it is for, it sees as it reads.

Shapes   `total` is how many events it is for, where somebody has counted.
Errors   BadRequest, 404 for an unknown number or name, 409 for what has ended, 400 for a selection
         that cannot be used.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from collector.errors import BadRequest
from collector.event import EVENT_TYPES
from collector.store import reader
from collector.store.desk.couriers import Outcomes, check_name, outcomes, pause, rates_of, resume
from collector.store.postgres import Connection
from collector.store.selection import Selection, clause, decode, encode, in_utc

SPAN = 50_000  # of seq that are counted in one statement
LISTED_MAX = 100
RUNNING_MAX = 20  # at once, on all destinations: each reads on its own


class Replay(msgspec.Struct, kw_only=True):
    """One replay, and how far it is."""

    id: int
    destination: str
    state: str  # running, paused, done or cancelled
    reason: str | None
    detail: str | None
    since: datetime | None
    selection: Selection
    first_seq: int
    last_seq: int
    share: float  # of the numbers it spans that are settled or were passed by
    total: int | None
    outcomes: Outcomes
    waiting: int
    rate_per_second: float
    started: bool  # whether a collector has taken it up
    created_at: datetime
    updated_at: datetime
    last_error: str | None


class Span(NamedTuple):
    """The numbers between which the events of a selection are; *last* is included."""

    first: int
    last: int


def check(selection: Selection) -> None:
    """BadRequest for what cannot be meant."""
    unknown = sorted(set(selection.types) - EVENT_TYPES)
    if unknown:
        known = ", ".join(sorted(EVENT_TYPES))
        raise BadRequest("bad_type", f"there is no type {unknown[0]}: name some of {known}")
    since, until = selection.since, selection.until
    if since is not None and until is not None and in_utc(since) >= in_utc(until):
        raise BadRequest("bad_time", "since is not before until: exchange them")


async def span(connection: Connection, selection: Selection) -> Span | None:
    """The numbers that *selection* is about, to the day; None if there is no event at all."""
    parts, arguments = [], []
    for comparison, at in (
        (">=", selection.since and _day(selection.since)),
        ("<", selection.until and _day(selection.until) + timedelta(days=1)),
    ):
        if at is not None:
            arguments.append(at)
            parts.append(f"received_at {comparison} ${len(arguments)}")
    condition = " and ".join(parts) or "true"
    # Two statements: together, Postgres would read every row for either.
    first = await connection.fetchval(
        f"select seq from collector.events where {condition} order by seq limit 1", *arguments
    )
    last = await connection.fetchval(
        f"select seq from collector.events where {condition} order by seq desc limit 1", *arguments
    )
    return None if first is None else Span(first, last)


def _day(at: datetime) -> datetime:
    return in_utc(at).replace(hour=0, minute=0, second=0, microsecond=0)


def pieces(whole: Span) -> Iterator[Span]:
    """*whole* in spans that one statement can count in time."""
    for first in range(whole.first, whole.last + 1, SPAN):
        yield Span(first, min(first + SPAN - 1, whole.last))


async def prepare(connection: Connection, destination: str, selection: Selection) -> Span | None:
    """Refuse what cannot be replayed, and return the numbers that it would be about."""
    await check_name(connection, destination)
    check(selection)
    await reader.try_out(connection, selection)
    return await span(connection, selection)


async def count(connection: Connection, selection: Selection, piece: Span) -> int:
    """How many events of *piece* are selected."""
    condition, arguments = clause(selection, 3)
    query = (
        "select count(*) from collector.events e "
        f"where e.seq >= $1 and e.seq <= $2 and ({condition})"
    )
    found: int
    if not selection.where:
        found = await connection.fetchval(query, *piece, *arguments)
    else:
        async with reader.blaming(), reader.reading(connection):
            found = await connection.fetchval(query, *piece, *arguments)
    return found


async def create(
    connection: Connection,
    destination: str,
    selection: Selection,
    whole: Span,
    total: int | None = None,
) -> int:
    """Start a replay of what `prepare` has found to be good, and return its number."""
    async with connection.transaction():
        type_ = await check_name(connection, destination)
        running = await connection.fetchval(
            "select count(*) from collector.couriers where replay > 0 "
            "and state in ('running', 'paused')"
        )
        if running >= RUNNING_MAX:
            raise BadRequest(
                "too_many_replays",
                f"{running} replays are under way: wait for one to end, or cancel one",
                status=409,
            )
        replay: int = await connection.fetchval(
            "insert into collector.couriers (destination, replay, type, first_seq, last_seq, "
            "position, filter, total) values ($1, nextval('collector.replay_ids'), $2, $3, $4, "
            "$3::bigint - 1, $5::text::jsonb, $6) returning replay",
            destination,
            type_,
            whole.first,
            whole.last,
            encode(selection),
            total,
        )
    return replay


_SELECT = (
    "select c.*, c.filter::text as selection, (select count(*) from collector.deliveries d "
    "where d.destination = c.destination and d.replay = c.replay and d.state <> 'done') as waiting "
    "from collector.couriers c where c.replay > 0"
)


async def replays(connection: Connection, destination: str = "") -> list[Replay]:
    """The newest of all, or of one destination."""
    if destination:
        await check_name(connection, destination)
    rows = await connection.fetch(
        f"{_SELECT} and ($1 = '' or c.destination = $1) order by c.replay desc limit {LISTED_MAX}",
        destination,
    )
    return await _read(connection, rows)


async def replay(connection: Connection, number: int) -> Replay:
    """One of them."""
    rows = await connection.fetch(f"{_SELECT} and c.replay = $1", number)
    if not rows:
        raise BadRequest(
            "unknown_replay",
            f"there is no replay {number}: list those that there are",
            status=404,
        )
    return (await _read(connection, rows))[0]


async def _read(connection: Connection, rows: list[Any]) -> list[Replay]:
    counts, rates = await outcomes(connection), await rates_of(connection)
    found = []
    for row in rows:
        key = (row["destination"], row["replay"])
        passed = row["position"] - row["first_seq"] + 1 + row["settled_ahead"]
        found.append(
            Replay(
                id=row["replay"],
                destination=row["destination"],
                state=row["state"],
                reason=row["reason"],
                detail=row["detail"],
                since=row["since"],
                selection=decode(row["selection"]),
                first_seq=row["first_seq"],
                last_seq=row["last_seq"],
                share=round(min(1.0, passed / (row["last_seq"] - row["first_seq"] + 1)), 4),
                total=row["total"],
                outcomes=counts.get(key) or Outcomes(),
                waiting=row["waiting"],
                rate_per_second=rates.get(key, 0.0),
                started=row["epoch"] > 0,
                created_at=row["created_at"],
                updated_at=row["updated_at"],
                last_error=row["last_error"],
            )
        )
    return found


async def cancel(connection: Connection, number: int) -> bool:
    """End a replay for good, and say whether it was not ended before. What was sent stays sent."""
    async with connection.transaction():
        changed: bool | None = await connection.fetchval(
            "update collector.couriers set state = 'cancelled', reason = null, detail = null, "
            "since = now(), updated_at = now() where replay = $1 and replay > 0 "
            "and state in ('running', 'paused') returning true",
            number,
        )
        if changed:
            await connection.execute(
                "update collector.dead_letters set retry = null where retry = $1", number
            )
            return True
    found = await replay(connection, number)
    if found.state == "done":
        raise BadRequest(
            "replay_ended", f"replay {number} is done: nothing is left to cancel", status=409
        )
    return False


async def pause_replay(connection: Connection, number: int, detail: str | None = None) -> bool:
    """Stop a replay until it is resumed, and say whether that changed anything."""
    found = await replay(connection, number)
    return await pause(connection, found.destination, detail, replay=number)


async def resume_replay(connection: Connection, number: int) -> bool:
    """Go on with a replay, and say whether that changed anything."""
    found = await replay(connection, number)
    return await resume(connection, found.destination, replay=number)
