"""
Deliveries: what couriers write down, each commit in one transaction that also moves the cursor.

    the courier's row is ours (epoch) and as we left it (revision)?  → else Fenced
    → rows ahead of the cursor → counts → log → dead letters → claims that are free again

A COMMIT of which the answer was lost is found out about by the revision: the courier reads its row
again, and either takes its commit for done or starts over from what the row says.

Shapes   seqs are written as multiranges: [1,5) [7,8) for 1 to 4 and 7.
Units    seconds; timestamptz as asyncpg has it.
Errors   Fenced when another collector has taken over, or our own commit got lost.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from collector.store.postgres import Connection

DETAIL_CHARS = 1_000
NOW_EVENTS = 200_000  # the newest, among which those since the start are looked for


class Fenced(Exception):
    """The courier's row is not as we left it: what we know of it is not to be trusted."""


class CourierKey(NamedTuple):
    """Which courier: of a destination, live (0) or for a replay."""

    destination: str
    replay: int = 0


class Waiting(NamedTuple):
    """A row of an event that waits, or is being sent."""

    seq: int
    message_id: str
    attempts: int
    failing_seconds: float
    not_before: float  # seconds since 1970; 0 where it waits for another event
    reason: str
    detail: str
    sending: bool = False


class Settled(NamedTuple):
    """One event that is done with, or several in a row."""

    seq: int  # of the first
    outcome: str  # delivered, skipped or refused
    reason: str = ""
    attempts: int = 0
    events: int = 1


class DeadLetter(NamedTuple):
    """One event that was refused for good, and what of it people look for."""

    seq: int
    message_id: str | None
    type: str | None
    event: str | None
    source: str | None
    received_at: int | None  # microseconds
    reason: str
    detail: str
    attempts: int


class Saved(NamedTuple):
    """What a courier finds when it begins."""

    position: int
    last_seq: int | None
    revision: int
    state: str
    reason: str | None
    digest: str
    waiting: list[Waiting]
    runs: dict[int, int]
    counts: dict[tuple[str, str], int]


class Status(NamedTuple):
    """Whether a courier goes on, and if not why."""

    state: str = "running"
    reason: str | None = None
    detail: str | None = None


class Change(NamedTuple):
    """What a commit says."""

    revision: int  # that it was left with
    position: int
    settled_ahead: int
    keep: Sequence[Waiting] = ()  # rows that are new or changed
    runs: Sequence[tuple[int, int]] = ()  # the same of runs: first and last seq
    drop: Sequence[int] = ()  # seqs of rows that are not true any more
    settled: Sequence[Settled] = ()
    letters: Sequence[DeadLetter] = ()
    freed: Sequence[tuple[str, str, str]] = ()  # claims: event, key, message id
    oldest_at: int | None = None  # microseconds
    delivered_at: float | None = None
    last_error: str | None = None
    status: Status | None = None  # if it is another one now


def multirange(entries: Iterable[Settled]) -> str:
    """What *entries* are about, as Postgres writes an int8multirange."""
    parts: list[str] = []
    first = end = None
    for seq, *_, events in sorted(entries):
        if end is not None and seq == end:
            end = seq + events
            continue
        if first is not None:
            parts.append(f"[{first},{end})")
        first, end = seq, seq + events
    if first is not None:
        parts.append(f"[{first},{end})")
    return "{" + ",".join(parts) + "}"


# --- rows of couriers ------------------------------------------------------------------------


async def register(
    connection: Connection, name: str, type_: str, start: str, began_at: float, digest: str
) -> None:
    """
    Make the row of a destination that is new, unless it is there.

    It begins at *start*; for "now" that is *began_at*, when the collector was started, because
    what was accepted until its row is made is the destination's, too.
    """
    if await connection.fetchval(
        "select true from collector.couriers where destination = $1 and replay = 0", name
    ):
        return
    await connection.execute(
        "insert into collector.couriers (destination, type, first_seq, position, digest) "
        "values ($1, $2, $3::bigint, $3::bigint - 1, $4) on conflict do nothing",
        name,
        type_,
        await _first_seq(connection, start, began_at),
        digest,
    )


