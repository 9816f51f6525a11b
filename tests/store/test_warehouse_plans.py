"""Postgres looks through the views: it reads the days, the index entries and the JSON it needs."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from collector.store import partitions
from collector.store.migrate import migrate
from collector.store.partitions import name_of
from collector.store.warehouse import Publisher
from tests.conftest import PostgresServer
from tests.store.road import connected
from tests.store.servers import Server
from tests.store.warehouse import insert, plan_nodes, row

TODAY = datetime.now(UTC).replace(hour=0, minute=30, second=0, microsecond=0)
DAYS = 6
EVENTS = 4_000  # a day
PROPERTIES = '{"order_id": "o", "total": 12.5, "products": [{"price": 1, "quantity": 2}]}'


ORDERS = ("Completed Order", "Order Completed")


async def fill(connection: asyncpg.Connection) -> None:
    """Days of events of which few are orders; those that are over have their indexes."""
    await migrate(connection)
    rows = []
    for ago in range(DAYS):
        day = TODAY - timedelta(days=ago)
        await partitions._make(connection, "events", day.date())
        for number in range(EVENTS):
            event = "Viewed Page" if number % 400 else ORDERS[number // 400 % 2]
            given = {"event": event, "user_id": f"u{number}", "properties": PROPERTIES}
            rows.append(row(ago * EVENTS + number, day, **given))
    await insert(connection, rows)
    await partitions.index_closed_days(connection)
    await connection.execute("analyze collector.events")
    await Publisher().publish(connection)


@pytest.fixture(scope="module")
def filled(server: PostgresServer | Server) -> str:
    """One such database in each Postgres; nothing is changed in it."""

    async def make() -> None:
        async with connected(server.dsn("postgres")) as boss:
            await boss.execute("drop database if exists plans")
            await boss.execute("create database plans")
        async with connected(server.dsn("plans")) as connection:
            await fill(connection)

    asyncio.run(make())
    return server.dsn("plans")


@pytest.fixture
async def connection(filled: str) -> AsyncIterator[asyncpg.Connection]:
    async with connected(filled) as opened:
        yield opened


async def nodes(connection: asyncpg.Connection, query: str) -> list[dict[str, Any]]:
    """The plan of *query* as it is run."""
    return list(
        plan_nodes(
            await connection.fetchval(
                f"explain (analyze, format json, timing off, verbose) {query}"
            )
        )
    )


def tables(plan: list[dict[str, Any]]) -> set[str]:
    return {
        node["Relation Name"] for node in plan if "Relation Name" in node and node["Actual Loops"]
    }


VIEWS = ("tracks", "order_completed", "event_products", "events")


@pytest.mark.parametrize("view", VIEWS)
async def test_a_view_reads_only_the_days_that_are_asked_for(
    connection: asyncpg.Connection, view: str
) -> None:
    since = TODAY - timedelta(days=1)
    wanted = {name_of("events", since.date()), name_of("events", TODAY.date()), "events_default"}
    query = f"select * from warehouse.{view} where received_at >= '{since}'"
    assert tables(await nodes(connection, query)) == wanted
    # Also when the day is worked out by Postgres, as people write it.
    query = f"select count(*) from warehouse.{view} where received_at >= current_date - 1"
    assert tables(await nodes(connection, query)) <= {
        *wanted,
        *(name_of("events", (TODAY + timedelta(days=n)).date()) for n in (-2, 1, 2, 3)),
    }


async def test_the_view_of_an_event_uses_the_index_of_each_closed_day(
    connection: asyncpg.Connection,
) -> None:
    since, until = TODAY - timedelta(days=4), TODAY - timedelta(days=1)
    plan = await nodes(
        connection,
        "select order_id, total, products from warehouse.order_completed "
        f"where received_at >= '{since}' and received_at < '{until}' and timestamp >= '{since}'",
    )
    used = {node["Index Name"] for node in plan if "Index Name" in node}
    days = [name_of("events", (TODAY - timedelta(days=ago)).date()) for ago in (4, 3, 2, 1)]
    assert {f"{day}_event" for day in days[:3]} <= used
    scanned = [node for node in plan if node["Node Type"] == "Seq Scan"]
    assert {node["Relation Name"] for node in scanned} <= {days[3], "events_default"}
    assert sum(node["Actual Rows"] for node in plan if node["Node Type"] == "Append") == 30
    # A filter on an event that has no view of its own.
    plan = await nodes(
        connection,
        f"select properties from warehouse.tracks where event_text = 'Completed Order' "
        f"and received_at >= '{since}' and received_at < '{until}'",
    )
    assert {f"{day}_event" for day in days[:3]} <= {node.get("Index Name") for node in plan}


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("user_id = 'u7'", "user_id"),
        (f"id = '{'0' * 8}-0000-0000-0000-{1234 + 2 * EVENTS:012x}'", "message_id"),
        (f"seq between {2 * EVENTS + 1} and {2 * EVENTS + 3}", "seq"),
    ],
)
async def test_a_person_an_id_and_a_number_are_found_by_index(
    connection: asyncpg.Connection, condition: str, index: str
) -> None:
    day = TODAY - timedelta(days=2)
    plan = await nodes(
        connection,
        f"select id from warehouse.tracks where {condition} and received_at >= '{day}' "
        f"and received_at < '{day + timedelta(hours=5)}'",
    )
    used = [node["Index Name"] for node in plan if "Index Name" in node]
    assert any(re.search(rf"p\d{{8}}_{index}", name) for name in used), used


async def test_only_what_is_asked_for_is_read_from_json_and_nothing_is_called(
    connection: asyncpg.Connection,
) -> None:
    plan = await nodes(connection, "select sum(total) from warehouse.order_completed")
    shown = str(plan)
    assert "'total'" in shown
    assert "'order_id'" not in shown
    assert "context" not in shown.replace("context_", "")
    assert "as_number" not in shown  # its text stands in the query
    plan = await nodes(connection, "select count(*) from warehouse.tracks")
    assert "->" not in str(plan)
    assert not any(node["Node Type"] == "Subquery Scan" for node in plan)
