"""Pages that are left: what was called before is stored, once, also when nobody comes back."""

import asyncio
import time

import pytest
from playwright.async_api import Browser, BrowserContext

from tests.clients.browser.shop import OTHER, Shop, address, npm_page, numbers, rows
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCHING = {"strategy": "batching", "config": {"size": 10, "timeout": 30_000}}
CLICKS, CLICKS_LONG = 10, 250  # the latter with --long
# A link to the next page, and the click on it as an event: by the SDK's own helper.
LINK = """
const n = Number(new URLSearchParams(location.search).get('n'))
go.href = location.pathname + '?n=' + (n + 1)
analytics.trackLink(go, 'Link Clicked', { n })
"""


async def test_clicks_on_links_that_leave_the_page_are_all_there(
    shop: Shop, collector: CollectorProcess, chromium: Browser, pytestconfig: pytest.Config
) -> None:
    clicks = CLICKS_LONG if pytestconfig.getoption("--long") else CLICKS
    # Two visitors at once, who need not wait for each other.
    ways = {"links": {}, "batched-links": {"deliveryStrategy": BATCHING}}
    for key, options in ways.items():
        html = npm_page(address(collector), key, LINK, '<a id="go" href="/">Go</a>', **options)
        shop.put(f"/{key}", html)
    contexts = await asyncio.gather(*(visit(chromium, shop, key, clicks) for key in ways))
    for key in ways:
        assert sorted(numbers(await rows(collector, key, clicks))) == list(range(clicks))
    for context in contexts:
        await context.close()


async def visit(chromium: Browser, shop: Shop, key: str, clicks: int) -> BrowserContext:
    """Click through so many pages, and leave for another site."""
    context = await chromium.new_context()
    page = await context.new_page()
    await page.goto(shop.url(f"/{key}?n=0"))
    for n in range(clicks + 1):
        here = f"location.search == '?n={n}' && window.analytics?.instance"
        await page.wait_for_function(here, polling=10)
        if n < clicks:
            await page.click("#go", no_wait_after=True)
    await page.goto("about:blank")
    return context


async def test_a_batch_that_waits_is_sent_when_the_page_is_left_or_closed(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/closed", npm_page(address(collector), "closed", deliveryStrategy=BATCHING))
    shop.put("/elsewhere", "<!doctype html><title>Elsewhere</title>")
    began = time.monotonic()
    for n, leave in enumerate(("goto", "close", "hide")):
        page = await context.new_page()
        await page.goto(shop.url("/closed"))
        await page.wait_for_function("window.analytics?.instance", polling=20)
        await page.evaluate(
            "(n) => { for (let i = 0; i < 7; i++) call('track', 'Seen', { n: 10 * n + i }) }", n
        )
        await page.wait_for_function("said.length == 7", polling=20)
        assert len(await rows(collector, "closed", 0)) == 7 * n
        if leave == "goto":
            await page.goto(shop.url("/elsewhere", OTHER))
        elif leave == "close":
            await page.close(run_before_unload=True)
        else:
            await page.evaluate("document.body.innerHTML = ''; location.replace('about:blank')")
        stored = await rows(collector, "closed", 7 * n + 7)
        assert sorted(numbers(stored)) == [10 * m + i for m in range(n + 1) for i in range(7)]
    assert time.monotonic() - began < 25, "the batch went by its timer"


async def test_what_was_under_way_when_the_page_was_left_comes_from_the_next_one(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    """Single events that the browser cut off wait in its storage, and are stored once."""
    shop.put("/cut", npm_page(address(collector), "cut"))
    page = await context.new_page()
    for first in (0, 100):
        await page.goto(shop.url("/cut"))
        await page.wait_for_function("window.analytics?.instance", polling=20)
        await page.evaluate(
            "(n) => { for (let i = 0; i < 20; i++) call('track', 'Seen', { n: n + i }) }", first
        )
        await page.wait_for_function("said.length > 2", polling=5)
    await page.goto(shop.url("/cut"))
    stored = await rows(collector, "cut", 40)
    await asyncio.sleep(0.5)
    stored = await rows(collector, "cut", 40)
    assert sorted(numbers(stored)) == [*range(20), *range(100, 120)]
