"""
The fault suite: the real process from outside, its Postgres, its disk and its network.

    make test            the short form: every fault, a few rounds
    make faults          the long form, and a table of what it found (docs/reliability.md)
    ARGS="--rounds 3"    so many rounds of each
    ARGS="--seed 7"      the same dice again; a test that fails prints its seed
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.faults import deliveries
from tests.faults.deliveries import Delivered
from tests.faults.receiver import Receiver
from tests.faults.trial import Form, Result, Trial, table
from tests.process import CollectorProcess
from tests.store.servers import Server, binaries, directory

SHORT_SECONDS, LONG_SECONDS = 180, 7200  # for one test, until it is given up

_numbers = itertools.count(1)
RESULTS = pytest.StashKey[list[Result]]()
DELIVERED = pytest.StashKey[list[Delivered]]()

MakeProcess = Callable[..., CollectorProcess]
Trials = Callable[..., AbstractAsyncContextManager[Trial]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = config.getoption("--long")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LONG_SECONDS if long else SHORT_SECONDS))
    if not long:
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash.get(RESULTS, [])
    if results and (config.getoption("--long") or config.getoption("--rounds")):
        terminalreporter.section("faults")
        for line in table(results):
            terminalreporter.write_line(line)
        if delivered := config.stash.get(DELIVERED, []):
            terminalreporter.write_line("")
            for line in deliveries.table(delivered):
                terminalreporter.write_line(line)


@pytest.fixture
def form(request: pytest.FixtureRequest) -> Form:
    """Whether this is the long form, and how many rounds were asked for."""
    return Form(request.config.getoption("--long"), request.config.getoption("--rounds"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What the dice of this test begin with; pytest shows it when the test fails."""
    given: int | None = request.config.getoption("--seed")
    seed = time.time_ns() % 1_000_000 if given is None else given
    print(f"seed {seed}: run it again with --seed {seed}")
    return seed


@pytest.fixture
def dice(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def collectors(tmp_path: Path) -> Iterator[MakeProcess]:
    """Makes collectors, which are killed at the end; without a dsn each has its own Postgres."""
    made: list[CollectorProcess] = []

    def make(dsn: str = "", **settings: str) -> CollectorProcess:
        process = CollectorProcess(tmp_path / f"c{len(made)}", dsn, **settings)
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Callable[[], Receiver]]:
    """Makes receivers for destinations, running; they are killed at the end."""
    made: list[Receiver] = []

    def make() -> Receiver:
        receiver = Receiver(tmp_path / f"arrivals{len(made)}")
        made.append(receiver)
        return receiver.start()

    yield make
    for receiver in made:
        receiver.kill()


@pytest.fixture
def delivered(request: pytest.FixtureRequest) -> list[Delivered]:
    """Where a test puts its line of the table."""
    return request.config.stash.setdefault(DELIVERED, [])


@pytest.fixture
def trials(form: Form, seed: int, request: pytest.FixtureRequest) -> Trials:
    """Begins a trial of the fault that is named, with the collectors that are given."""
    results = request.config.stash.setdefault(RESULTS, [])

    @contextlib.asynccontextmanager
    async def begin(fault: str, *processes: CollectorProcess, **load: Any) -> AsyncIterator[Trial]:
        async with Trial(fault, list(processes), form, seed, results, **load) as trial:
            yield trial

    return begin


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Processes that go on at the end, whatever happened."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A Postgres that is nobody else's, on TCP."""
    programs = binaries()
    with directory("cf") as place:
        made = Server(programs, place, ["127.0.0.1"])
        made.start()
        yield made
        made.stop()


@pytest.fixture
async def server_database(server: Server) -> str:
    """The name of an empty database in it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    boss = await asyncpg.connect(server.dsn("postgres"))
    await boss.execute(f"create database {name}")
    await boss.close()
    return name


async def until(happened: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Wait until it has *happened*; a collector that does not answer has not said so."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(OSError):
                if await happened():
                    return
            await asyncio.sleep(0.05)