async def _first_seq(connection: Connection, start: str, began_at: float) -> int:
    newest: int = await connection.fetchval("select last from collector.sequence")
    if start == "now":
        first = await connection.fetchval(
            "select min(seq) from collector.events "
            "where seq > $1 and received_at >= to_timestamp($2::float8)",
            newest - NOW_EVENTS,
            began_at,
        )
    elif start == "beginning":
        first = await connection.fetchval("select min(seq) from collector.events")
    else:
        at = datetime.fromisoformat(start)
        first = await connection.fetchval(
            "select min(seq) from collector.events where received_at >= $1",
            at if at.tzinfo else at.replace(tzinfo=UTC),
        )
    return newest + 1 if first is None else int(first)


async def revision_of(connection: Connection, key: CourierKey, epoch: int) -> int | None:
    """The revision that the courier's row has, if it is still ours."""
    revision: int | None = await connection.fetchval(
        "select revision from collector.couriers "
        "where destination = $1 and replay = $2 and epoch = $3",
        *key,
        epoch,
    )
    return revision


async def open_courier(connection: Connection, key: CourierKey, epoch: int) -> Saved:
    """Take the courier over under *epoch*, and return where it stands. Fenced if it is not ours."""
    async with connection.transaction():
        row = await connection.fetchrow(
            "update collector.couriers set epoch = $3, revision = revision + 1, updated_at = now() "
            "where destination = $1 and replay = $2 and epoch <= $3 "
            "returning position, last_seq, revision, state, reason, digest",
            *key,
            epoch,
        )
        if row is None:
            raise Fenced
        rows = await connection.fetch(
            "select seq, last_seq, state, coalesce(message_id, '') as message_id, attempts, "
            "failing_seconds, coalesce(extract(epoch from not_before), 0)::float8 as not_before, "
            "coalesce(reason, '') as reason, coalesce(detail, '') as detail "
            "from collector.deliveries where destination = $1 and replay = $2 order by seq",
            *key,
        )
        counts = await connection.fetch(
            "select outcome, reason, events from collector.delivery_counts "
            "where destination = $1 and replay = $2",
            *key,
        )
    return Saved(
        row["position"],
        row["last_seq"],
        row["revision"],
        row["state"],
        row["reason"],
        row["digest"],
        [
            Waiting(
                found["seq"],
                found["message_id"],
                found["attempts"],
                found["failing_seconds"],
                found["not_before"],
                found["reason"],
                found["detail"],
                found["state"] == "sending",
            )
            for found in rows
            if found["state"] != "done"
        ],
        {found["seq"]: found["last_seq"] for found in rows if found["state"] == "done"},
        {(found["outcome"], found["reason"]): found["events"] for found in counts},
    )


async def commit(connection: Connection, key: CourierKey, epoch: int, change: Change) -> None:
    """Write *change* down. Fenced if the row is not as we left it."""
    async with connection.transaction():
        status = change.status
        moved = await connection.fetchval(
            "update collector.couriers set revision = revision + 1, position = $5, "
            "settled_ahead = $6, updated_at = now(), "
            "oldest_at = timestamptz 'epoch' + $7::bigint * interval '1 microsecond', "
            "delivered_at = coalesce(to_timestamp($8::float8), delivered_at), "
            "last_error = coalesce($9, last_error), "
            "last_error_at = case when $9::text is null then last_error_at else now() end "
            "where destination = $1 and replay = $2 and epoch = $3 and revision = $4 "
            "returning true",
            *key,
            epoch,
            change.revision,
            change.position,
            change.settled_ahead,
            change.oldest_at,
            change.delivered_at,
            _cut(change.last_error),
        )
        if moved is None:
            raise Fenced
        if status is not None:
            # What a person has ordered meanwhile stands.
            await connection.execute(
                "update collector.couriers set state = $3, reason = $4, detail = $5, since = now() "
                "where destination = $1 and replay = $2 and state <> 'cancelled' "
                "and (state <> 'paused' or $3 = 'done' "
                "or ($3 = 'paused' and reason is distinct from 'by_hand'))",
                *key,
                status.state,
                status.reason,
                _cut(status.detail),
            )
        await _ahead(connection, key, change)
        if change.settled:
            await _count(connection, key, change.settled)
        if change.letters:
            await _letters(connection, key.destination, change.letters)
        if key.replay and change.settled:
            delivered = [entry.seq for entry in change.settled if entry.outcome == "delivered"]
            await connection.execute(
                "delete from collector.dead_letters where destination = $1 and seq = any($2)",
                key.destination,
                delivered,
            )
        if change.freed:
            await connection.execute(
                "delete from collector.claims c using "
                "unnest($2::text[], $3::text[], $4::text[]) f (event, key, message_id) "
                "where c.destination = $1 and c.event = f.event and c.key = f.key "
                "and c.message_id = f.message_id",
                key.destination,
                *map(list, zip(*change.freed, strict=True)),
            )


