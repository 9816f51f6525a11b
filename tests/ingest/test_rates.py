"""Rates: who sends too much waits, as its SDK understands; nobody else notices."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import Busy, ConfigError
from collector.ingest import LimitSettings, RedirectSettings, SourceSettings
from collector.ingest.links import Link
from collector.ingest.rates import RETRY_AFTER_SECONDS_MAX, Buckets, Rates
from tests.edge import BACKEND, BROWSER, Counted, Edge, MakeEdge
from tests.rawhttp import Answer

SHOP = SourceSettings(name="shop", write_key="demo")
SLOW = SourceSettings(name="slow", write_key="slow", events_per_second=0.5, events_burst=3)
EVENT = {"event": "E", "userId": "u"}
REFUSED = "collector_ingest_refused_requests_total"
PROXY = {"trusted_proxies": ["127.0.0.1"]}


def limits(**settings: Any) -> LimitSettings:
    return LimitSettings(
        **{"address_requests_per_second": 0.1, "address_requests_burst": 3} | settings
    )


def batch(count: int) -> dict[str, Any]:
    return {"batch": [{"type": "track", **EVENT}] * count}


def waits(answer: Answer, code: str) -> int:
    """Check that *answer* is one that SDKs wait for, and for how long."""
    assert answer.status == 429
    told = answer.json()
    assert (told["success"], told["code"]) == (False, code)
    assert isinstance(told["message"], str)
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.header("Access-Control-Expose-Headers") == "Retry-After"
    return int(answer.header("Retry-After") or 0)


# --- One key -------------------------------------------------------------------------------------


async def test_a_key_that_sends_too_much_waits_and_others_do_not(make_edge: MakeEdge) -> None:
    edge = await make_edge([SHOP, SLOW, BACKEND])
    counted = Counted(REFUSED, reason="key_limited")
    for _ in range(3):
        assert (await edge.post("/v1/track", EVENT, key="slow")).status == 200
    wait = waits(await edge.post("/v1/track", EVENT, key="slow"), "key_limited")
    assert wait == 2
    assert counted.moved == 1
    for key in ("demo", "secret-1"):
        assert (await edge.post("/v1/track", EVENT, key=key)).status == 200
    assert len(await edge.events()) == 5


async def test_a_batch_counts_by_its_events_and_is_taken_whole(make_edge: MakeEdge) -> None:
    edge = await make_edge([SLOW])
    assert (await edge.post("/v1/batch", batch(10), key="slow")).status == 200
    assert waits(await edge.post("/v1/batch", batch(1), key="slow"), "key_limited") >= 14
    assert len(await edge.events()) == 10


async def test_what_is_refused_is_no_rejected_event_and_may_come_again(
    make_edge: MakeEdge,
) -> None:
    fast = SourceSettings(name="fast", write_key="fast", events_per_second=20, events_burst=1)
    edge = await make_edge([fast])
    taken = 0
    for _ in range(5):
        answer = await edge.post("/v1/track", EVENT, key="fast")
        taken += answer.status == 200
        if answer.status == 429:
            assert waits(answer, "key_limited") == 1
            await asyncio.sleep(0.06)
            assert (await edge.post("/v1/track", EVENT, key="fast")).status == 200
            taken += 1
    assert len(await edge.results()) == taken


# --- One address ---------------------------------------------------------------------------------


async def test_an_address_that_asks_too_often_waits_whatever_it_asks(make_edge: MakeEdge) -> None:
    edge = await make_edge(limits=limits())
    counted = Counted(REFUSED, reason="address_limited")
    for key in ("demo", "nobody", "secret-1"):
        assert (await edge.post("/v1/track", EVENT, key=key)).status in {200, 401}
    for path in ("/v1/track", "/v1/batch", "/v1/t", "/x/v1/b", "/beacon/v1/batch?writeKey=demo"):
        assert waits(await edge.post(path, batch(1)), "address_limited") == 10
    assert counted.moved == 5
    for path in ("/health", "/v1/projects/demo/settings"):
        assert (await edge.get(path)).status == 200
    assert (await edge.get("/v1/t", {"Origin": "https://a.example"}, "OPTIONS")).status == 204
    assert len(await edge.events()) == 2


async def test_a_pixel_stays_an_image_and_a_link_a_redirect(make_edge: MakeEdge) -> None:
    redirect = RedirectSettings(secrets=["a secret of some length"])
    edge = await make_edge(limits=limits(address_requests_burst=1), redirect=redirect)
    token = edge.ingest.links.token(Link(target="https://a.example/", source="shop"))
    words = []
    for _ in range(2):
        answer = await edge.get("/px.gif?wk=demo&e=E", {"User-Agent": BROWSER})
        assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
        words.append(answer.header("X-Collector"))
    answer = await edge.get(f"/r/{token}", {"User-Agent": BROWSER})
    assert (answer.status, answer.header("Location")) == (302, "https://a.example/")
    words.append(answer.header("X-Collector"))
    assert words == ["stored", "address_limited", "address_limited"]


async def test_the_address_is_the_one_behind_the_proxy(make_edge: MakeEdge) -> None:
    edge = await make_edge(limits=limits(address_requests_burst=1), **PROXY)
    statuses = [
        (await edge.post("/v1/track", EVENT, {"X-Forwarded-For": address})).status
        for address in (
            *("203.0.113.1", "203.0.113.2", "203.0.113.1"),
            *("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "9.9.9.9, 203.0.113.2"),
        )
    ]
    assert statuses == [200, 200, 429, 200, 429, 200, 429]


async def test_servers_of_ones_own_are_not_counted(make_edge: MakeEdge) -> None:
    edge = await make_edge(limits=limits(unlimited=["127.0.0.0/8", "2001:db8::/32"]))
    for _ in range(6):
        assert (await edge.post("/v1/track", EVENT)).status == 200
    with pytest.raises(ConfigError, match=r"limits\.unlimited"):
        Rates(limits(unlimited=["home"]), [])


async def test_without_settings_nobody_is_counted(edge: Edge) -> None:
    for _ in range(30):
        assert (await edge.post("/v1/track", EVENT)).status == 200
    assert not edge.ingest._intake.rates.by_address


# --- Buckets -------------------------------------------------------------------------------------


def test_a_flood_of_addresses_takes_bounded_memory_and_forgets_the_silent_first() -> None:
    rates = Rates(limits(addresses_max=100, address_requests_burst=1), [])
    rates.admit("203.0.113.7")
    for n in range(10_000):
        rates.admit(f"10.0.{n >> 8}.{n & 255}")
        if n < 9_950:
            with pytest.raises(Busy):
                rates.admit("203.0.113.7")
    assert len(rates._addresses) == 100
    with pytest.raises(Busy):
        rates.admit("203.0.113.7")
    rates.admit("10.0.0.0")  # forgotten


@given(
    st.floats(0.01, 1_000),
    st.integers(1, 500),
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 100)), max_size=60),
)
def test_no_more_than_burst_and_rate_is_taken_and_who_waits_as_told_is_let_in(
    rate: float, burst: int, requests: list[tuple[float, int]]
) -> None:
    buckets = Buckets(1)
    tokens, last, now = float(burst), 1_000.0, 1_000.0
    for pause, count in requests:
        now += pause
        tokens = min(burst, tokens + (now - last) * rate)  # the plain way
        last = now
        wait = buckets.take("a", count, rate, burst, now)
        if wait == 0:
            assert tokens >= 1 - 1e-3
            tokens -= count
        else:
            assert tokens < 1 + 1e-3
            if wait < RETRY_AFTER_SECONDS_MAX:
                copy = Buckets(1)
                copy._full_at = dict(buckets._full_at)
                assert copy.take("a", 1, rate, burst, now + wait) == 0
