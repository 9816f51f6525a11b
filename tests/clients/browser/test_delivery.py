"""analytics.js from npm, in a bundle: what it says it has delivered is stored, once, in order."""

import asyncio

import pytest
from playwright.async_api import BrowserContext

from tests.clients.browser.shop import Shop, address, assert_same, npm_page, numbers, rows, said
from tests.clients.proxy import LOSE_ANSWER, LOSE_REQUEST, Fault, Proxy, says
from tests.process import CollectorProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLS = r"""
['page', 'Docs', 'Start', { n: 1, text: 'Blåbærsyltetøy 日本語 😀' }],
['track', 'Seen', { n: 2, half: '\ud83d', nul: 'a\0b', big: 2 ** 53 + 2, list: [null, {}, ''] }],
['alias', 'user-1', 'before'],
['identify', 'user-1', { email: 'ann@example.com', n: 4 }],
['group', 'group-1', { plan: 'gold', n: 5 }],
['track', 'Order Completed', { n: 6, total: 49.9, products: [{ price: 1e-7 }] }],
['reset'],
['track', 'Afterwards', { n: 7 }],
['screen', 'Settings', { n: 8 }],
"""
# The SDK sends what is called in one go side by side; people do one thing after the other.
IN_TURN = """async (calls) => {
  for (const [name, ...args] of calls) {
    const before = said.length
    if (name === 'reset') analytics.reset()
    else call(name, ...args)
    const waits = () => name !== 'reset' && said.length === before
    while (waits()) await new Promise((done) => setTimeout(done, 1))
  }
}"""
BATCHING = {"strategy": "batching", "config": {"size": 10, "timeout": 300}}
OPEN = {"Access_Control_Allow_Origin": "*", "Access_Control_Expose_Headers": "Retry-After"}


