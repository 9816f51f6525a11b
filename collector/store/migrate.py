"""
Migrate: numbered SQL files, applied in order under a lock, each in a transaction of its own.

A migration that is interrupted leaves nothing behind and is run again. A schema that is newer
than this program is refused: an older collector must not write to tables it does not know.

Errors   ConfigError for a newer or altered schema, a role without rights and a database that cannot
         hold every text; Postgres' own errors pass through.
"""

import hashlib
import logging
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from collector.errors import ConfigError
from collector.store.postgres import Connection

log = logging.getLogger(__name__)

SCHEMA = "collector"
LOCK = 0x636F6C6C6563  # any number, the same for all collectors on this database


class Migration(NamedTuple):
    """One file: its number, its name and its text."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """What tells whether the file that was applied is this one."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All migrations that come with this program, in order."""
    folder = files("collector.store").joinpath("migrations")
    found = [
        Migration(int(entry.name[:4]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)


async def migrate(connection: Connection) -> int:
    """Bring the schema up to this program's version, and return how many steps that took."""
    steps = migrations()
    if len(await _applied(connection, steps)) == len(steps):
        return 0
    encoding = await connection.fetchval("show server_encoding")
    if encoding != "UTF8":
        raise ConfigError(
            f"the database's encoding is {encoding}, which cannot hold every event: make one with "
            "encoding 'UTF8' template template0 and name it in store.dsn"
        )
    try:
        return await _apply(connection, steps)
    except asyncpg.InsufficientPrivilegeError as exc:
        raise ConfigError(
            f"this role may not make the schema ({exc.message}): grant create on the database to "
            f"it, or run create schema {SCHEMA} authorization with its name"
        ) from exc


async def _apply(connection: Connection, steps: list[Migration]) -> int:
    count = 0
    for step in steps:
        async with connection.transaction():
            await connection.execute("set local lock_timeout = '30s'")
            # Transaction-level: session locks break behind transaction poolers.
            await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
            if step.version in await _applied(connection, steps):
                continue
            log.info("Applying a migration", extra={"migration": step.name})
            if step.version == 1:
                # Not `if not exists`: that asks for the right to make one, even when it exists.
                if await connection.fetchval("select to_regnamespace($1)", SCHEMA) is None:
                    await connection.execute(f"create schema {SCHEMA}")
                await connection.execute(
                    f"create table {SCHEMA}.migrations ("
                    "version integer primary key, name text not null, checksum text not null, "
                    "applied_at timestamptz not null default now())"
                )
            await connection.execute(f"set local search_path = {SCHEMA}")
            await connection.execute(step.sql)
            await connection.execute(
                f"insert into {SCHEMA}.migrations (version, name, checksum) values ($1, $2, $3)",
                step.version,
                step.name,
                step.checksum,
            )
            count += 1
    return count


async def _applied(connection: Connection, steps: list[Migration]) -> set[int]:
    """The versions that the database has; ConfigError if they are not ours."""
    # Read from the tables: to_regclass may answer from what was cached before the lock was ours.
    found = await connection.fetchval(
        "select true from pg_catalog.pg_tables where schemaname = $1 and tablename = 'migrations'",
        SCHEMA,
    )
    if found is None:
        return set()
    rows = await connection.fetch(f"select version, checksum from {SCHEMA}.migrations")
    _check({row["version"]: row["checksum"] for row in rows}, steps)
    return {row["version"] for row in rows}


def _check(done: dict[int, str], steps: list[Migration]) -> None:
    known = {step.version: step.checksum for step in steps}
    newest = max(done, default=0)
    if newest > max(known):
        raise ConfigError(
            f"the database's schema is version {newest}, and this collector knows up to "
            f"{max(known)}: run the newer collector again, or restore a backup of before"
        )
    for version, checksum in done.items():
        if known.get(version) != checksum:
            raise ConfigError(
                f"migration {version} in the database is not the one of this collector: "
                "run the release that made it, or restore a backup"
            )
