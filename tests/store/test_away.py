"""The real process while Postgres is away, hangs, or is not ready yet: it takes events and ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process import CollectorProcess, free_port
from tests.proxy import Link, Proxy
from tests.store.road import ask, assert_exactly_once, track, until

STOP_SECONDS = 12.0  # to end, with a second for draining, on a busy machine


@pytest.fixture
async def proxy(empty_dsn: str) -> AsyncIterator[Proxy]:
    """In front of an empty database; not listening yet."""
    made = Proxy(empty_dsn)
    made.port = free_port()
    yield made
    await made.stop()


@pytest.fixture
def process(proxy: Proxy, tmp_path: Path) -> Iterator[CollectorProcess]:
    made = CollectorProcess(tmp_path / "data", proxy.dsn, STORE_DRAIN_SECONDS="1")
    yield made
    made.kill()


async def send(process: CollectorProcess, *message_ids: str) -> None:
    batch = {"batch": [track(id_) for id_ in message_ids]}
    status, _ = await asyncio.to_thread(process.post, "/v1/batch", batch)
    assert status == 200


async def stop(process: CollectorProcess) -> float:
    """SIGTERM; it ends well, and in what time."""
    began = time.monotonic()
    assert await asyncio.to_thread(process.stop) == 0, process.output()
    return time.monotonic() - began


async def test_it_starts_without_postgres_and_stores_when_there_is_one(
    process: CollectorProcess, proxy: Proxy, empty_dsn: str
) -> None:
    await asyncio.to_thread(process.start)
    await send(process, "a", "b")
    await asyncio.sleep(2.5)
    facts: dict[str, Any] = await asyncio.to_thread(process.status)
    assert not facts["store"]["up"]
    assert "cannot be reached" in facts["store"]["trouble"]
    assert facts["store"]["oldest_seconds"] > 0
    metrics = await asyncio.to_thread(process.metrics)
    assert metrics["collector_store_postgres_up"] == 0
    assert metrics["collector_journal_oldest_seconds"] > 0
    await proxy.start()
    facts = await asyncio.to_thread(process.wait_until_stored)
    (books,) = facts["store"]["sources"]
    assert (books["stored"], books["missing"]) == (2, 0)
    # Away again for a while, and back.
    proxy.refusing = True
    proxy.reset()
    await send(process, "c")
    await asyncio.sleep(1.0)
    assert not (await asyncio.to_thread(process.status))["store"]["up"]
    proxy.refusing = False
    await asyncio.to_thread(process.wait_until_stored)

    def metric(name: str) -> float:
        return process.metrics()[f"collector_{name}"]

    # Gauges follow once a second.
    await until(lambda: metric("journal_oldest_seconds") == 0)
    assert metric("store_postgres_up") == 1
    assert await stop(process) < STOP_SECONDS
    await assert_exactly_once(empty_dsn, ["a", "b", "c"])


async def test_sigterm_while_postgres_is_away_ends_it_and_loses_nothing(
    process: CollectorProcess, proxy: Proxy, empty_dsn: str
) -> None:
    await asyncio.to_thread(process.start)
    await send(process, "a")
    assert await stop(process) < STOP_SECONDS
    await proxy.start()
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    await stop(process)
    await assert_exactly_once(empty_dsn, ["a"])


@pytest.mark.parametrize(
    "words",
    [b"user", b"pg_backend_pid", b"create schema", b"create table", b"FROM STDIN", b"COMMIT"],
)
async def test_sigterm_while_postgres_hangs_ends_it_and_loses_nothing(
    process: CollectorProcess, proxy: Proxy, empty_dsn: str, words: bytes
) -> None:
    """From its first word on: while connecting, in the middle of a migration, of a batch."""
    happened = asyncio.Event()

    def listen(_: Link, data: bytes) -> None:
        if words in data and not happened.is_set():
            happened.set()
            proxy.cut()

    proxy.on_client = listen
    await proxy.start()
    await asyncio.to_thread(process.start)
    await send(process, "a")
    await asyncio.wait_for(happened.wait(), 20)
    await asyncio.sleep(0.2)
    assert await stop(process) < STOP_SECONDS
    proxy.heal()
    await asyncio.to_thread(process.start)
    facts = await asyncio.to_thread(process.wait_until_stored)
    (books,) = facts["store"]["sources"]
    assert books["missing"] == 0
    await stop(process)
    await assert_exactly_once(empty_dsn, ["a"])


async def test_sigterm_while_the_embedded_postgres_is_made_or_recovers(tmp_path: Path) -> None:
    process = CollectorProcess(tmp_path / "data", STORE_DRAIN_SECONDS="0")
    try:
        await asyncio.to_thread(process.start)
        await send(process, "a")
        assert await stop(process) < 2 * STOP_SECONDS  # initdb was at work
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.wait_until_stored)
        await send(process, "b")
        process.kill()
        await asyncio.to_thread(process.start)
        await send(process, "c")
        assert await stop(process) < 2 * STOP_SECONDS  # recovery was
        await asyncio.to_thread(process.start)
        facts = await asyncio.to_thread(process.wait_until_stored)
        (books,) = facts["store"]["sources"]
        assert (books["stored"], books["missing"]) == (3, 0)
        assert facts["anomalies"] == {}
        assert await ask(process.embedded_dsn(), "select count(*) from collector.events") == 3
        await stop(process)
    finally:
        process.kill()
