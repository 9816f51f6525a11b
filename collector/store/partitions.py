"""
Partitions: one a day (UTC), made ahead; indexes for the days that are over; retention.

    open day     seq; BRIN with Bloom filters on the ids, which cost the writer next to nothing
                 and leave a look-up seconds of scanning
    closed day   B-trees on message_id, (user_id, timestamp), (anonymous_id, timestamp) and
                 (event, timestamp), each built in one sorted go without blocking the writer

What arrived while a day had no partition went to the default one, and moves when it is made. What
a clock that was wrong by years has dated before the retention stays there: it is not old. A day
that a destination still needs stays, too, up to a bound.

Units    days are UTC dates of `received_at`, which is the collector's clock.
Errors   Postgres' own pass through; the next round tries again.
"""

import logging
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import asyncpg

from collector.store.migrate import SCHEMA
from collector.store.postgres import Connection

log = logging.getLogger(__name__)

DAYS_AHEAD = 3
LOCK_SECONDS = 5.0  # for a table that somebody reads; writers wait behind us meanwhile
DAYS_RESCUED_MAX = 31  # out of the default partition in one round
EARLIEST = date(2025, 1, 1)  # a clock that says less was never set
TABLES = {"events": "received_at", "seen": "stored_at"}

_BRIN = "with (pages_per_range = 64, autosummarize = on)"
_BLOOM_IDS = ", ".join(f"{id_} text_bloom_ops" for id_ in ("message_id", "user_id", "anonymous_id"))
OPEN_DAY = (
    ("ids_bloom", f"using brin ({_BLOOM_IDS}) {_BRIN}"),
    ("time_brin", f"using brin (timestamp) {_BRIN}"),
)
CLOSED_DAY = (
    ("message_id", "(message_id)"),
    ("user_id", "(user_id, timestamp) where user_id is not null"),
    ("anonymous_id", "(anonymous_id, timestamp) where anonymous_id is not null"),
    ("event", "(event, timestamp) where event is not null"),
)


class Keep(NamedTuple):
    """What stays beyond its retention."""

    beyond: int  # seq that every destination has come past
    since: date  # days before go all the same


def name_of(table: str, day: date) -> str:
    """The partition of *table* for *day*."""
    return f"{table}_p{day:%Y%m%d}"


def _bounds(day: date) -> tuple[str, str]:
    return f"{day} 00:00:00+00", f"{day + timedelta(days=1)} 00:00:00+00"


async def today(connection: Connection) -> date:
    """The UTC date on Postgres' clock."""
    day: date = await connection.fetchval("select (now() at time zone 'UTC')::date")
    return day


async def make_ahead(connection: Connection) -> None:
    """Make the partitions from yesterday to a few days from now, by either clock."""
    days = {await today(connection), datetime.now(UTC).date()}
    wanted = sorted({day + timedelta(n) for day in days for n in range(-1, DAYS_AHEAD + 1)})
    for table in TABLES:
        have = set(await names(connection, table))
        for day in wanted:
            if day >= EARLIEST and name_of(table, day) not in have:
                await _make(connection, table, day)


async def rescue(connection: Connection, table: str, oldest: date | None) -> None:
    """Make the partitions of the days, from *oldest* on, that are in the default one."""
    column = TABLES[table]
    found = await connection.fetch(
        f"select distinct ({column} at time zone 'UTC')::date as day from {SCHEMA}.{table}_default "
        f"where {column} >= ($1::date::timestamp at time zone 'UTC') order by 1 limit $2",
        max(oldest, EARLIEST) if oldest else EARLIEST,
        DAYS_RESCUED_MAX,
    )
    for row in found:
        log.info(
            "A day is moved out of the default partition",
            extra={"partition": name_of(table, row["day"])},
        )
        await _make(connection, table, row["day"])


async def names(connection: Connection, table: str) -> list[str]:
    """The partitions of *table*, oldest first."""
    found = await connection.fetch(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = to_regclass($1) and c.relname ~ '_p[0-9]{8}$' order by 1",
        f"{SCHEMA}.{table}",
    )
    return [row["relname"] for row in found]


