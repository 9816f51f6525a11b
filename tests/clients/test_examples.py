"""The examples of docs/senders, run as they stand there but for where the collector is."""

import asyncio
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.npm import installed
from tests.clients.proxy import Proxy
from tests.clients.tls import Tls
from tests.process import CollectorProcess

DOCS = Path(__file__).parents[2] / "docs" / "senders"
PAGES = ("rudderstack", "jitsu", "customerio-track", "customerio-pipelines", "snowplow")
BLOCK = re.compile(r"```(python|js|sh)\n(.*?)```", re.S)
IN_A_PAGE = ("/bundled'", "cdp-analytics-browser", "browser-tracker")  # want a browser
EXAMPLES = [
    (page, kind, code)
    for page in PAGES
    for kind, code in BLOCK.findall((DOCS / f"{page}.md").read_text())
    if not any(word in code for word in IN_A_PAGE)
]
CONFIG = """
[[sources]]
name = "demo"
write_key = "demo"
[[sources]]
name = "pair"
write_key = "site_id:api_key"
"""


@pytest.fixture
def collector(tmp_path: Path, empty_dsn: str) -> Iterator[CollectorProcess]:
    process = CollectorProcess(tmp_path / "data", empty_dsn, CONFIG)
    yield process.start()
    process.kill()


async def test_each_example_sends_an_event(
    pytestconfig: pytest.Config, collector: CollectorProcess, tmp_path: Path
) -> None:
    assert len(EXAMPLES) == 9
    tls = Tls(tmp_path)
    packages = installed(pytestconfig, Path(__file__).with_name("node"), "node-clients")
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    commands = {"js": ["node"], "python": [sys.executable], "sh": ["sh", "-e"]}
    async with Proxy(collector.port, tls=tls.context) as proxy:
        port = proxy.url.rpartition(":")[2]
        for number, (page, kind, code) in enumerate(EXAMPLES):
            for there, here in (
                ("http://localhost:8080", collector.url),
                ('"localhost", protocol="http", port=8080',
                 f'"127.0.0.1", protocol="http", port={collector.port}'),
                ('host="events.shop.example"', f'host="localhost", port={port}'),
                ("'https://events.shop.example/api/v1'",
                 f"'https://localhost/api/v1', port: {port}"),
            ):  # fmt: skip
                code = code.replace(there, here)  # noqa: PLW2901
            assert "localhost:8080" not in code
            file = tmp_path / f"example{number}.{'mjs' if kind == 'js' else kind}"
            file.write_text(code)
            process = await asyncio.create_subprocess_exec(
                *commands[kind], file, env=os.environ | tls.environment, cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, said = await process.communicate()
            assert process.returncode == 0, (page, said.decode())
            await asyncio.to_thread(collector.wait_until_stored)
            rows = await collector.rows("select * from collector.events order by seq")
            assert rows, (page, code)
            last = rows[-1]
            assert (last["event"] or last["name"] or last["type"]) in {
                *("Order Completed", "buy", "Home", "identify"),
            }
            await collector.rows("truncate collector.events")
