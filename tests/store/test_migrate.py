"""The schema is made once, whole, by whoever may; and by nobody who should not."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from collector.errors import ConfigError
from collector.store import store as store_module
from collector.store.migrate import migrate, migrations
from collector.store.partitions import make_ahead
from tests.conftest import PostgresServer
from tests.proxy import Link, Proxy
from tests.store.road import Road, ask, assert_exactly_once, connected, track, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSE_SECONDS_MIN", 0.01)


async def tables(dsn: str) -> int:
    found: int = await ask(
        dsn, "select count(*) from pg_tables where schemaname = 'collector'"
    )  # fmt: skip
    return found


async def test_two_collectors_may_make_the_schema_at_once(empty_dsn: str) -> None:
    async def make() -> int:
        async with connected(empty_dsn) as connection:
            return await migrate(connection)

    steps = await asyncio.gather(*(make() for _ in range(4)))
    assert sorted(steps) == [0, 0, 0, len(migrations())]
    assert await ask(empty_dsn, "select count(*) from collector.migrations") == len(migrations())
    assert await make() == 0


@pytest.mark.parametrize("fault", ["before", "during", "commit lost", "answer lost"])
async def test_a_migration_that_is_interrupted_leaves_nothing_or_all(
    empty_dsn: str, fault: str
) -> None:
    async with Proxy(empty_dsn) as proxy:

        def listen(link: Link, data: bytes) -> None:
            if (fault == "before" and b"create schema" in data) or (
                fault == "during" and b"rejected_events" in data
            ):
                link.reset()

        def commits(link: Link) -> bool:
            if fault == "commit lost":
                link.reset()
            return fault == "commit lost"

        def answers(link: Link) -> bool:
            if fault == "answer lost":
                link.reset()
            return fault == "answer lost"

        proxy.on_client, proxy.on_commit, proxy.on_answer = listen, commits, answers
        connection = await asyncpg.connect(proxy.dsn)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await migrate(connection)
        connection.terminate()
    await asyncio.sleep(0.1)  # the server rolls back when it has noticed
    assert (await tables(empty_dsn) > 0) == (fault == "answer lost")
    async with connected(empty_dsn) as again:
        assert await migrate(again) == len(migrations()) - (fault == "answer lost")
        await make_ahead(again)
    assert await tables(empty_dsn) > 10


async def test_a_schema_that_is_newer_is_refused_until_it_is_not(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(dsn, "insert into collector.migrations values (9999, 'later', 'x')")
    async with Road(tmp_path, dsn) as road:
        await road.send(track("kept"))
        await until(lambda: road.store.trouble)
        assert road.store.trouble is not None
        known = f"schema is version 9999, and this collector knows up to {len(migrations())}"
        assert known in road.store.trouble
        assert not road.store.up
        assert await ask(dsn, "select count(*) from collector.events") == 0
        await ask(dsn, "delete from collector.migrations where version = 9999")
        await road.stored()
        road.assert_books_close()
    assert caplog.text.count("schema is version 9999") == 1
    await assert_exactly_once(dsn, ["kept"])


async def test_a_migration_that_was_altered_is_refused(dsn: str) -> None:
    await ask(dsn, "update collector.migrations set checksum = 'x'")
    async with connected(dsn) as connection:
        with pytest.raises(ConfigError, match="migration 1 in the database is not the one"):
            await migrate(connection)


@pytest.fixture
async def guest(postgres: PostgresServer, empty_dsn: str) -> AsyncIterator[str]:
    """A role that may connect and nothing else; its DSN."""
    name = f"guest_{os.getpid()}"
    await postgres.execute(f"create role {name} login")
    yield empty_dsn.replace("collector@", f"{name}@")
    await as_superuser(empty_dsn, f"drop owned by {name} cascade")
    await postgres.execute(f"drop role {name}")


async def as_superuser(dsn: str, sql: str) -> None:
    user = dsn.partition("//")[2].partition("@")[0]
    async with connected(dsn.replace(f"{user}@", "postgres@", 1)) as connection:
        await connection.execute(sql)


async def test_a_role_without_rights_is_told_what_it_lacks(guest: str, tmp_path: Path) -> None:
    async with connected(guest) as connection:
        with pytest.raises(ConfigError) as refused:
            await migrate(connection)
    assert "this role may not make the schema" in refused.value.detail
    assert "grant create on the database" in refused.value.detail
    async with Road(tmp_path, guest) as road:
        await road.send(track("kept"))
        await until(lambda: "grant create" in (road.store.trouble or ""))
        name = guest.partition("//")[2].partition("@")[0]
        await as_superuser(guest, f"create schema collector authorization {name}")
        await road.stored()  # without the right to make a schema, in the one that was made for it
        road.assert_books_close()
    await assert_exactly_once(guest, ["kept"])


async def test_a_database_that_cannot_hold_every_text_is_refused(
    postgres: PostgresServer,
) -> None:
    name = f"latin_{os.getpid()}"
    await postgres.execute(
        f"create database {name} owner collector template template0 encoding 'LATIN1' "
        "locale_provider libc locale 'C'"
    )
    try:
        async with connected(postgres.dsn(name)) as connection:
            with pytest.raises(ConfigError, match="encoding is LATIN1"):
                await migrate(connection)
    finally:
        await postgres.execute(f"drop database {name}")
