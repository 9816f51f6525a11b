"""Servers that only the store's tests need."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.store.servers import Network, Server, binaries, directory, networks

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def network() -> Iterator[Network | None]:
    with networks() as network:
        yield network


@pytest.fixture(scope="session")
def external(network: Network | None) -> Iterator[Server]:
    """A Postgres of the distribution, on TCP."""
    programs = binaries()
    with directory("cp") as place:
        addresses = ["127.0.0.1", *([network.here] if network is not None else [])]
        server = Server(programs, place, addresses)
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def external_database(external: Server) -> AsyncIterator[str]:
    """The name of an empty database in it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    boss = await asyncpg.connect(external.dsn("postgres"))
    await boss.execute(f"create database {name}")
    yield name
    await boss.execute(f"drop database {name} with (force)")
    await boss.close()
