"""
Couriers: how each destination stands, and the switch that stops it and lets it go on.

    pending     stored since it began, and neither delivered, skipped nor refused
    waiting     the part of it that was tried, or stands behind one that was
    lag         age of the oldest event that is pending

The dispatcher looks at the rows every second and does what they say, so a pause counts at every
collector, whoever runs the destination, and outlives a restart.

Units    seconds, events a second; times are those of Postgres.
Errors   BadRequest, 404 for a name that is unknown and 409 for what has ended.
"""

from datetime import datetime

import msgspec

from collector.errors import BadRequest
from collector.store.postgres import Connection

LIVE = 0  # the replay that is none
LEASE = "destination:"  # and the name
RATE_SECONDS = 60.0
BY_HAND = "by_hand"
DETAIL_CHARS = 500


class Outcomes(msgspec.Struct, kw_only=True):
    """What became of a courier's events; what was left out and refused, by reason."""

    delivered: int = 0
    skipped: dict[str, int] = {}
    refused: dict[str, int] = {}


class Standing(msgspec.Struct, kw_only=True):
    """One destination."""

    name: str
    type: str
    state: str  # running or paused
    reason: str | None  # why it is paused, or does not go on
    detail: str | None
    since: datetime | None
    lag_seconds: float
    pending: int
    waiting: int
    outcomes: Outcomes
    dead_letters: int
    rate_per_second: float  # delivered in the last minute, replays not counted
    delivered_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    position: int
    owner: str | None  # the collector that brings its events


async def destinations(connection: Connection) -> list[Standing]:
    """Every destination that ever ran, by name."""
    rows = await connection.fetch(
        "select c.*, greatest(s.last - c.position - c.settled_ahead, 0) as pending, "
        # The event after the position is the oldest that is not settled; it may have expired.
        "case when s.last - c.position - c.settled_ahead > 0 then (select "
        "extract(epoch from now() - e.received_at)::float8 from collector.events e "
        "where e.seq > c.position order by e.seq limit 1) end as lag, "
        "(select count(*) from collector.deliveries d where d.destination = c.destination "
        "and d.replay = 0 and d.state <> 'done') as waiting, "
        "(select count(*) from collector.dead_letters l where l.destination = c.destination) "
        "as dead_letters, "
        "(select l.owner from collector.leases l where l.name = $1 || c.destination "
        "and l.expires_at > now()) as owner "
        "from collector.couriers c cross join collector.sequence s "
        "where c.replay = 0 order by c.destination",
        LEASE,
    )
    counts = await outcomes(connection)
    rates = await rates_of(connection)
    return [
        Standing(
            name=row["destination"],
            type=row["type"],
            state=row["state"],
            reason=row["reason"],
            detail=row["detail"],
            since=row["since"],
            lag_seconds=round(max(0.0, row["lag"] or 0.0), 1),
            pending=row["pending"],
            waiting=row["waiting"],
            outcomes=counts.get((row["destination"], LIVE)) or Outcomes(),
            dead_letters=row["dead_letters"],
            rate_per_second=rates.get((row["destination"], LIVE), 0.0),
            delivered_at=row["delivered_at"],
            last_error=row["last_error"],
            last_error_at=row["last_error_at"],
            position=row["position"],
            owner=row["owner"],
        )
        for row in rows
    ]


async def outcomes(connection: Connection) -> dict[tuple[str, int], Outcomes]:
    """What became of the events of each courier, by destination and replay."""
    found: dict[tuple[str, int], Outcomes] = {}
    for row in await connection.fetch(
        "select destination, replay, outcome, reason, events from collector.delivery_counts "
        "order by events desc, reason"
    ):
        entry = found.setdefault((row["destination"], row["replay"]), Outcomes())
        if row["outcome"] == "delivered":
            entry.delivered += row["events"]
        else:
            getattr(entry, row["outcome"])[row["reason"]] = row["events"]
    return found


async def rates_of(connection: Connection) -> dict[tuple[str, int], float]:
    """Events that each courier delivered in the last minute, a second."""
    rows = await connection.fetch(
        "select l.destination, l.replay, sum(upper(r) - lower(r))::float8 as events "
        "from collector.delivery_log l cross join lateral unnest(l.seqs) r "
        "where l.at > now() - make_interval(secs => $1) and l.outcome = 'delivered' group by 1, 2",
        RATE_SECONDS,
    )
    return {
        (row["destination"], row["replay"]): round(row["events"] / RATE_SECONDS, 1) for row in rows
    }


async def names(connection: Connection) -> list[str]:
    """The destinations that there are rows of."""
    rows = await connection.fetch(
        "select destination from collector.couriers where replay = 0 order by 1"
    )
    return [row["destination"] for row in rows]


async def check_name(connection: Connection, name: str) -> str:
    """The type of the destination *name*, or BadRequest with the names that there are."""
    type_: str | None = await connection.fetchval(
        "select type from collector.couriers where destination = $1 and replay = 0", name
    )
    if type_ is not None:
        return type_
    known = ", ".join(await names(connection))
    raise BadRequest(
        "unknown_destination",
        f"there is no destination {name}: "
        + (f"name one of {known}" if known else "add a [[destinations]] table, and start"),
        status=404,
    )


async def pause(
    connection: Connection, name: str, detail: str | None = None, *, replay: int = LIVE
) -> bool:
    """Stop sending, and say whether that changed anything. Events that come meanwhile wait."""
    return await _switch(
        connection,
        name,
        replay,
        "state = 'paused', reason = $3, detail = $4, since = now()",
        "state = 'running' or (state = 'paused' and reason is distinct from $3)",
        BY_HAND,
        detail[:DETAIL_CHARS] if detail else "paused by hand",
    )


async def resume(connection: Connection, name: str, *, replay: int = LIVE) -> bool:
    """Go on where it stopped, and say whether that changed anything."""
    return await _switch(
        connection,
        name,
        replay,
        "state = 'running', reason = null, detail = null, since = null",
        "state = 'paused'",
    )


async def _switch(
    connection: Connection, name: str, replay: int, to: str, unless: str, *arguments: object
) -> bool:
    changed: bool | None = await connection.fetchval(
        f"update collector.couriers set {to}, updated_at = now() "
        f"where destination = $1 and replay = $2 and ({unless}) returning true",
        name,
        replay,
        *arguments,
    )
    if changed:
        return True
    await check_name(connection, name)
    state = await connection.fetchval(
        "select state from collector.couriers where destination = $1 and replay = $2", name, replay
    )
    if state in {"done", "cancelled"}:
        raise BadRequest(
            "replay_ended", f"replay {replay} is {state}: start another one", status=409
        )
    return False