async def _ahead(connection: Connection, key: CourierKey, change: Change) -> None:
    """Bring the rows beyond the cursor up to date."""
    if change.drop:
        await connection.execute(
            "delete from collector.deliveries "
            "where destination = $1 and replay = $2 and seq = any($3)",
            *key,
            list(change.drop),
        )
    if change.runs:
        await connection.execute(
            "insert into collector.deliveries (destination, replay, seq, last_seq, state) "
            "select $1, $2, r.seq, r.last_seq, 'done' "
            "from unnest($3::bigint[], $4::bigint[]) r (seq, last_seq) "
            "on conflict (destination, replay, seq) "
            "do update set last_seq = excluded.last_seq, state = excluded.state",
            *key,
            [first for first, _ in change.runs],
            [last for _, last in change.runs],
        )
    if change.keep:
        await connection.execute(
            "insert into collector.deliveries as d (destination, replay, seq, last_seq, state, "
            "message_id, attempts, failing_seconds, not_before, reason, detail) "
            "select $1, $2, w.seq, w.seq, w.state, w.message_id, w.attempts, w.failing, "
            "to_timestamp(nullif(w.not_before, 0)), w.reason, w.detail "
            "from unnest($3::bigint[], $4::text[], $5::text[], $6::int[], $7::float8[], "
            "$8::float8[], $9::text[], $10::text[]) "
            "w (seq, state, message_id, attempts, failing, not_before, reason, detail) "
            "on conflict (destination, replay, seq) do update set last_seq = excluded.last_seq, "
            "state = excluded.state, message_id = excluded.message_id, "
            "attempts = excluded.attempts, failing_seconds = excluded.failing_seconds, "
            "not_before = excluded.not_before, reason = excluded.reason, "
            "detail = excluded.detail",
            *key,
            [row.seq for row in change.keep],
            ["sending" if row.sending else "waiting" for row in change.keep],
            [row.message_id for row in change.keep],
            [row.attempts for row in change.keep],
            [row.failing_seconds for row in change.keep],
            [row.not_before for row in change.keep],
            [row.reason for row in change.keep],
            [_cut(row.detail) for row in change.keep],
        )


async def _count(connection: Connection, key: CourierKey, settled: Sequence[Settled]) -> None:
    """Counts, and the log."""
    groups: dict[tuple[str, str, int], list[Settled]] = {}
    counts: dict[tuple[str, str], int] = {}
    for entry in settled:
        groups.setdefault((entry.outcome, entry.reason, entry.attempts), []).append(entry)
        which = (entry.outcome, entry.reason)
        counts[which] = counts.get(which, 0) + entry.events
    await connection.execute(
        "insert into collector.delivery_counts as c (destination, replay, outcome, reason, events) "
        "select $1, $2, q.outcome, q.reason, q.events "
        "from unnest($3::text[], $4::text[], $5::bigint[]) q (outcome, reason, events) "
        "on conflict (destination, replay, outcome, reason) "
        "do update set events = c.events + excluded.events",
        *key,
        [outcome for outcome, _ in counts],
        [reason for _, reason in counts],
        list(counts.values()),
    )
    await connection.execute(
        "insert into collector.delivery_log "
        "(destination, replay, outcome, reason, attempts, span, seqs) "
        "select $1, $2, g.outcome, g.reason, g.attempts, "
        "range_merge(g.seqs::int8multirange), g.seqs::int8multirange "
        "from unnest($3::text[], $4::text[], $5::int[], $6::text[]) "
        "g (outcome, reason, attempts, seqs)",
        *key,
        [outcome for outcome, _, _ in groups],
        [reason for _, reason, _ in groups],
        [attempts for _, _, attempts in groups],
        [multirange(entries) for entries in groups.values()],
    )


