"""A shop on the web: pages on origins of their own, and what a browser makes of them."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Page

from tests.clients.proxy import Proxy
from tests.expected import kept, moment
from tests.process import CollectorProcess

README = Path(__file__).parents[3] / "README.md"

# Names that the browser takes for this machine. The first two are one site, but two origins; a page
# of the third is of another site.
WWW, EVENTS, OTHER = "www.shop.test", "events.shop.test", "www.other.test"

# Each call by window.call is written down with what the SDK says of it once it has delivered it.
LEDGER = """
window.said = []
window.failed = []
window.call = (name, ...args) => {
  window.analytics[name](...args).then(
    (context) => window.said.push(JSON.parse(JSON.stringify(context.event))),
    (error) => window.failed.push(String(error)),
  )
}
"""

COLUMNS = {
    "event": "event",
    "name": "name",
    "category": "category",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
}


class Shop:
    """Pages by their paths, and the files in *scripts* below /js/; any host name will do."""

    def __init__(self, scripts: Path, port: int) -> None:
        self._scripts = scripts
        self._pages: dict[str, tuple[str, dict[str, str]]] = {}
        self._runner: web.AppRunner | None = None
        self.port = port
        self.delay_seconds = 0.0  # until a page is answered, as it is over a network

    async def start(self) -> None:
        application = web.Application()
        application.router.add_static("/js/", self._scripts)
        application.router.add_get("/{path:.*}", self._page)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def url(self, path: str, host: str = WWW) -> str:
        return f"http://{host}:{self.port}{path}"

    def put(self, path: str, html: str, **headers: str) -> None:
        """Have *html* at *path*."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._pages[path] = (html, {"Cache-Control": "no-store", **named})

    async def _page(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay_seconds)
        if request.path not in self._pages:
            raise web.HTTPNotFound
        html, headers = self._pages[request.path]
        return web.Response(text=html, content_type="text/html", headers=headers)


def address(server: CollectorProcess | Proxy) -> str:
    """Where pages reach *server*."""
    port = server.port if isinstance(server, CollectorProcess) else server.url.rpartition(":")[2]
    return f"http://{EVENTS}:{port}"


def npm_page(cdn: str, key: str, script: str = "", body: str = "", **segment: object) -> str:
    """A page whose bundle contains the SDK; *segment* are options of its one integration."""
    names = json.dumps({"writeKey": key, "cdnURL": cdn})
    options = json.dumps({"integrations": {"Segment.io": segment}})
    return f"""<!doctype html><title>Shop</title>{body}<script src="/js/segment.js"></script>
<script>{LEDGER}
window.analytics = AnalyticsBrowser.load({names}, {options})
{script}</script>"""


def readme_snippet(host: str, key: str) -> str:
    """The page's part that README shows, for another collector."""
    (snippet,) = re.findall(r"```html\n(<script>.*?)```", README.read_text(), re.S)
    named = snippet.replace("http://localhost:8080", host).replace('"demo"', json.dumps(key))
    assert named.count(host) == named.count(json.dumps(key)) == 1
    return named


async def said(page: Page, count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
    """What the SDK says it has delivered, once it is so many events."""
    done = f"window.said?.length + window.failed?.length >= {count}"
    await page.wait_for_function(done, timeout=seconds * 1000, polling=50)
    assert await page.evaluate("failed") == []
    told: list[dict[str, Any]] = await page.evaluate("said")
    assert len(told) == count
    return told


async def rows(
    collector: CollectorProcess, source: str, count: int, seconds: float = 30.0
) -> list[dict[str, Any]]:
    """The rows of *source* in the order of storing: at least *count*, and all that are coming."""
    until = time.monotonic() + seconds
    while True:
        await asyncio.to_thread(collector.wait_until_stored)
        found = await collector.rows(
            "select * from collector.events where source = $1 order by seq", source
        )
        if len(found) >= count or time.monotonic() > until:
            return found
        await asyncio.sleep(0.2)


def assert_same(told: list[dict[str, Any]], stored: list[dict[str, Any]]) -> None:
    """Check that there is one row for each event, and that it says what the event says."""
    found = {row["message_id"]: row for row in stored}
    assert sorted(found) == sorted(event["messageId"] for event in told)
    assert len(stored) == len(found)
    for event in told:
        row = found[event["messageId"]]
        assert row["type"] == event["type"]
        for name, column in COLUMNS.items():
            assert row[column] == kept(event.get(name)), name
        assert (row["properties"] or {}) == kept(event.get("properties", {}))
        if event["type"] in {"identify", "group"}:
            assert row["traits"] == kept(event["traits"])
        # The SDK adds its own name, and what else it knows, after it has told the page.
        assert event["context"].items() <= row["context"].items()
        assert row["context"]["page"]["title"] == event["context"]["page"]["title"]
        assert row["original_timestamp"] == moment(event["timestamp"])


def numbers(stored: list[dict[str, Any]]) -> list[int]:
    """The property n of each row."""
    return [row["properties"]["n"] for row in stored]
