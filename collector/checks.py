"""
Checks: what can be known before the collector runs, each finding with what to do about it.

Shapes   a finding is `ok`, `warning` or `error`, and a sentence.
"""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import asyncpg

from collector.config import DEMO_KEY, Config
from collector.errors import ConfigError, Unreachable
from collector.ingest.address import Proxies
from collector.store.migrate import migrations
from collector.store.postgres import Connection, Postgres, close

POSTGRES_MIN = 140_000


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    text: str


async def examine(config: Config) -> list[Finding]:
    """Look at everything that the settings name."""
    findings = [Finding("ok", "the settings can be used")]
    findings += _data_dir(config.data_dir)
    try:
        Proxies(config.ingest.trusted_proxies)
    except ConfigError as exc:
        findings.append(Finding("error", exc.detail))
    if any(source.write_key == DEMO_KEY for source in config.sources):
        findings.append(
            Finding("warning", "write key demo is known to everybody: configure [[sources]]")
        )
    if config.store.dsn:
        findings += await _postgres(config.store.dsn)
    else:
        findings.append(Finding("ok", "store.dsn is empty: the embedded Postgres will be used"))
    return findings


def _data_dir(path: str) -> list[Finding]:
    place = directory = Path(path).absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        return [
            Finding("error", f"data_dir {directory}: {place} is not writable for this user: change "
                    "its owner, or set data_dir")
        ]  # fmt: skip
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    text = f"data_dir {directory} has {free / 1e9:.1f} GB free"
    if free < 2e9:
        return [Finding("warning", f"{text}: the journal will be small; free some space")]
    return [Finding("ok", text)]


async def _postgres(dsn: str) -> list[Finding]:
    postgres = Postgres(dsn)
    try:
        connection = await postgres.connect()
    except Unreachable as exc:
        return [
            Finding("error", f"store.dsn: {exc.detail}: start it, or mend the address; events "
                    "wait in the journal meanwhile")
        ]  # fmt: skip
    try:
        return await _server(connection, pooled=postgres.pooled)
    except asyncpg.PostgresError as exc:
        return [Finding("error", f"store.dsn: Postgres refused a question: {exc}")]
    finally:
        await close(connection)


async def _server(connection: Connection, *, pooled: bool) -> list[Finding]:
    findings = []
    version = int(await connection.fetchval("show server_version_num"))
    shown = await connection.fetchval("show server_version")
    if version < POSTGRES_MIN:
        findings.append(Finding("error", f"Postgres {shown} is too old: use 14 or newer"))
    else:
        findings.append(Finding("ok", f"Postgres {shown} answers"))
    # A pooler answers with a process id of its own making.
    own = await connection.fetchval("select pg_backend_pid()")
    if pooled or own != connection.get_server_pid():
        findings.append(
            Finding("warning", "Postgres is behind a transaction pooler: set tcp_keepalives_idle, "
                    "_interval and _count to 5, 2, 2 on its server side, or a collector that is "
                    "cut off holds up the others for minutes")
        )  # fmt: skip
    findings += [
        Finding(
            "warning",
            f"Postgres runs with {name} = off: a crash of its machine loses stored events; "
            "switch it on",
        )
        for name in ("fsync", "full_page_writes")
        if await connection.fetchval(f"show {name}") != "on"
    ]
    if await connection.fetchval("select pg_is_in_recovery()"):
        findings.append(Finding("error", "this is a read-only replica: name its primary"))
    elif await connection.fetchval("select to_regclass('collector.migrations')") is None:
        may = await connection.fetchval(
            "select has_database_privilege(current_database(), 'create') "
            "or to_regnamespace('collector') is not null"
        )
        if may:
            findings.append(Finding("ok", "the schema will be made at the first start"))
        else:
            findings.append(
                Finding("error", "this role may not make the schema: grant create on the database "
                        "to it, or make the schema collector and give it to the role")
            )  # fmt: skip
    else:
        newest = await connection.fetchval("select max(version) from collector.migrations")
        known = migrations()[-1].version
        if newest > known:
            text = f"the schema is version {newest} and this collector knows {known}"
            findings.append(Finding("error", f"{text}: run the newer collector"))
        else:
            findings.append(Finding("ok", f"the schema is version {newest}, of {known}"))
    return findings
