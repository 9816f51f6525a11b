"""
What tests share: one real Postgres for all of them, a database of its own for each, and the real
process from outside.

Tests that need root, a browser, Node or a program that is not there skip, and say why.
"""

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from collector.store.embedded import EmbeddedPostgres
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.settings import StoreSettings
from collector.store.warehouse import Publisher
from tests.process import CollectorProcess

_numbers = itertools.count(1)

# Few examples, and in CI the same ones each time; a shared machine stalls for longer than any
# deadline. `HYPOTHESIS_MAX_EXAMPLES=10000 make test` looks harder.
settings.register_profile(
    "collector",
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "60")),
    derandomize="CI" in os.environ,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,  # by chance, of the few examples of a run
        HealthCheck.function_scoped_fixture,
    ],
)
settings.load_profile("collector")


def pytest_addoption(parser: pytest.Parser) -> None:
    faults = parser.getgroup("faults", "tests/faults")
    faults.addoption("--long", action="store_true", help="many rounds, and a table at the end")
    faults.addoption("--rounds", type=int, help="so many rounds of each fault")
    faults.addoption("--seed", type=int, help="of the dice, as a test that failed printed it")


class PostgresServer:
    """One embedded Postgres in a thread's event loop of its own, and databases in it."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedPostgres(directory, StoreSettings().embedded)

    async def start(self) -> None:
        await self._server.start()
        await self._server.ready()
        await self.execute("alter role collector createdb")
        await self.execute("create database template owner collector")
        connection = await asyncpg.connect(self.dsn("template"))
        await migrate(connection)
        await make_ahead(connection)
        await Publisher().publish(connection)
        await connection.close()

    async def stop(self) -> None:
        await self._server.stop()

    def dsn(self, database: str, role: str = "collector") -> str:
        return self._server.dsn.replace("collector@/collector", f"{role}@/{database}")

    async def execute(self, sql: str) -> None:
        """Run *sql* as superuser."""
        connection = await asyncpg.connect(self.dsn("postgres", "postgres"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running Postgres 18, as the collector embeds it."""
    # Short: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ct") as directory:
        os.chmod(directory, 0o755)
        server = PostgresServer(Path(directory) / "pg")
        asyncio.run(server.start())
        yield server
        asyncio.run(server.stop())


@pytest.fixture
async def empty_dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database with nothing in it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await postgres.execute(f"create database {name} owner collector")
    yield postgres.dsn(name)
    await postgres.execute(f"drop database {name} with (force)")


@pytest.fixture
async def dsn(postgres: PostgresServer) -> AsyncIterator[str]:
    """A database with the current schema and nothing in it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    await postgres.execute(f"create database {name} template template owner collector")
    yield postgres.dsn(name)
    await postgres.execute(f"drop database {name} with (force)")


@pytest.fixture
def collector(tmp_path: Path, empty_dsn: str) -> Iterator[CollectorProcess]:
    """The real process, started, with a database of its own."""
    process = CollectorProcess(tmp_path / "data", empty_dsn)
    process.start()
    yield process
    process.kill()