async def _letters(connection: Connection, destination: str, letters: Sequence[DeadLetter]) -> None:
    await connection.execute(
        "insert into collector.dead_letters (destination, seq, message_id, type, event, source, "
        "received_at, reason, detail, attempts) "
        "select $1, l.seq, l.message_id, l.type, l.event, l.source, "
        "timestamptz 'epoch' + l.received_at * interval '1 microsecond', "
        "l.reason, l.detail, l.attempts "
        "from unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], "
        "$8::text[], $9::text[], $10::int[]) "
        "l (seq, message_id, type, event, source, received_at, reason, detail, attempts) "
        "on conflict (destination, seq) do update set failed_at = now(), retry = null, "
        "reason = excluded.reason, detail = excluded.detail, attempts = excluded.attempts",
        destination,
        *map(list, zip(*(letter._replace(detail=_cut(letter.detail) or "") for letter in letters),
                       strict=True)),
    )  # fmt: skip


def _cut(text: str | None) -> str | None:
    """What Postgres takes of a text from elsewhere."""
    if text is None:
        return None
    return text[:DETAIL_CHARS].replace("\0", " ").encode(errors="replace").decode()


# --- business keys ---------------------------------------------------------------------------


async def claim(
    connection: Connection, destination: str, wanted: Sequence[tuple[str, str, str]]
) -> list[str]:
    """
    Claim the business keys *wanted* (event, key, message id), and return who has each.

    That is the message id itself where the claim is its own, from now on or from an earlier try.
    """
    rows = await connection.fetch(
        # The update changes nothing: it makes the row that is there come back.
        "insert into collector.claims as c (destination, event, key, message_id) "
        "select $1, * from unnest($2::text[], $3::text[], $4::text[]) "
        "on conflict (destination, event, key) do update set message_id = c.message_id "
        "returning c.event, c.key, c.message_id",
        destination,
        *[list(column) for column in zip(*wanted, strict=True)],
    )
    owners = {(row["event"], row["key"]): row["message_id"] for row in rows}
    return [owners[event, key] for event, key, _ in wanted]


async def persons(connection: Connection, user_ids: Sequence[str]) -> dict[str, str]:
    """The latest traits, as JSON text, of those of *user_ids* that were identified."""
    rows = await connection.fetch(
        "select user_id, traits::text from collector.users where user_id = any($1::text[])",
        user_ids,
    )
    return {row["user_id"]: row["traits"] for row in rows}


async def configured(connection: Connection, name: str, digest: str) -> None:
    """The destination runs with the settings of *digest*; new ones end its own pauses."""
    changed = await connection.fetchval(
        "update collector.couriers set digest = $2 "
        "where destination = $1 and replay = 0 and digest <> $2 returning true",
        name,
        digest,
    )
    if changed:
        await connection.execute(
            "update collector.couriers set state = 'running', reason = null, detail = null "
            "where destination = $1 and state = 'paused' and reason is distinct from 'by_hand'",
            name,
        )


class Order(NamedTuple):
    """What a courier's row tells the one who runs it."""

    destination: str
    replay: int
    state: str
    revision: int
    position: int
    last_seq: int | None
    filter: str | None


async def orders(connection: Connection, names: Sequence[str]) -> tuple[int, list[Order]]:
    """The number of the newest event, and the couriers of *names* that have something to do."""
    last: int = await connection.fetchval("select last from collector.sequence")
    rows = await connection.fetch(
        "select destination, replay, state, revision, position, last_seq, filter::text as filter "
        "from collector.couriers where destination = any($1::text[]) "
        "and (replay = 0 or state in ('running', 'paused')) order by replay",
        names,
    )
    return last, [Order(*row) for row in rows]


async def letters(connection: Connection) -> dict[str, int]:
    """Dead letters by destination."""
    rows = await connection.fetch(
        "select destination, count(*) as letters from collector.dead_letters group by 1"
    )
    return {row["destination"]: row["letters"] for row in rows}
