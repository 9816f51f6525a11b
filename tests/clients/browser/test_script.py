"""analytics.js as a script tag, served by the collector: snippets, policies, frames, storage."""

import asyncio
import base64
import hashlib
import json
import re
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from playwright.async_api import Browser, BrowserContext

from tests.clients.browser.shop import EVENTS, Shop, address, readme_snippet, rows
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

TRACK = "<script>analytics.track('Seen', { n: 1 })</script>"
# What lists for blockers have, each for many sites at once: words of addresses.
BLOCKED = re.compile(
    r"analytics|tracking|tracker|/track|pixel|beacon|collect|telemetry|metric|stats?[/.?]|event[/?]"
    r"|segment|rudder|jitsu|snowplow|sdk|/log[/?]|/px|gtm|gtag|insight|hotjar",
    re.I,
)


async def test_the_page_of_the_readme_sends_by_names_that_blockers_do_not_know(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    host = address(collector)
    shop.put("/", readme_snippet(host, "snippet") + "<title>Shop</title>" + TRACK)
    page = await context.new_page()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    await page.goto(shop.url("/?utm_source=news"))
    stored = await rows(collector, "snippet", 2)
    assert [row["type"] for row in stored] == ["page", "track"]
    assert stored[0]["context"]["page"]["search"] == "?utm_source=news"
    # The page as it was when the call was made, not when the script had come.
    assert stored[0]["context"]["library"]["name"] == "analytics.js"
    assert len({row["anonymous_id"] for row in stored}) == 1
    ours = [url.removeprefix(host) for url in asked if url.startswith(host)]
    assert "/x/lib/snippet/core.js" in ours
    assert "/x/v1/t" in ours
    assert [url for url in ours if BLOCKED.search(url)] == []
    assert {url for url in asked if not url.startswith((host, shop.url("/")))} == set()


async def test_segments_own_snippet_works_with_its_host_replaced(
    shop: Shop, collector: CollectorProcess, chromium: Browser, packages: Path
) -> None:
    """Over https, as it is: its script looks for an address that begins so."""
    async with Https(collector.port) as https:
        host = f"{EVENTS}:{https.port}"
        options = json.dumps({"host": host, "apiKey": "segment"})
        for size in ("min", "max"):
            text = f"console.log(require('@segment/snippet').{size}({options}))"
            done = subprocess.run(
                ["node", "-e", text], cwd=packages, capture_output=True, text=True, check=True
            )
            shop.put(f"/{size}", f"<script>{done.stdout}</script>{TRACK}")
        context = await chromium.new_context(ignore_https_errors=True)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = await context.new_page()
        for count, size in ((2, "min"), (4, "max")):
            await page.goto(shop.url(f"/{size}"))
            assert len(await rows(collector, "segment", count)) == count
        await context.close()
    assert f"https://{host}/analytics.js/v1/segment/analytics.min.js" in asked
    assert f"https://{host}/v1/projects/segment/settings" in asked
    assert f"https://{host}/v1/t" in asked
    assert {
        url for url in asked if not url.startswith((f"https://{host}/", shop.url("/")))
    } == set()


async def test_the_script_gets_its_parts_from_the_collector_too(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    """ajs_ in the address makes it load the part that reads them."""
    host = address(collector)
    neutral = readme_snippet(host, "parts")
    usual = neutral.replace(f"{host}/x", host).replace(
        '"/lib/" + key + "/core.js"', '"/analytics.js/v1/" + key + "/analytics.min.js"'
    )
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = await context.new_page()
    for name, html, count in (("neutral", neutral, 3), ("usual", usual, 6)):
        shop.put(f"/{name}", html)
        await page.goto(shop.url(f"/{name}?ajs_uid={name}&ajs_event=Clicked&ajs_prop_n=1"))
        await rows(collector, "parts", count)
    stored = await rows(collector, "parts", 6)
    assert {row["user_id"] for row in stored if row["type"] == "identify"} == {"neutral", "usual"}
    assert [row["event"] for row in stored if row["type"] == "track"] == ["Clicked", "Clicked"]
    parts = [url.removeprefix(host) for url in asked if url.startswith(host) and "538" in url]
    assert any(re.fullmatch(r"/x/lib/538\.[0-9a-f]+\.js", part) for part in parts)
    assert any("/analytics-next/bundles/queryString.bundle." in url for url in asked)


async def test_a_page_with_a_strict_policy_can_pin_the_script(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    host = address(collector)
    version = json.loads((Path(__file__).parent / "node" / "package.json").read_text())[
        "dependencies"
    ]["@segment/analytics-next"]
    script = await asyncio.to_thread(collector.get, f"/x/lib/strict/core-{version}.js")
    pin = "sha384-" + base64.b64encode(hashlib.sha384(script).digest()).decode()
    snippet = readme_snippet(host, "strict").replace("core.js", f"core-{version}.js")
    attributes = f'script.crossOrigin = "anonymous"; script.integrity = "{pin}";'
    snippet = snippet.replace("script.async = true;", f"script.async = true; {attributes}")
    snippet = snippet.replace("<script>", '<script nonce="r4nd0m">')
    policy = f"default-src 'none'; script-src 'nonce-r4nd0m' {host}; connect-src {host}"
    shop.put("/strict", snippet, Content_Security_Policy=policy)
    page = await context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    await page.goto(shop.url("/strict"))
    assert len(await rows(collector, "strict", 1)) == 1
    # Not even a favicon is allowed there.
    assert [text for text in wrong if host in text] == []
    # Another script under the same hash is not run.
    shop.put("/strict", snippet.replace("sha384-", "sha384-AAAA"), Content_Security_Policy=policy)
    await page.goto(shop.url("/strict"))
    await page.wait_for_load_state("networkidle")
    assert len(await rows(collector, "strict", 1)) == 1


DENIED = """
for (const name of ['localStorage', 'sessionStorage'])
  Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError') } })
Object.defineProperty(document, 'cookie', { get: () => '', set() {} })
"""


async def test_a_browser_that_keeps_nothing_sends_all_the_same(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    host = address(collector)
    shop.put(
        "/blocked",
        f"<script>{DENIED}</script>" + readme_snippet(host, "blocked") + TRACK,
    )
    page = await context.new_page()
    for count in (2, 4):
        await page.goto(shop.url("/blocked"))
        stored = await rows(collector, "blocked", count)
        assert len(stored) == count
    assert all(row["anonymous_id"] for row in stored)
    assert await context.cookies() == []


async def test_a_sandboxed_frame_of_no_origin_may_send(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    """Without the SDK, which gives up where it may not read cookies: by fetch, and by an image."""
    host = address(collector)
    event = json.dumps({"writeKey": "frame", "anonymousId": "a", "event": "Seen"})
    fetch = f"fetch('{host}/x/v1/t', {{ method: 'POST', body: {json.dumps(event)} }})"
    shop.put("/inner", f"<script>{fetch}</script><img src='{host}/px.gif?wk=frame&aid=a&e=Shown'>")
    shop.put("/frame", '<iframe sandbox="allow-scripts" src="/inner"></iframe>')
    page = await context.new_page()
    await page.goto(shop.url("/frame"))
    stored = await rows(collector, "frame", 2)
    assert sorted(row["event"] for row in stored) == ["Seen", "Shown"]


class Https:
    """TLS in front of the collector, as a proxy that it trusts."""

    def __init__(self, port: int) -> None:
        self._target = f"http://127.0.0.1:{port}"
        self.port = 0

    async def __aenter__(self) -> "Https":
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert(EVENTS).configure_cert(context)
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass(self, request: web.Request) -> web.Response:
        headers = {**request.headers, "X-Forwarded-Proto": "https"}
        async with self._session.request(
            request.method,
            self._target + request.path_qs,
            headers=headers,
            data=await request.read() or None,
        ) as answer:
            skip = {"content-length", "connection", "date"}
            kept = [(n, v) for n, v in answer.headers.items() if n.lower() not in skip]
            body = await answer.read()
            return web.Response(status=answer.status, body=body, headers=kept)
