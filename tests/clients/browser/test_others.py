"""Other vendors' SDKs in the browser, unmodified: RudderStack's and Jitsu's."""

import json

import pytest
from playwright.async_api import BrowserContext

from tests.clients.browser.shop import Shop, address, rows
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUDDER = """<!doctype html><title>Shop</title><script src="/js/rudder.js"></script><script>
const rudder = new RudderAnalytics()
const options = { configUrl: HOST, ...OPTIONS }
rudder.load(KEY, HOST, options)
rudder.page('Docs', 'Start', { n: 0 })
rudder.identify('user-1', { email: 'ann@example.com' })
rudder.track('Seen', { n: 1 })
rudder.group('group-1', { plan: 'gold' })
rudder.alias('user-2', 'user-1')
</script>"""

JITSU = """<!doctype html><title>Shop</title><script src="/js/jitsu.js"></script><script>
const jitsu = jitsuAnalytics({ host: HOST, writeKey: KEY })
const all = (async () => {
  await jitsu.page('Start', { n: 0 })
  await jitsu.identify('user-1', { email: 'ann@example.com' })
  await jitsu.track('Seen', { n: 1 })
  await jitsu.group('group-1', { plan: 'gold' })
})()
</script>"""


def page_of(html: str, host: str, key: str, **options: object) -> str:
    words = {"HOST": host, "KEY": key, "OPTIONS": options}
    for word, value in words.items():
        html = html.replace(word, json.dumps(value))
    return html


@pytest.mark.parametrize(
    ("key", "batch"), [("rudder", None), ("rudder-batch", {"flushInterval": 300, "maxItems": 5})]
)
async def test_rudderstacks_calls_are_rows(
    key: str,
    batch: dict[str, object] | None,
    shop: Shop,
    collector: CollectorProcess,
    context: BrowserContext,
) -> None:
    options = {"queueOptions": {"batch": {"enabled": True, **batch}}} if batch else {}
    shop.put(f"/{key}", page_of(RUDDER, address(collector), key, **options))
    page = await context.new_page()
    await page.goto(shop.url(f"/{key}"))
    stored = await rows(collector, key, 5)
    assert len(stored) == 5
    found = {row["type"]: row for row in stored}  # its requests travel side by side
    assert set(found) == {"page", "identify", "track", "group", "alias"}
    assert len({row["anonymous_id"] for row in stored}) == 1
    assert found["track"]["properties"]["n"] == 1
    assert {found[name]["user_id"] for name in ("identify", "track", "group")} == {"user-1"}
    assert (found["alias"]["user_id"], found["alias"]["previous_id"]) == ("user-2", "user-1")
    assert found["identify"]["context"]["traits"] == {"email": "ann@example.com"}


async def test_jitsus_calls_are_rows(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/jitsu", page_of(JITSU, address(collector), "jitsu:secret"))
    page = await context.new_page()
    await page.goto(shop.url("/jitsu"))
    await page.evaluate("all")
    stored = await rows(collector, "jitsu", 4)
    assert [row["type"] for row in stored] == ["page", "identify", "track", "group"]
    assert len({row["anonymous_id"] for row in stored}) == 1
    assert stored[2]["properties"]["n"] == 1
