"""An operator's SQL can read, for a while, and change nothing."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from collector.errors import BadRequest
from collector.store import reader
from collector.store.postgres import Connection
from collector.store.selection import Selection
from tests.store.desk import add_event


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    await reader.admit(connection)
    yield connection
    await connection.close()


async def test_it_runs_as_the_role_that_can_only_read(connection: Connection) -> None:
    async with reader.reading(connection):
        assert await connection.fetchval("select current_user") == "collector_reader"
        assert await connection.fetchval("select count(*) from collector.events") == 0
    assert await connection.fetchval("select current_user") == "collector"


async def test_the_role_reads_tables_that_are_made_later(connection: Connection) -> None:
    await connection.execute("create table collector.events_p20250101 (like collector.events)")
    async with reader.reading(connection):
        assert await connection.fetchval("select count(*) from collector.events_p20250101") == 0


async def test_a_role_that_was_not_admitted_is_not_taken_on(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    async with reader.reading(connection):
        assert await connection.fetchval("select current_user") == "collector"
    await connection.close()


async def test_admitting_again_changes_nothing(connection: Connection) -> None:
    await reader.admit(connection)
    async with reader.reading(connection):
        assert await connection.fetchval("select count(*) from collector.couriers") == 0


async def test_without_the_role_it_reads_as_who_we_are(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Postgres of the operator's own may not have it."""
    monkeypatch.setattr(reader, "READER", "nobody_has_made_this")
    await reader.admit(connection)
    async with reader.reading(connection):
        assert await connection.fetchval("select current_user") == "collector"
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("delete from collector.events")


@pytest.mark.parametrize(
    "statement",
    [
        "insert into collector.sequence (last) values (1)",
        "update collector.sequence set last = 7",
        "delete from collector.events",
        "select nextval('collector.replay_ids')",
        "create table x ()",
        "select set_config('transaction_read_only', 'off', true)",
        "set transaction read write",
    ],
)
async def test_nothing_is_written(connection: Connection, statement: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with reader.reading(connection):
            await connection.execute(statement)
    assert await connection.fetchval("select last from collector.sequence") == 0


async def test_settings_that_were_changed_inside_are_as_before(connection: Connection) -> None:
    async with reader.reading(connection):
        await connection.execute("select set_config('statement_timeout', '1', false)")
    assert await connection.fetchval("show statement_timeout") == "0"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("e.nothing = 1", "e.nothing does not exist"),
        ("nothing", 'column "nothing" does not exist'),
        ("1", "must be type boolean"),
        ("e.type = 'track' order by 1", "syntax error"),
        ("e.type = ", "syntax error"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("true) or (true", "closes what was not opened"),
        ("true; drop table collector.events", "semicolon"),
        ("true -- ", "comment"),
        ("true /* */", "comment"),
        ("e.seq = $1", "arguments"),
        ("e.seq = 1 / 0", "division by zero"),
        ("(e.properties->>'n')::int > 1", "invalid input syntax"),
        ("nextval('collector.replay_ids') > 0", "may only read"),
        ("setval('collector.replay_ids', 900) > 0", "may only read"),
        ("query_to_xml('delete from collector.events', true, true, '') is null", "not allowed"),
        ("collector.destroys()", "may only read"),
        ("pg_read_file('/etc/hostname') is null", "may only read"),
        ("exists (select from pg_authid)", "may only read"),
        ("set_config('transaction_read_only', 'off', true) is null", "before any query"),
        ("exists (delete from collector.events returning 1)", "syntax error"),
        ("exists (with x as (delete from collector.events returning 1) select from x)", "WITH"),
    ],
)
async def test_what_is_no_condition_is_refused_and_does_nothing(
    connection: Connection, where: str, said: str
) -> None:
    await add_event(connection, 1, properties='{"n": "x"}')
    await connection.execute(
        "create function collector.destroys() returns boolean language sql volatile "
        "as 'delete from collector.events returning true'"
    )
    with pytest.raises(BadRequest) as refusal:
        await reader.try_out(connection, Selection(where=where))
    assert refusal.value.code == "bad_where"
    assert said in refusal.value.detail
    assert await connection.fetchval("select count(*) from collector.events") == 1
    assert await connection.fetchval("select nextval('collector.replay_ids')") == 1


async def test_what_takes_too_long_is_ended(connection: Connection) -> None:
    await add_event(connection, 1)
    selection = Selection(where="(select pg_sleep(10)) is null")
    with pytest.raises(BadRequest, match="takes too long"):
        await reader.try_out(connection, selection, 0.2)
    assert await connection.fetchval("select 1") == 1


@pytest.mark.parametrize(
    "where",
    [
        "e.properties->>'currency' = 'EUR'",
        "e.type = 'track' or e.type = 'page'",
        "e.event like 'Order%' and (e.user_id is not null)",
        "e.properties @> '{\"a\": [1]}'",
        "e.name = 'it''s (;--'",
        "exists (select from collector.users u where u.user_id = e.user_id)",
        "\n  e.seq > 0\n",
    ],
)
async def test_what_is_a_condition_is_taken(connection: Connection, where: str) -> None:
    await add_event(connection, 1)
    await reader.try_out(connection, Selection(where=where))
