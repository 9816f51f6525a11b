"""Reload: SIGHUP changes who may send, and how much, while events are taken."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.process import CollectorProcess
from tests.rawhttp import basic

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # the edge alone is looked at
EVENT = {"event": "E", "userId": "u"}
SECONDS = 20.0


def source(name: str, key: str, *lines: str) -> str:
    return "\n".join(["[[sources]]", f'name = "{name}"', f'write_key = "{key}"', *lines, ""])


SHOP = source("shop", "demo")


class Reloading(CollectorProcess):
    """A collector whose file is changed under it."""

    @property
    def file(self) -> Path:
        return self.data_dir.parent / f"{self.data_dir.name}.toml"

    def hang_up(self, config: str | None = None) -> dict[str, Any]:
        """Write *config*, send SIGHUP, and return what it says once it has read it."""
        before = self._reloads()
        if config is not None:
            self.file.write_text(config)
        self.signal(signal.SIGHUP)
        until = time.monotonic() + SECONDS
        while self._reloads() == before:
            assert time.monotonic() < until, self.output()
            time.sleep(0.02)
        facts: dict[str, Any] = self.status()["config"]
        return facts

    def _reloads(self) -> float:
        name = "collector_config_reloads_total"
        return sum(value for key, value in self.metrics().items() if key.startswith(name))

    def sends(self, key: str, **headers: str) -> int:
        return self.post("/v1/track", EVENT, key=key, **headers)[0]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Reloading]:
    process = Reloading(tmp_path / "data", NOWHERE, SHOP, STORE_DRAIN_SECONDS="0")
    process.start()
    yield process
    process.kill()


def test_sources_origins_and_limits_change_at_once(collector: Reloading) -> None:
    assert (collector.sends("demo"), collector.sends("new")) == (200, 401)
    page = {"Origin": "https://shop.example"}
    assert collector.sends("demo", **page) == 200
    facts = collector.hang_up(
        source("shop", "changed", 'origins = ["https://other.example"]')
        + source("extra", "new", "events_per_second = 0.001", "events_burst = 1")
    )
    assert (facts["trouble"], facts["restart_for"]) == (None, [])
    assert (collector.sends("demo"), collector.sends("changed")) == (401, 200)
    assert collector.sends("changed", **page) == 403
    assert collector.sends("changed", Origin="https://other.example") == 200
    assert (collector.sends("new"), collector.sends("new")) == (200, 429)
    collector.hang_up(SHOP + "[limits]\naddress_requests_per_second = 0.001\n"
                      "address_requests_burst = 2\n")  # fmt: skip
    assert [collector.sends("demo") for _ in range(3)] == [200, 200, 429]
    collector.hang_up(SHOP)
    assert [collector.sends("demo") for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("[[sources]\n", "is no TOML"),
        (SHOP + SHOP, "used twice"),
        (SHOP + "[limits]\nunlimited = ['home']\n", "limits.unlimited"),
        (SHOP + "[ingest]\nprot = 1\n", "prot"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_loudly_and_the_old_one_stays(
    collector: Reloading, bad: str | None, said: str
) -> None:
    if bad is None:
        collector.file.unlink()
    facts = collector.hang_up(bad)
    assert said in facts["trouble"]
    assert collector.sends("demo") == 200
    shown = collector.metrics()
    assert shown["collector_config_refused"] == 1
    assert shown['collector_config_reloads_total{outcome="refused"}'] == 1
    assert "cannot be used; those before them stay in force" in collector.output()
    facts = collector.hang_up(source("shop", "good"))
    assert facts["trouble"] is None
    assert collector.metrics()["collector_config_refused"] == 0
    assert (collector.sends("demo"), collector.sends("good")) == (401, 200)


def test_a_source_that_a_destination_names_cannot_go(collector: Reloading) -> None:
    hook = '[[destinations]]\ntype = "webhook"\nname = "crm"\nurl = "https://a.example/"\n'
    facts = collector.hang_up(source("other", "k") + hook + 'sources = ["shop"]\n')
    assert "there is no source shop any more" in facts["trouble"]
    assert collector.sends("demo") == 200


def test_what_needs_a_restart_is_named(collector: Reloading) -> None:
    facts = collector.hang_up(source("shop", "new") + "[journal]\nkeep_seconds = 1.0\n")
    assert (facts["trouble"], facts["restart_for"]) == (None, ["journal"])
    assert collector.sends("new") == 200
    shown = subprocess.run(
        [sys.executable, "-m", "collector", "status"],
        env=collector._environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "wait for a restart: journal" in shown
    assert "only a restart applies" in collector.output()


def test_the_secrets_of_links_rotate(collector: Reloading) -> None:
    for secret in ("the first secret of links", "the next secret of links"):
        collector.hang_up(f'{SHOP}[redirect]\nsecrets = ["{secret}"]\n')
        url = subprocess.run(
            [sys.executable, "-m", "collector", "link", "--target", f"{collector.url}/health"],
            env=collector._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        path = "/r/" + url.partition("/r/")[2]
        assert collector.get(path) == b'{"status":"ok"}'  # it was followed


Send = Callable[[], Awaitable[None]]


@pytest.fixture
async def senders(collector: Reloading) -> AsyncIterator[list[int]]:
    """Twenty senders that never stop; the statuses of what they were answered."""
    statuses: list[int] = []
    ended = False
    headers = {"Authorization": basic("demo"), "Origin": "https://shop.example"}

    async def send(session: aiohttp.ClientSession) -> None:
        while not ended:
            async with session.post(f"{collector.url}/v1/t", json=EVENT, headers=headers) as answer:
                await answer.read()
                statuses.append(answer.status)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(send(session))
        yield statuses
        ended = True


async def test_no_request_fails_while_it_reloads(collector: Reloading, senders: list[int]) -> None:
    configs = [
        SHOP + source("more", f"k{n}") + ("" if n % 2 else "[limits]\naddresses_max = 7\n")
        for n in range(8)
    ]
    configs[3] = "[[sources]\n"
    for config in configs:
        before = len(senders)
        facts = await asyncio.to_thread(collector.hang_up, config)
        assert (facts["trouble"] is None) == (config != configs[3])
        while len(senders) < before + 100:
            await asyncio.sleep(0.01)
    for _ in range(50):  # also many at once
        collector.signal(signal.SIGHUP)
        await asyncio.sleep(0.01)
    assert set(senders) == {200}
    accepted = {row["source"]: row["accepted"] for row in collector.status()["store"]["sources"]}
    assert accepted["shop"] >= len(senders) - 20


def test_a_terminal_that_hangs_up_ends_it(tmp_path: Path) -> None:
    process = Reloading(tmp_path / "data", NOWHERE, SHOP, STORE_DRAIN_SECONDS="0")
    master, slave = pty.openpty()
    with process.log.open("ab") as log:
        process._process = subprocess.Popen(
            [sys.executable, "-m", "collector", "run"],
            env=process._environment,
            stdin=slave,
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
    os.close(slave)
    try:
        process.wait_until_healthy()
        assert process.hang_up()["trouble"] is None  # the terminal is still there
        os.close(master)
        process.signal(signal.SIGHUP)
        assert process.wait() == 0
    finally:
        process.kill()