async def _make(connection: Connection, table: str, day: date) -> None:
    """Make one partition beside the table, and attach it: that locks the table least."""
    name, column = name_of(table, day), TABLES[table]
    start, end = _bounds(day)
    within = f"{column} >= '{start}' and {column} < '{end}'"
    async with connection.transaction():
        await connection.execute(f"set local lock_timeout = {LOCK_SECONDS * 1000:.0f}")
        # Writers wait here, so that nothing new for this day goes to the default partition.
        await connection.execute(f"lock table {SCHEMA}.{table}_default in access exclusive mode")
        if await connection.fetchval("select to_regclass($1)", f"{SCHEMA}.{name}") is not None:
            return  # another collector was faster
        await connection.execute(
            f"create table {SCHEMA}.{name} (like {SCHEMA}.{table} including defaults "
            "including storage including compression)"
        )
        await connection.execute(
            f"with moved as (delete from {SCHEMA}.{table}_default where {within} returning *) "
            f"insert into {SCHEMA}.{name} select * from moved"
        )
        await connection.execute(
            f"alter table {SCHEMA}.{name} add constraint {name}_day "
            f"check ({column} is not null and {within})"
        )
        await connection.execute(
            f"alter table {SCHEMA}.{table} attach partition {SCHEMA}.{name} "
            f"for values from ('{start}') to ('{end}')"
        )
        await connection.execute(f"alter table {SCHEMA}.{name} drop constraint {name}_day")
        if table == "events":
            for index, definition in OPEN_DAY:
                await connection.execute(
                    f"create index {name}_{index} on {SCHEMA}.{name} {definition}"
                )


async def index_closed_days(connection: Connection) -> None:
    """Give every day that is over the indexes it is searched by, one index at a time."""
    # An hour of grace for what was received before midnight and stored after it.
    closed = await connection.fetchval(
        "select ((now() - interval '1 hour') at time zone 'UTC')::date"
    )
    for name in await names(connection, "events"):
        if name >= name_of("events", closed):
            continue
        have = {
            row["name"]: row["valid"]
            for row in await connection.fetch(
                "select c.relname as name, i.indisvalid as valid from pg_index i "
                "join pg_class c on c.oid = i.indexrelid where i.indrelid = to_regclass($1)",
                f"{SCHEMA}.{name}",
            )
        }
        for index, definition in CLOSED_DAY:
            full = f"{name}_{index}"
            if have.get(full):
                continue
            if full in have:  # left invalid by a build that was interrupted
                if await _is_busy(connection, name):
                    return
                await connection.execute(f"drop index concurrently if exists {SCHEMA}.{full}")
            log.info("Indexing a closed day", extra={"index": full})
            await connection.execute(
                f"create index concurrently {full} on {SCHEMA}.{name} {definition}"
            )
        for index, _ in OPEN_DAY:
            if f"{name}_{index}" in have:
                await connection.execute(
                    f"drop index concurrently if exists {SCHEMA}.{name}_{index}"
                )


async def _is_busy(connection: Connection, name: str) -> bool:
    """Whether another collector works on this partition: then its index is not a leftover."""
    try:
        async with connection.transaction():
            await connection.execute(
                f"lock table {SCHEMA}.{name} in share update exclusive mode nowait"
            )
    except asyncpg.LockNotAvailableError:
        return True
    return False


async def drop_before(
    connection: Connection, table: str, day: date, *, unless: Keep | None = None
) -> int:
    """Drop the partitions of *table* for days before *day*, and return how many."""
    dropped = 0
    for name in await names(connection, table):
        if name < name_of(table, day):
            if unless is not None and await _is_needed(connection, table, name, unless):
                continue
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = {LOCK_SECONDS * 1000:.0f}")
                await connection.execute(f"drop table if exists {SCHEMA}.{name}")
            log.info("Dropped a day past its retention", extra={"partition": name})
            dropped += 1
    return dropped


async def _is_needed(connection: Connection, table: str, name: str, keep: Keep) -> bool:
    """Whether a destination has not come past the events of this partition, and may still."""
    if name < name_of(table, keep.since):
        return False
    newest = await connection.fetchval(f"select max(seq) from {SCHEMA}.{name}")
    return newest is not None and newest > keep.beyond