async def test_every_call_is_a_row(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/calls", npm_page(address(collector), "calls"))
    page = await context.new_page()
    await page.goto(shop.url("/calls?utm_source=news&utm_campaign=spring&gclid=g1"))
    # What is called before it has loaded, the SDK sends by kind: pages first, then tracks, …
    await page.wait_for_function("window.analytics?.instance", polling=50)
    await page.evaluate(f"({IN_TURN})([{CALLS}])")
    told = await said(page, 8)
    stored = await rows(collector, "calls", 8)
    assert_same(told, stored)
    types = ["page", "track", "alias", "identify", "group", "track", "track", "screen"]
    assert [row["type"] for row in stored] == types
    first, last = stored[0], stored[-1]
    assert first["context"]["campaign"] == {"source": "news", "name": "spring"}
    assert first["context"]["page"]["search"] == "?utm_source=news&utm_campaign=spring&gclid=g1"
    assert stored[2]["previous_id"] == "before"
    assert {row["user_id"] for row in stored[2:6]} == {"user-1"}
    assert len({row["anonymous_id"] for row in stored[:6]}) == 1
    # reset() made somebody else of whom it was.
    assert last["user_id"] is None
    assert last["anonymous_id"] != first["anonymous_id"]


async def test_one_after_the_other_they_keep_their_order(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/single", npm_page(address(collector), "single"))
    page = await context.new_page()
    await page.goto(shop.url("/single"))
    calls = [["track", "E", {"n": n}] for n in range(40)]
    await page.evaluate(IN_TURN, calls)
    told = await said(page, 40)
    stored = await rows(collector, "single", 40)
    assert_same(told, stored)
    assert numbers(stored) == list(range(40))


@pytest.mark.parametrize(("key", "strategy"), [("burst", None), ("batches", BATCHING)])
async def test_a_burst_arrives_whole(
    key: str, strategy: object, shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    script = "for (let n = 0; n < 105; n++) call('track', 'E', { n })"
    options = {"deliveryStrategy": strategy} if strategy else {}
    shop.put("/burst", npm_page(address(collector), key, script, **options))
    page = await context.new_page()
    await page.goto(shop.url("/burst"))
    told = await said(page, 105)
    stored = await rows(collector, key, 105)
    assert_same(told, stored)
    # The SDK's requests travel side by side; what it says about their time keeps their order.
    times = {n: row["original_timestamp"] for n, row in zip(numbers(stored), stored, strict=True)}
    assert [times[n] for n in range(105)] == sorted(times.values())


async def trouble(
    shop: Shop, collector: CollectorProcess, context: BrowserContext, key: str, strategy: object
) -> None:
    """Send over a way on which things go wrong."""
    faults: dict[int, Fault] = {
        1: says(429, Retry_After="2", **OPEN),
        2: says(503, **OPEN),
        3: LOSE_ANSWER,
        4: LOSE_REQUEST,
    }
    async with Proxy(collector.port, faults, "POST") as proxy:
        script = """call('track', 'E', { n: 0 })
        let n = 1
        const timer = setInterval(() => {
          if (!said.length) return
          call('track', 'E', { n })
          if (++n == 12) clearInterval(timer)
        }, 100)"""
        options = {"deliveryStrategy": strategy} if strategy else {}
        shop.put(f"/{key}", npm_page(address(proxy), key, script, **options))
        page = await context.new_page()
        await page.goto(shop.url(f"/{key}"))
        told = await said(page, 12)
        stored = await rows(collector, key, 12)
        assert_same(told, stored)
        assert sorted(numbers(stored)) == list(range(12))
        assert proxy.broken == 2
        assert (proxy.statuses[429], proxy.statuses[503]) == (1, 1)
        # Told to come back in two seconds, it did not come sooner.
        late = next(row for row in stored if row["properties"]["n"] == 0)
        assert (late["received_at"] - late["original_timestamp"]).total_seconds() > 1.9


async def test_nothing_is_lost_or_doubled_on_a_way_where_things_go_wrong(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    """A busy collector, one that is away, a request that is cut, an answer that never comes."""
    await asyncio.gather(
        trouble(shop, collector, context, "trouble", None),
        trouble(shop, collector, context, "batches-trouble", BATCHING),
    )


async def test_a_collector_that_is_killed_costs_no_event(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    script = """let n = 0
    setInterval(() => { if (n < 30) call('track', 'E', { n: n++ }) }, 50)"""
    shop.put("/kill", npm_page(address(collector), "kill", script))
    page = await context.new_page()
    await page.goto(shop.url("/kill"))
    await rows(collector, "kill", 3)
    await asyncio.to_thread(collector.kill)
    await page.wait_for_function("n >= 20", polling=50)
    await asyncio.to_thread(collector.start)
    told = await said(page, 30)
    stored = await rows(collector, "kill", 30)
    assert_same(told, stored)
    assert sorted(numbers(stored)) == list(range(30))


async def test_what_happens_offline_comes_later_also_from_the_next_page(
    shop: Shop, collector: CollectorProcess, context: BrowserContext
) -> None:
    shop.put("/offline", npm_page(address(collector), "offline", "let n = 0"))
    page = await context.new_page()
    await page.goto(shop.url("/offline"))
    await page.evaluate("call('track', 'E', { n: n++ })")
    told = await said(page, 1)
    await context.set_offline(True)
    await page.evaluate("for (let i = 0; i < 5; i++) call('track', 'E', { n: n++ })")
    await asyncio.sleep(0.5)
    assert len(await rows(collector, "offline", 1)) == 1
    await context.set_offline(False)
    stored = await rows(collector, "offline", 6)
    assert sorted(numbers(stored)) == list(range(6))

    await context.set_offline(True)
    await page.evaluate("for (let i = 0; i < 5; i++) call('track', 'E', { n: n++ })")
    await asyncio.sleep(0.5)
    told = await page.evaluate("said")
    await page.goto("about:blank")
    await context.set_offline(False)
    await page.goto(shop.url("/offline"))
    stored = await rows(collector, "offline", 11)
    assert sorted(numbers(stored)) == list(range(11))
    assert {event["messageId"] for event in told} <= {row["message_id"] for row in stored}
