"""
Reader: how an operator's SQL is run: it can read, for a while, and change nothing.

    read-only transaction      nothing is written, whatever functions are called
    role collector_reader      sees the tables of the collector and nothing else, if there is one
    statement_timeout          ends what takes too long
    always rolled back         settings that were changed inside are as before

The embedded Postgres comes with the role. In another one it is made by who runs it, and given to
the role that the collector works as; without it the other three stand:

    create role collector_reader;
    grant collector_reader to collector;

Errors   BadRequest("bad_where") for what is no condition or fails; Postgres' own for its state.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from collector.errors import BadRequest
from collector.store.cluster import READER
from collector.store.migrate import LOCK, SCHEMA
from collector.store.postgres import Connection
from collector.store.selection import Selection, clause

log = logging.getLogger(__name__)

WHERE_SECONDS = 30.0  # for one statement with an operator's condition in it
SAMPLE_EVENTS = 1_000  # newest ones that a condition is tried on

# Classes of SQLSTATE that mean the condition, and not the state that Postgres is in.
_ITS_FAULT = ("21", "22", "25", "2F", "38", "39", "42", "54", "0A", "P0")


async def may_become_reader(connection: Connection) -> bool:
    """Whether there is a role that can only read, was admitted, and may be taken on by us."""
    may: bool = await connection.fetchval(
        "select coalesce((select pg_has_role(current_user, oid, 'member') "
        "and has_schema_privilege(oid, to_regnamespace($2), 'usage') "
        "from pg_roles where rolname = $1), false)",
        READER,
        SCHEMA,
    )
    return may


@asynccontextmanager
async def reading(connection: Connection, seconds: float = WHERE_SECONDS) -> AsyncIterator[None]:
    """A transaction in which nothing can be changed, each statement bounded by *seconds*."""
    assert not connection.is_in_transaction(), "what is inside a transaction may not be rolled back"
    transaction = connection.transaction(readonly=True)
    await transaction.start()
    try:
        if await may_become_reader(connection):
            await connection.execute(f"set local role {READER}")
        await connection.execute(
            f"set local statement_timeout = {seconds * 1000:.0f};"
            # As selection.py reads strings: a backslash in them is a backslash.
            "set local standard_conforming_strings = on"
        )
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()


async def try_out(
    connection: Connection, selection: Selection, seconds: float = WHERE_SECONDS
) -> None:
    """Refuse with BadRequest a selection whose condition Postgres does not take."""
    if not selection.where:
        return
    condition, arguments = clause(selection, 1)
    async with blaming(), reading(connection, seconds):
        # First as a whole, so that what is no condition is told apart from what fails on events.
        await connection.fetch(
            f"select from {SCHEMA}.events e where ({condition}) limit 0", *arguments
        )
        await connection.fetch(
            f"select count(*) from (select * from {SCHEMA}.events order by seq desc "
            f"limit {SAMPLE_EVENTS}) e where ({condition})",
            *arguments,
        )


@asynccontextmanager
async def blaming() -> AsyncIterator[None]:
    """Turns an error that comes of an operator's condition into BadRequest."""
    try:
        yield
    except asyncpg.QueryCanceledError as exc:
        raise BadRequest(
            "bad_where",
            "the where expression takes too long: narrow it with a time, types or sources, or "
            "write it so that it looks at the event alone",
        ) from exc
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError) as exc:
        raise BadRequest(
            "bad_where", f"the where expression may only read events: {exc.message}"
        ) from exc
    except asyncpg.PostgresError as exc:
        if (exc.sqlstate or "")[:2] not in _ITS_FAULT:
            raise
        raise BadRequest(
            "bad_where",
            f"Postgres does not take the where expression: {exc.message}. It is a boolean "
            "expression over collector.events e that must not fail on any event",
        ) from exc


async def admit(connection: Connection) -> None:
    """Let the role read every table that there is and will be, if it exists and cannot yet."""
    try:
        # Two collectors that start together must not grant at once.
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
            missing = await connection.fetchval(
                "select true from pg_roles r where r.rolname = $1 and ("
                "not has_schema_privilege(r.oid, $2, 'usage') or exists ("
                "select from pg_class c where c.relnamespace = to_regnamespace($2) "
                "and c.relkind in ('r', 'p') and not has_table_privilege(r.oid, c.oid, 'select')))",
                READER,
                SCHEMA,
            )
            if missing:
                await connection.execute(
                    f"grant usage on schema {SCHEMA} to {READER};"
                    f"grant select on all tables in schema {SCHEMA} to {READER};"
                    f"alter default privileges in schema {SCHEMA} "
                    f"grant select on tables to {READER}"
                )
    except asyncpg.PostgresError as exc:
        if connection.is_closed():
            raise
        log.warning("%s cannot be given the right to read: %s", READER, exc)
