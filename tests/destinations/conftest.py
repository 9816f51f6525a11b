"""Couriers, with a vendor, a clock and a database of their own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from collector.store.line import Line
from tests.destinations.depot import Depot, Traffic

Depots = Callable[..., Awaitable[Depot]]


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    traffic, do = Traffic(), Line.do

    async def counted(line: Line, job: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        traffic.jobs[job.__name__] += 1
        traffic.busy += 1
        try:
            return await do(line, job, *arguments)
        finally:
            traffic.busy -= 1

    monkeypatch.setattr(Line, "do", counted)
    return traffic


@pytest.fixture
async def depots(dsn: str, traffic: Traffic) -> AsyncIterator[Depots]:
    """Makes depots on one database, each with the settings that are asked for."""
    made: list[Depot] = []

    async def make(*, through: str = "", **settings: Any) -> Depot:
        made.append(Depot(await asyncpg.connect(dsn), through or dsn, traffic, **settings))
        return made[-1]

    yield make
    for depot in made:
        await depot.close()


@pytest.fixture
async def hook(depots: Depots) -> Depot:
    """A destination with the settings that everyone has."""
    return await depots()
