"""The examples of the documentation for pages, in a page each: they send what they say."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext

from tests.clients.browser.shop import README, Shop, address, readme_snippet, rows
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

DOCS = README.parent / "docs"
PLACE = "https://shop.example/x"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.S)


async def test_every_pixel_of_the_docs_is_a_row(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    host = address(collector)
    # With the script the page itself is an event too; an example in <noscript> is for the others.
    snippet = readme_snippet(host, "pixels").replace("analytics.page();", "")
    examples = blocks("pixels.md", "html")
    assert len(examples) == 6
    for example in examples:
        html = example.replace(PLACE, f"{host}/x").replace("wk=demo", "wk=pixels")
        shop.put("/pixel", snippet + re.sub("</?noscript>", "", html))
        page = await context.new_page()
        await page.goto(shop.url("/pixel"))
        await page.wait_for_load_state("networkidle")
        await page.close()
    stored = await rows(collector, "pixels", len(examples))
    assert [row["event"] or row["type"] for row in stored] == [
        "Order Completed",
        "Order Completed",
        "Product Viewed",
        "page",
        "Product Added",
        "Email Opened",
    ]
    by_call, by_image = stored[:2]
    assert by_call["message_id"] == "order-1001"
    assert by_call["properties"]["products"][0]["price"] == 49.9
    assert by_image["message_id"] == "order-1002"
    assert by_image["properties"] == {"order_id": "1002", "total": "49.90", "currency": "EUR"}
    assert stored[5]["context"]["campaign"]["name"] == "Welcome"


async def test_the_choice_of_a_visitor_is_in_each_event(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    (middleware,) = [block for block in blocks("senders/browser.md", "js") if "consent" in block]
    shop.put("/consent", readme_snippet(address(collector), "consent") + script(middleware))
    page = await context.new_page()
    await page.goto(shop.url("/consent"))
    (row,) = await rows(collector, "consent", 1)
    granted = {"analytics": True, "advertising": False}
    assert row["context"]["consent"]["categoryPreferences"] == granted


async def test_the_bundle_of_the_docs_needs_no_more_than_it_shows(
    shop: Shop, collector: CollectorProcess, context: BrowserContext, packages: Path
) -> None:
    (example,) = [block for block in blocks("senders/browser.md", "js") if "import" in block]
    text = example.replace(PLACE, f"{address(collector)}/x").replace("'demo'", "'bundle'")
    (packages / "example.js").write_text(text)
    await asyncio.to_thread(
        subprocess.run,
        ["node_modules/.bin/esbuild", "example.js", "--bundle", "--outdir=js", "--log-level=error"],
        cwd=packages,
        check=True,
    )
    shop.put("/bundle", "<!doctype html><title>Shop</title><script src='/js/example.js'></script>")
    page = await context.new_page()
    await page.goto(shop.url("/bundle"))
    stored = await rows(collector, "bundle", 2)
    assert [row["type"] for row in stored] == ["page", "track"]


def script(text: str) -> str:
    return f"<script>{text}</script>"
