"""
Dead letters: events that a destination refused for good, to be looked at, tried again or dropped.

To try some again is to start a replay of just those; what is delivered then is no dead letter any
more, and what is refused again stays one, with the new reason.

Shapes   `Letters` narrows with each member; globs know * and ?.
Errors   BadRequest, 404 for an unknown number or name, 400 for a choice of nothing and of all.
"""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from collector.errors import BadRequest
from collector.store.desk.couriers import check_name
from collector.store.desk.events import event_at
from collector.store.postgres import Connection
from collector.store.selection import Selection, Words, encode, in_utc, pattern

LIMIT_MAX = 10_000
RETRY_LOCK = 0x636F6C6C6564  # any number, the same for all collectors on this database
Numbers = Annotated[list[Annotated[int, Meta(ge=1, le=2**63 - 1)]], Meta(max_length=LIMIT_MAX)]
Word = Annotated[str, Meta(max_length=4_096)]


class Letters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters; without any member all of them."""

    destination: Word = ""
    reason: Word = ""
    event: Word = ""  # a name, * and ? allowed
    types: Words = []
    message_id: Word = ""
    since: datetime | None = None  # of the refusal
    until: datetime | None = None
    ids: Numbers = []


class DeadLetter(msgspec.Struct, kw_only=True):
    """One of them."""

    id: int
    destination: str
    seq: int
    message_id: str | None
    type: str | None
    event: str | None
    source: str | None
    received_at: datetime | None
    failed_at: datetime
    reason: str
    detail: str
    attempts: int
    retry: int | None  # the replay that tries it again


class Page(msgspec.Struct, kw_only=True):
    """The newest of those that were asked for, and how many there are for each reason."""

    dead_letters: list[DeadLetter]
    total: int
    reasons: dict[str, dict[str, int]]  # destination = reason = how many


class Retried(msgspec.Struct, kw_only=True):
    """A replay that tries dead letters again."""

    destination: str
    replay: int
    events: int


class Retry(msgspec.Struct, kw_only=True):
    """What became of a wish to try again."""

    replays: list[Retried]
    under_way: int  # that another replay tries already
    expired: int  # of which the event is past its retention


_COLUMNS = ", ".join(f"d.{name}" for name in DeadLetter.__struct_fields__)
# A replay that was cancelled or is over tries nothing again.
_UNDER_WAY = (
    "exists (select from collector.couriers c where c.destination = d.destination "
    "and c.replay = d.retry and c.state in ('running', 'paused'))"
)


def _where(letters: Letters) -> tuple[str, list[object]]:
    parts: list[str] = []
    arguments: list[object] = []
    for condition, value in (
        ("d.destination = {}", letters.destination),
        ("d.reason = {}", letters.reason),
        ("d.event like {}", pattern(letters.event)),
        ("d.type = any({}::text[])", list(letters.types)),
        ("d.message_id = {}", letters.message_id),
        ("d.failed_at >= {}", letters.since and in_utc(letters.since)),
        ("d.failed_at < {}", letters.until and in_utc(letters.until)),
        ("d.id = any({}::bigint[])", list(letters.ids)),
    ):
        if value:
            arguments.append(value)
            parts.append(condition.format(f"${len(arguments)}"))
    return " and ".join(parts) or "true", arguments


async def dead_letters(connection: Connection, letters: Letters, limit: int = 100) -> Page:
    """Those of *letters*, newest first."""
    if letters.destination:
        await check_name(connection, letters.destination)
    condition, arguments = _where(letters)
    rows = await connection.fetch(
        f"select {_COLUMNS} from collector.dead_letters d where {condition} "
        f"order by d.failed_at desc, d.id desc limit {max(1, min(limit, LIMIT_MAX))}",
        *arguments,
    )
    reasons: dict[str, dict[str, int]] = {}
    for row in await connection.fetch(
        "select d.destination, d.reason, count(*) as events from collector.dead_letters d "
        f"where {condition} group by 1, 2 order by 3 desc, 1, 2",
        *arguments,
    ):
        reasons.setdefault(row["destination"], {})[row["reason"]] = row["events"]
    return Page(
        dead_letters=[DeadLetter(**dict(row)) for row in rows],
        total=sum(sum(each.values()) for each in reasons.values()),
        reasons=reasons,
    )


async def dead_letter(
    connection: Connection, number: int
) -> tuple[DeadLetter, dict[str, Any] | None]:
    """One of them, and its event as Segment's API has it, unless that is past its retention."""
    row = await connection.fetchrow(
        f"select {_COLUMNS} from collector.dead_letters d where d.id = $1", number
    )
    if row is None:
        raise BadRequest(
            "unknown_dead_letter",
            f"there is no dead letter {number}: it was delivered or dropped since, or never was; "
            "list those that there are",
            status=404,
        )
    letter = DeadLetter(**dict(row))
    event = await event_at(connection, letter.seq)
    return letter, event.message() if event is not None else None


async def retry(connection: Connection, letters: Letters) -> Retry:
    """Start a replay for each destination that has some of *letters*."""
    if letters.destination:
        await check_name(connection, letters.destination)
    condition, arguments = _where(letters)
    async with connection.transaction():
        # Two who ask for the same at once must not start it twice: the second looks when the
        # first has committed.
        await connection.execute("select pg_advisory_xact_lock($1)", RETRY_LOCK)
        rows = await connection.fetch(
            f"select d.id, d.destination, d.seq, {_UNDER_WAY} as under_way, "
            "coalesce(dated.seq, undated.seq) is not null as there "
            "from collector.dead_letters d "
            # With its time only one day is looked into.
            "left join lateral (select e.seq from collector.events e "
            "where e.received_at = d.received_at and e.seq = d.seq limit 1) dated on true "
            "left join lateral (select e.seq from collector.events e "
            "where d.received_at is null and e.seq = d.seq limit 1) undated on true "
            f"where {condition} order by d.id for update of d",
            *arguments,
        )
        chosen: dict[str, list[Any]] = {}
        for row in rows:
            if row["there"] and not row["under_way"]:
                chosen.setdefault(row["destination"], []).append(row)
        replays = [
            await _retry(connection, destination, found)
            for destination, found in sorted(chosen.items())
        ]
    under_way = sum(row["under_way"] for row in rows)
    started = sum(each.events for each in replays)
    return Retry(replays=replays, under_way=under_way, expired=len(rows) - under_way - started)


async def _retry(connection: Connection, destination: str, rows: list[Any]) -> Retried:
    replay: int = await connection.fetchval("select nextval('collector.replay_ids')")
    first, last = min(row["seq"] for row in rows), max(row["seq"] for row in rows)
    await connection.execute(
        "insert into collector.couriers (destination, replay, type, first_seq, last_seq, position, "
        "filter, total) values ($1, $2, $3, $4, $5, $4::bigint - 1, $6::text::jsonb, $7)",
        destination,
        replay,
        await check_name(connection, destination),
        first,
        last,
        encode(Selection(dead_letters=True)),
        len(rows),
    )
    await connection.execute(
        "update collector.dead_letters set retry = $1 where id = any($2::bigint[])",
        replay,
        [row["id"] for row in rows],
    )
    return Retried(destination=destination, replay=replay, events=len(rows))


async def drop(connection: Connection, letters: Letters) -> int:
    """Forget *letters* for good, and return how many that were. The events stay stored."""
    if letters.destination:
        await check_name(connection, letters.destination)
    condition, arguments = _where(letters)
    dropped: int = await connection.fetchval(
        f"with gone as (delete from collector.dead_letters d where {condition} returning 1) "
        "select count(*) from gone",
        *arguments,
    )
    return dropped
