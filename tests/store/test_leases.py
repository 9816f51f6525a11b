"""Leases: who holds one, who takes over, and what a kill leaves behind."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from collector.store import leases
from collector.store.postgres import Connection

NAMES = ["destination:a", "destination:b"]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    made = await asyncpg.connect(dsn, server_settings={"search_path": "collector"})
    yield made
    await made.close()


async def test_a_lease_is_one_owners_until_it_ends(connection: Connection) -> None:
    assert await leases.acquire(connection, "a", "one", 10.0) == 1
    assert await leases.acquire(connection, "a", "two", 10.0) is None
    assert await leases.acquire(connection, "a", "one", 0.0) == 1
    assert await leases.acquire(connection, "a", "two", 10.0) == 2


async def test_what_is_resigned_is_free_at_once(connection: Connection) -> None:
    await leases.acquire_all(connection, NAMES, "one", 10.0)
    await leases.resign(connection, NAMES, "one")
    assert await leases.acquire_all(connection, NAMES, "two", 10.0) == dict.fromkeys(NAMES, 2)


async def test_what_a_killed_collector_held_is_its_successors_at_once(
    connection: Connection,
) -> None:
    """The same journal: nobody else can have it. Fenced off all the same, by another epoch."""
    await leases.acquire_all(connection, NAMES, "host:1:journal-a:first", 10.0)
    await leases.inherit(connection, NAMES, "host:2:journal-b:life")
    assert await leases.acquire_all(connection, NAMES, "host:2:journal-b:life", 10.0) == {}
    await leases.inherit(connection, NAMES, "other:3:journal-a:second")
    found = await leases.acquire_all(connection, NAMES, "other:3:journal-a:second", 10.0)
    assert found == dict.fromkeys(NAMES, 2)


async def test_a_lease_is_not_taken_from_oneself(connection: Connection) -> None:
    await leases.acquire_all(connection, NAMES, "host:1:journal-a:first", 10.0)
    await leases.inherit(connection, NAMES, "host:1:journal-a:first")
    assert await leases.acquire_all(connection, NAMES, "host:1:journal-b:x", 10.0) == {}
