"""Views are made, upgraded in place, left alone where they are not ours; events are stored."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from collector.store import store as store_module
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.warehouse import VIEWS, Publisher, publish
from collector.store.warehouse.columns import Column
from collector.store.warehouse.functions import FUNCTIONS
from collector.store.warehouse.publish import state
from collector.store.warehouse.views import REVISION, View
from tests.conftest import PostgresServer
from tests.proxy import Link, Proxy
from tests.store.road import Road, ask, connected, track, until
from tests.store.warehouse import PAGE, RELEASED, all_of, insert, page, released, row, written

COLUMNS = """
select attname, format_type(atttypid, atttypmod) from pg_attribute
where attrelid = to_regclass('warehouse.' || quote_ident($1)) and attnum > 0 order by attnum
"""


async def columns(connection: asyncpg.Connection, view: str) -> list[tuple[str, str]]:
    return [tuple(found) for found in await connection.fetch(COLUMNS, view)]


@pytest.fixture
async def connection(server_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database with the tables and without the views, in each Postgres."""
    async with connected(server_dsn) as opened:
        await migrate(opened)
        await make_ahead(opened)
        yield opened


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- made ----------------------------------------------------------------------------------------


async def test_all_views_are_made_as_they_are_written_down(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await Publisher().publish(connection)
    assert warnings(caplog) == []
    found = await state(connection)
    assert set(found) == {view.name for view in VIEWS} | {function.name for function in FUNCTIONS}
    for view in VIEWS:
        assert await columns(connection, view.name) == [(c.name, c.type) for c in view.columns]
        names = [column.name for column in view.columns]
        assert len(names) == len(set(names)), view.name


async def test_what_is_there_already_costs_a_look_and_no_transaction(
    connection: asyncpg.Connection,
) -> None:
    await Publisher().publish(connection)
    said: list[str] = []
    with connection.query_logger(lambda record: said.append(record.query)):
        began = time.perf_counter()
        await Publisher().publish(connection)
        took = time.perf_counter() - began
    assert len(said) <= 3
    assert all(query.strip().startswith("select") for query in said)
    assert took < 1  # 10 ms when nobody else is about


async def test_two_collectors_may_make_them_at_once(
    server_dsn: str, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async def make() -> None:
        async with connected(server_dsn) as own:
            await Publisher().publish(own)

    await asyncio.gather(*(make() for _ in range(5)))
    assert warnings(caplog) == []
    assert len(await state(connection)) == len(VIEWS) + len(FUNCTIONS)


# --- upgraded ------------------------------------------------------------------------------------


def test_what_this_revision_gives_is_written_down() -> None:
    """After a change: let REVISION grow, and run `python -m tests.store.warehouse`."""
    assert (RELEASED / f"views-{REVISION}.txt").read_text(encoding="utf-8") == written()
    text = PAGE.read_text(encoding="utf-8")
    assert f"<!-- views -->\n{page()}<!-- end -->" in text


@pytest.mark.parametrize("revision", range(1, REVISION + 1))
async def test_a_released_view_never_loses_moves_or_retypes_a_column(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture, revision: int
) -> None:
    before = released(revision)
    await connection.execute("create schema warehouse; create schema mine")
    made = []
    for name, listed in before.items():
        nothing = ", ".join(f'null::{type_} as "{column}"' for column, type_ in listed)
        made += [
            f'create view warehouse."{name}" as select {nothing}',
            f"comment on view warehouse.\"{name}\" is 'x [views {revision} {'0' * 16}]'",
            f'create view mine."{name}" as select * from warehouse."{name}"',
        ]
    await connection.execute("; ".join(made))
    await Publisher().publish(connection)
    assert warnings(caplog) == []
    await insert(connection, [row(1, await connection.fetchval("select now()"), event="E")])
    for view in VIEWS:
        now = await columns(connection, view.name)
        kept = before.get(view.name, [])
        assert now[: len(kept)] == kept
        assert set(now) == {(column.name, column.type) for column in view.columns}
        if kept:
            theirs = await connection.fetch(f'select * from mine."{view.name}"')
            ours = await all_of(connection, view.name)
            assert len(theirs) == len(ours) == (view.name in {"events", "tracks"})


def with_column(view: View, at: int) -> View:
    new = Column("new", "text", "'n'::text")
    return view._replace(columns=(*view.columns[:at], new, *view.columns[at:]))


async def test_a_new_column_comes_last_and_what_was_built_on_the_view_goes_on(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await Publisher().publish(connection)
    await connection.execute(
        "create view public.mine as select * from warehouse.tracks;"
        "create materialized view public.kept as select id, total from warehouse.order_completed"
    )
    before = {view.name: await columns(connection, view.name) for view in VIEWS}
    newer = [with_column(view, 3) for view in VIEWS]
    await Publisher(newer, REVISION + 1).publish(connection)
    for view in VIEWS:
        assert await columns(connection, view.name) == [*before[view.name], ("new", "text")]
    await connection.execute("refresh materialized view public.kept")
    assert await connection.fetch("select * from public.mine") == []
    # An older collector on the same Postgres leaves them as they are.
    await Publisher().publish(connection)
    assert (await columns(connection, "tracks"))[-1] == ("new", "text")
    # And so does one that would have to take a column away.
    await Publisher(VIEWS, REVISION + 2).publish(connection)
    assert (await columns(connection, "tracks"))[-1] == ("new", "text")
    assert "has a column new (text) that this collector does not give it" in caplog.text


# --- left alone ----------------------------------------------------------------------------------


async def test_a_name_that_is_taken_is_left_alone_until_it_is_free(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody made a table in our schema that a later release has a view for."""
    await Publisher([view for view in VIEWS if view.name != "cart_viewed"]).publish(connection)
    await connection.execute("create table warehouse.cart_viewed as select 'theirs' as whose")
    await connection.execute("drop view warehouse.order_completed")
    publisher = Publisher()
    for _ in range(3):
        await publisher.publish(connection)
    (warning,) = warnings(caplog)
    assert "warehouse.cart_viewed is not the collector's: rename it" in warning
    assert await connection.fetchval("select whose from warehouse.cart_viewed") == "theirs"
    assert await all_of(connection, "order_completed") == []  # the others are made
    await connection.execute("alter table warehouse.cart_viewed rename to theirs")
    await publisher.publish(connection)
    assert await all_of(connection, "cart_viewed") == []


async def test_a_schema_of_somebody_is_left_alone(
    connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("create schema warehouse; create table warehouse.stock (a text)")
    await Publisher().publish(connection)
    assert "the schema warehouse was there before and is not the collector's" in caplog.text
    assert set(await state(connection)) == {"stock"}
    await connection.execute("alter schema warehouse rename to depot")
    await Publisher().publish(connection)
    assert await all_of(connection, "tracks") == []


async def test_a_view_that_is_being_read_holds_up_nothing_for_long(
    server_dsn: str,
    connection: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publish, "LOCK_SECONDS", 0.2)
    await Publisher().publish(connection)
    newer = Publisher([with_column(view, 3) for view in VIEWS], REVISION + 1)
    async with connected(server_dsn) as report:
        async with report.transaction():
            await all_of(report, "order_completed")
            await asyncio.wait_for(newer.publish(connection), 5)
        assert len(warnings(caplog)) == 1
    await newer.publish(connection)
    assert (await columns(connection, "order_completed"))[-1] == ("new", "text")


async def test_a_role_without_rights_is_told_and_events_are_stored(
    postgres: PostgresServer, empty_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"guest_{os.getpid()}"
    superuser = empty_dsn.replace("collector@", "postgres@")
    await ask(superuser, f"create role {name} login")
    try:
        await ask(superuser, f"create schema collector authorization {name}")
        guest = empty_dsn.replace("collector@", f"{name}@")
        async with Road(tmp_path, guest) as road:
            await road.send(track("kept"))
            await road.stored()
            assert road.store.trouble is None
        assert "run create schema warehouse authorization with its name" in caplog.text
        await ask(superuser, f"create schema warehouse authorization {name}")
        async with Road(tmp_path, guest) as road:
            await road.send(track("kept too"))
            await road.stored()
        assert await ask(guest, "select count(*) from warehouse.tracks") == 2
    finally:
        await ask(superuser, f"drop owned by {name} cascade")
        await postgres.execute(f"drop role {name}")


async def test_a_postgres_that_hangs_meanwhile_holds_up_the_events_once(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "PUBLISH_SECONDS", 0.5)
    hung = []
    async with Proxy(empty_dsn) as proxy:

        def listen(_: Link, data: bytes) -> None:
            if b"create schema warehouse" in data and not hung:
                hung.append(True)
                proxy.cut()

        proxy.on_client = listen
        async with Road(tmp_path, proxy.dsn) as road:
            await road.send(track("kept"))
            await until(lambda: road.store.trouble)
            proxy.heal()
            await road.stored()
    assert hung


# --- read ----------------------------------------------------------------------------------------


async def test_who_may_only_read_reads_the_views_and_an_analyst_nothing_else(
    postgres: PostgresServer, dsn: str, tmp_path: Path
) -> None:
    analyst = f"analyst_{os.getpid()}"
    async with Road(tmp_path, dsn) as road:
        await road.send(track("1", properties={"total": "5"}))
        await road.stored()
    superuser = dsn.replace("collector@", "postgres@")
    await ask(superuser, f"create role {analyst} login")
    try:
        async with connected(dsn) as owner:
            # As docs/warehouse.md has it.
            await owner.execute(
                f"grant usage on schema warehouse to {analyst};"
                f"grant select on all tables in schema warehouse to {analyst};"
                "alter default privileges in schema warehouse grant select on tables "
                f"to {analyst}"
            )
            await owner.execute("set role collector_reader")
            for view in VIEWS:
                await all_of(owner, view.name)
        async with connected(dsn.replace("collector@", f"{analyst}@")) as theirs:
            assert len(await all_of(theirs, "tracks")) == 1
            own: Any = "select warehouse.as_number(properties -> 'total') from warehouse.tracks"
            assert await theirs.fetchval(own) == 5
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await theirs.fetch("select * from collector.events")
    finally:
        await ask(superuser, f"drop owned by {analyst} cascade")
        await postgres.execute(f"drop role {analyst}")
