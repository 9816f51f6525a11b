"""
Other vendors' SDKs, unmodified: what each reports as sent is stored, once, as it was said.

Those that keep what failed and try again lose nothing, whatever happens on the way. Those that do
not (Jitsu's, Customer.io's for Node) say so of each call, and lose nothing else.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clients.npm import installed
from tests.clients.proxy import LOSE_ANSWER, LOSE_REQUEST, Proxy, says
from tests.clients.tls import Tls
from tests.expected import kept, moment
from tests.process import CollectorProcess

SOURCE = Path(__file__).with_name("node")
DRIVER = Path(__file__).with_name("senders_python.py")
NODE = ("rudder", "cdp", "jitsu", "customerio")
PYTHON = ("rudder", "customerio", "snowplow-get", "snowplow-post")
CLIENTS = [f"node-{name}" for name in NODE] + [f"python-{name}" for name in PYTHON]
PATIENT = ("node-rudder", "node-cdp", "python-rudder", "python-snowplow-post")
PAUSE_MS = 40  # between two calls: the collector goes away while they are made
# That wait for each answer, or send one batch after the other.
IN_ORDER = ("node-jitsu", "node-customerio", "python-rudder", "python-customerio")


class Client:
    """One SDK, which sends with its own name as key to the source of that name."""

    def __init__(self, name: str, command: list[str], tls: Tls) -> None:
        self.name = name
        self._command = command
        self.tls = tls.context if name.endswith("customerio") else None  # it speaks nothing else
        self._environment = os.environ | tls.environment

    async def drive(self, url: str, output: Path, count: int, pause_ms: int) -> dict[str, Any]:
        """Run the program, and return what was said to the SDK and what the SDK told."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *(url, self.name, output, str(count), str(pause_ms)),
            env=self._environment,
            cwd=Path(self._command[1]).parent,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0, self.name
        told: dict[str, Any] = json.loads(output.read_text())
        return told


@pytest.fixture
def clients(pytestconfig: pytest.Config, tmp_path: Path) -> list[Client]:
    tls = Tls(tmp_path)
    directory = installed(pytestconfig, SOURCE, "node-clients")
    node = ["node", str(directory / "senders.mjs")]
    found = [Client(f"node-{name}", [*node, name], tls) for name in NODE]
    python = [sys.executable, str(DRIVER)]
    return found + [Client(f"python-{name}", [*python, name], tls) for name in PYTHON]


@pytest.fixture
def collector(tmp_path: Path, empty_dsn: str) -> Iterator[CollectorProcess]:
    """The real process with a source for each client."""
    config = "".join(f'[[sources]]\nname = "{name}"\nwrite_key = "{name}"\n' for name in CLIENTS)
    process = CollectorProcess(tmp_path / "data", empty_dsn, config)
    yield process.start()
    process.kill()


def number_of(row: dict[str, Any]) -> int:
    """Which call a row came from."""
    entities = (row["context"] or {}).get("snowplow", {}).get("contexts")
    body = entities[0]["data"] if entities else row["traits"] or row["properties"]
    return int(body["n"])


def assert_row_says(call: dict[str, Any], row: dict[str, Any], client: str) -> None:
    """Check that *row* says what *call* said."""
    assert row["type"] == call["type"]
    assert row["user_id"] == call.get("user")
    if call.get("anonymous"):
        assert row["anonymous_id"] == call["anonymous"]
    column = "event" if call["type"] == "track" else "name"
    body = kept(call["properties"])
    if client == "node-jitsu" and call["type"] == "page":
        body = body | {"name": call["name"]}  # where its own server has it
    else:
        assert row[column] == kept(call["name"])
    if call["type"] == "group":
        assert row["group_id"] == call["group"]
    if client == "node-customerio" and call["type"] == "page":
        body = body | {"url": call["name"]}
    assert row["traits" if call["type"] in {"identify", "group"} else "properties"] == body
    if "entity" in call:
        schema = "iglu:com.example/ctx/jsonschema/1-0-0"
        assert row["context"]["snowplow"]["contexts"] == [
            {"schema": schema, "data": kept(call["entity"])}
        ]
    assert not {"ip", "userAgent"} & set(row["context"] or {})  # a server's are nobody's
    if call.get("when"):
        wanted = moment(call["when"])
        if client == "python-rudder":  # it says when it sent it, by the same clock
            wanted += row["received_at"] - row["sent_at"]
        assert row["timestamp"] == wanted
    else:
        assert abs(row["received_at"] - row["timestamp"]) < timedelta(seconds=60)


