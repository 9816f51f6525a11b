"""Servers that only the store's tests need."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.conftest import PostgresServer
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


@pytest.fixture(scope="session", params=["embedded", "distribution"])
def server(request: pytest.FixtureRequest) -> PostgresServer | Server:
    """Each of the Postgres that there are: ours, and the distribution's if it is installed."""
    name = "postgres" if request.param == "embedded" else "external"
    found: PostgresServer | Server = request.getfixturevalue(name)
    return found


@pytest.fixture
async def server_dsn(server: PostgresServer | Server) -> AsyncIterator[str]:
    """A database with nothing in it, in each of them."""
    name = f"test_{os.getpid()}_each_{next(_numbers)}"
    boss = await asyncpg.connect(server.dsn("postgres"))
    await boss.execute(f"create database {name}")
    yield server.dsn(name)
    await boss.execute(f"drop database {name} with (force)")
    await boss.close()
