"""Who may send from where: listed origins with credentials, and the rest of the web."""

import asyncio

import pytest
from playwright.async_api import Browser, BrowserContext

from tests.clients.browser.shop import (
    OTHER,
    Shop,
    address,
    assert_same,
    npm_page,
    rows,
    said,
)
from tests.edge import BROWSER
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

WITH_COOKIES = {"config": {"credentials": "include"}}


async def test_a_listed_page_may_send_its_cookies(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    for key in ("single", "batched"):
        options = {**WITH_COOKIES, "strategy": "batching"} if key == "batched" else WITH_COOKIES
        script = "call('track', 'Seen', { n: 1 })"
        html = npm_page(address(collector), "listed", script, deliveryStrategy=options)
        shop.put(f"/{key}", html)
    cookie = {"name": "_fbp", "value": "fb.1.1700000000000.1", "domain": ".shop.test", "path": "/"}
    await context.add_cookies([cookie])  # type: ignore[list-item]
    page = await context.new_page()
    sent: list[str] = []
    context.on("request", lambda request: asyncio.ensure_future(note(request)))

    async def note(request: object) -> None:
        headers = await request.all_headers()  # type: ignore[attr-defined]
        if "/v1/" in request.url and "cookie" in headers:  # type: ignore[attr-defined]
            sent.append(headers["cookie"])

    told = []
    for key in ("single", "batched"):
        await page.goto(shop.url(f"/{key}"))
        told += await said(page, 1)
        await page.goto("about:blank")
        assert_same(told, await rows(collector, "listed", len(told)))
    assert len(told) == 2
    assert any("_fbp=fb.1." in cookie for cookie in sent)
    stored = await rows(collector, "listed", 2)
    assert {row["context"]["clientIds"]["fbp"] for row in stored} == {cookie["value"]}


async def test_a_page_that_is_not_listed_is_turned_away_with_and_without_credentials(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    before = len(await rows(collector, "listed", 0))
    html = npm_page(address(collector), "listed", "call('track', 'Seen', { n: 2 })")
    shop.put("/other", html)
    page = await context.new_page()
    await page.goto(shop.url("/other", OTHER))
    await page.wait_for_load_state("networkidle")
    # Not even the settings: the SDK does not start.
    assert await page.evaluate("window.analytics.instance === undefined")
    # The key of a source that is open to all, but with cookies, which only listed pages may send.
    html = npm_page(
        address(collector), "credentials", "call('track', 'Seen')", deliveryStrategy=WITH_COOKIES
    )
    shop.put("/credentials", html)
    await page.goto(shop.url("/credentials", OTHER))
    await page.wait_for_load_state("networkidle")
    assert await rows(collector, "credentials", 0) == []
    assert len(await rows(collector, "listed", 0)) == before


async def test_without_credentials_any_page_may_send_and_no_cookie_is_kept(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/plain", npm_page(address(collector), "plain", "call('track', 'Seen', { n: 3 })"))
    page = await context.new_page()
    for count, host in ((1, OTHER), (2, "www.shop.test")):
        await page.goto(shop.url("/plain", host))
        await said(page, 1)
        assert len(await rows(collector, "plain", count)) == count
    kept = {(cookie["domain"], cookie["name"]) for cookie in await context.cookies()}
    assert {name for _, name in kept} == {"ajs_anonymous_id"}
    assert {domain for domain, _ in kept} == {".shop.test", ".other.test"}


async def test_a_visitor_stays_the_same_when_the_browser_forgot_what_scripts_had_kept(
    shop: Shop, collector: CollectorProcess, chromium: Browser
) -> None:
    """As Safari forgets after a week; the cookie that the server has set is still there."""
    # A browser that calls itself headless is taken for a machine, and is given none.
    context = await chromium.new_context(user_agent=BROWSER)
    host = f"http://localhost:{collector.port}"
    script = "call('track', 'Seen', { n: 1 })"
    html = npm_page(host, "visitor", script, deliveryStrategy=WITH_COOKIES)
    shop.put("/visitor", html)
    page = await context.new_page()
    claimed = []
    for _ in range(2):
        await page.goto(shop.url("/visitor", "localhost"))
        (event,) = await said(page, 1)
        claimed.append(event["anonymousId"])
        await page.evaluate("localStorage.clear()")
        await context.clear_cookies(name="ajs_anonymous_id")
    await page.evaluate(
        f"""new Promise((done) => {{
          const image = new Image()
          image.onload = done
          image.src = '{host}/px.gif?wk=visitor&e=Seen'
        }})"""
    )
    stored = await rows(collector, "visitor", 3)
    assert claimed[0] != claimed[1]
    assert [row["anonymous_id"] for row in stored] == [claimed[0]] * 3
    assert [cookie["name"] for cookie in await context.cookies()] == ["sid"]
    await context.close()
