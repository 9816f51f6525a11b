"""
Visit: an operator's connection to Postgres, for a command or a request.

Each job is given the connection and ends in time. That the tables are those that this program knows
is looked at first: an operator's command may be older or newer than the collector that runs.

Errors   Unreachable while Postgres is away or slow, ConfigError when the schema is not ours,
         BadRequest for what Postgres cannot look for; what a job raises itself passes through.
Units    seconds.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg

from collector.errors import BadRequest, ConfigError, Unreachable
from collector.store.migrate import SCHEMA, migrations
from collector.store.postgres import CLIENT_ERRORS, Connection, close, is_poison, says, within

T = TypeVar("T")

JOB_SECONDS = 60.0
Connect = Callable[[], Awaitable[Connection]]


class Visit:
    """One connection, for as long as somebody has questions."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds

    async def do(self, job: Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
        """Do *job*, which is given the connection, *arguments* and *options*."""

        async def work() -> T:
            return await job(self._connection, *arguments, **options)

        try:
            return await within(self._connection, self._seconds, work())
        except (asyncpg.PostgresError, *CLIENT_ERRORS, OSError, UnicodeError) as exc:
            if is_poison(exc):
                raise BadRequest(
                    "bad_value", f"Postgres cannot look for that: {says(exc)}: ask for another"
                ) from exc
            code = f"sqlstate_{getattr(exc, 'sqlstate', None) or 'none'}"
            raise Unreachable(code, f"Postgres cannot be used now: {says(exc)}") from exc


@asynccontextmanager
async def visit(connect: Connect, seconds: float = JOB_SECONDS) -> AsyncIterator[Visit]:
    """A connection of *connect*'s on which each job may take *seconds*."""
    connection = await connect()
    try:
        guest = Visit(connection, seconds)
        await guest.do(check_schema)
        yield guest
    finally:
        await close(connection)


async def check_schema(connection: Connection) -> None:
    """ConfigError unless the tables are those of this program."""
    found = None
    # Not to_regclass: it answers also for what this role may not see into.
    if await connection.fetchval(
        "select true from pg_catalog.pg_tables where schemaname = $1 and tablename = 'migrations'",
        SCHEMA,
    ):
        found = await connection.fetchval(f"select max(version) from {SCHEMA}.migrations")
    known = migrations()[-1].version
    if found is None:
        raise ConfigError(
            "there are no tables of a collector in this database: start the collector once, or "
            "name its configuration with --config"
        )
    if found < known:
        raise ConfigError(
            f"the database's schema is version {found} and this command needs {known}: restart "
            "the collector with this release, which brings it up to date"
        )
    if found > known:
        raise ConfigError(
            f"the database's schema is version {found} and this command knows up to {known}: use "
            "the command of the newer release"
        )