async def assert_stored(
    collector: CollectorProcess, told: dict[str, Any], client: str
) -> list[int]:
    """Check that what was sent is there once and says what was said; the numbers, in order."""
    books = books_of(collector, client)
    assert books["missing"] == books["rejected"] == 0
    sql = "select * from collector.events where source = $1 order by seq"
    rows = await collector.rows(sql, client)
    numbers = [number_of(row) for row in rows]
    counted = Counter(numbers)
    assert max(counted.values()) == 1, (client, counted.most_common(3))
    assert set(told["sent"]) <= set(numbers), client
    assert set(numbers) <= set(told["sent"]) | set(told["failed"]), client
    calls = {call["n"]: call for call in told["calls"]}
    for number, row in zip(numbers, rows, strict=True):
        assert_row_says(calls[number], row, client)
    if client in IN_ORDER:
        users: dict[str, list[int]] = {}
        for number, row in zip(numbers, rows, strict=True):
            users.setdefault(row["user_id"] or row["anonymous_id"], []).append(number)
        assert all(found == sorted(found) for found in users.values()), client
    return numbers


def books_of(collector: CollectorProcess, client: str) -> dict[str, int]:
    (books,) = (one for one in collector.status()["store"]["sources"] if one["source"] == client)
    return dict(books)


async def reached(passed: int, proxies: list[Proxy], drives: list[asyncio.Task[Any]]) -> None:
    """Wait until each client had so many answers of the collector, or is done."""
    async with asyncio.timeout(60):
        while any(
            proxy.passed < passed and not drive.done()
            for proxy, drive in zip(proxies, drives, strict=True)
        ):
            await asyncio.sleep(0.01)


async def test_what_each_client_sends_is_a_row(
    clients: list[Client], collector: CollectorProcess, tmp_path: Path
) -> None:
    async def one(client: Client) -> tuple[dict[str, Any], Proxy]:
        async with Proxy(collector.port, tls=client.tls) as proxy:
            return await client.drive(proxy.url, tmp_path / client.name, 150, 0), proxy

    done = await asyncio.gather(*map(one, clients))
    await asyncio.to_thread(collector.wait_until_stored)
    for client, (told, proxy) in zip(clients, done, strict=True):
        assert told["failed"] == []
        assert sorted(told["sent"]) == list(range(1, 151))
        found = await assert_stored(collector, told, client.name)
        assert sorted(found) == list(range(1, 151)), client.name
        assert set(proxy.statuses) == {200}


async def test_nothing_is_lost_and_nothing_twice_whatever_happens_on_the_way(
    clients: list[Client], collector: CollectorProcess, tmp_path: Path
) -> None:
    faults = {
        2: says(429, Retry_After="1"),
        3: says(503, Retry_After="1"),
        4: LOSE_REQUEST,
        6: LOSE_ANSWER,
        8: says(500),
        9: says(429),
        10: LOSE_ANSWER,
    }
    count = 200
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(Proxy(collector.port, faults, tls=client.tls))
            for client in clients
        ]
        drives = [
            asyncio.create_task(client.drive(proxy.url, tmp_path / client.name, count, PAUSE_MS))
            for client, proxy in zip(clients, proxies, strict=True)
        ]
        await reached(3, proxies, drives)
        await asyncio.to_thread(collector.kill)
        await asyncio.to_thread(collector.start)
        await reached(6, proxies, drives)
        assert await asyncio.to_thread(collector.stop) == 0
        await asyncio.to_thread(collector.start)
        everything = await asyncio.gather(*drives)
    await asyncio.to_thread(collector.wait_until_stored)
    for client, proxy, told in zip(clients, proxies, everything, strict=True):
        assert proxy.broken >= 3, client.name
        assert sorted(told["sent"] + told["failed"]) == list(range(1, count + 1)), client.name
        assert told["sent"]
        await assert_stored(collector, told, client.name)
        if client.name in PATIENT:
            assert told["failed"] == [], client.name
            assert books_of(collector, client.name)["duplicate"] > 0  # the answers that were lost
