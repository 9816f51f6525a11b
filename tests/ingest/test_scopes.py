"""Scopes: a key that everybody can read is believed less than one that stays on a server."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from collector.config import Config
from collector.event import Event
from collector.ingest import SourceSettings
from tests.edge import BACKEND, BROWSER, SHOP, Edge, MakeEdge, read

EVENT = {"event": "E", "userId": "u"}
AGENT = {"User-Agent": BROWSER}
BOUNDED = SourceSettings(name="shop", write_key="demo", timestamp_days_max=90)
SERVER_LIBRARY = {"name": "analytics-python", "version": "1"}


def ago(**delta: float) -> str:
    return (datetime.now(UTC) - timedelta(**delta)).isoformat()


async def sent(edge: Edge, members: dict[str, Any], key: str = "demo") -> Event:
    assert (await edge.post("/v1/track", EVENT | members, AGENT, key=key)).status == 200
    return await edge.event()


def said(event: Event) -> Any:
    return (read(event.extra) or {}).get("collector")


# --- The address ---------------------------------------------------------------------------------


async def test_a_browser_key_cannot_say_where_it_sends_from(edge: Edge) -> None:
    event = await sent(edge, {"context": {"ip": "203.0.113.9", "locale": "de"}})
    assert read(event.context) == {"ip": "127.0.0.1", "locale": "de", "userAgent": BROWSER}
    assert said(event) == {"flags": ["ip_replaced"], "claims": {"ip": "203.0.113.9"}}


async def test_nor_does_it_become_a_servers_address(edge: Edge) -> None:
    """Who says to be a server's library is not believed more than others."""
    event = await sent(edge, {"context": {"ip": "203.0.113.9", "library": SERVER_LIBRARY}})
    assert read(event.context)["ip"] is None
    assert said(event)["claims"] == {"ip": "203.0.113.9"}


async def test_a_mixed_source_believes_the_sdks_of_servers(make_edge: MakeEdge) -> None:
    (default,) = Config().sources
    edge = await make_edge([default])
    event = await sent(edge, {"context": {"ip": "203.0.113.9", "library": SERVER_LIBRARY}})
    assert read(event.context)["ip"] == "203.0.113.9"
    event = await sent(edge, {"context": {"ip": "203.0.113.9"}})
    assert read(event.context)["ip"] == "127.0.0.1"


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "", None])
async def test_it_can_ask_that_none_is_kept(edge: Edge, ip: str | None) -> None:
    event = await sent(edge, {"context": {"ip": ip}})
    assert read(event.context)["ip"] == ip
    assert said(event) is None


@pytest.mark.parametrize("odd", [1, {"a": 1}, ["203.0.113.9"], "x" * 1_000, "ä\\u0000", True])
async def test_an_odd_claim_is_kept_in_part_and_replaced_all_the_same(
    edge: Edge, odd: object
) -> None:
    event = await sent(edge, {"context": {"ip": odd}})
    assert read(event.context)["ip"] == "127.0.0.1"
    assert len(said(event)["claims"]["ip"]) <= 100


async def test_an_image_cannot_either(edge: Edge) -> None:
    await edge.get("/px.gif?wk=demo&e=E&c.ip=203.0.113.9", AGENT)
    assert read((await edge.event()).context)["ip"] == "127.0.0.1"


async def test_a_server_key_speaks_for_its_persons(edge: Edge) -> None:
    members = {"context": {"ip": "203.0.113.9"}, "timestamp": "2001-01-01T00:00:00Z"}
    event = await sent(edge, members, key="secret-1")
    assert read(event.context) == {"ip": "203.0.113.9"}
    assert event.timestamp == event.original_timestamp == 978_307_200_000_000
    assert said(event) is None


# --- Times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "bound", "believed"),
    [(89, 90, True), (91, 90, False), (2, 1, False), (0.9, 1, True), (9_000, 0, True)],
)
async def test_a_browser_key_tells_nothing_of_long_ago(
    make_edge: MakeEdge, days: float, bound: int, believed: bool
) -> None:
    edge = await make_edge([SourceSettings(name="s", write_key="demo", timestamp_days_max=bound)])
    written = ago(days=days)
    event = await sent(edge, {"timestamp": written})
    at = int(datetime.fromisoformat(written).timestamp() * 1e6)
    assert abs((event.original_timestamp or 0) - at) <= 1
    if believed:
        assert abs(event.timestamp - at) <= 1
        assert said(event) is None
    else:
        assert event.timestamp == event.received_at
        assert said(event) == {"flags": ["timestamp_too_old"], "times": {"timestamp": written}}


async def test_a_wrong_clock_is_corrected_first(make_edge: MakeEdge) -> None:
    """A device that is years behind sends in time all the same."""
    edge = await make_edge([BOUNDED])
    times = {"timestamp": "2001-01-01T00:00:00Z", "sentAt": "2001-01-01T00:00:10Z"}
    event = await sent(edge, times)
    assert event.timestamp == event.received_at - 10_000_000
    assert said(event) is None


async def test_both_times_of_rudderstack_are_bounded(make_edge: MakeEdge) -> None:
    edge = await make_edge([BOUNDED])
    times = {"originalTimestamp": ago(days=500), "timestamp": ago(days=400), "sentAt": ago()}
    event = await sent(edge, times)
    assert event.timestamp == event.received_at
    assert said(event)["times"] == times


async def test_each_event_of_a_batch_is_judged_alone(make_edge: MakeEdge) -> None:
    edge = await make_edge([BOUNDED])
    batch = [{"type": "track", **EVENT, "timestamp": ago(days=n)} for n in (1, 200, 2)]
    assert (await edge.post("/v1/batch", {"batch": batch}, AGENT)).status == 200
    flags = [(said(event) or {}).get("flags") for event in await edge.events()]
    assert flags == [None, ["timestamp_too_old"], None]


async def test_received_at_is_ours(edge: Edge) -> None:
    for key in ("demo", "secret-1"):
        event = await sent(edge, {"receivedAt": "2001-01-01T00:00:00Z"}, key=key)
        assert event.received_at > 1_700_000_000_000_000
        assert read(event.extra)["receivedAt"] == "2001-01-01T00:00:00Z"


# --- Origins -------------------------------------------------------------------------------------


async def test_a_page_that_is_not_listed_is_refused_with_a_browser_key(make_edge: MakeEdge) -> None:
    listed = SourceSettings(name="s", write_key="demo", origins=["https://shop.example"])
    edge = await make_edge([listed, BACKEND])
    for path in ("/v1/track", "/v1/t", "/x/v1/track", "/beacon/v1/batch?writeKey=demo"):
        answer = await edge.post(path, EVENT, AGENT | {"Origin": "https://evil.example"})
        assert (answer.status, answer.json()["code"]) == (403, "origin_not_allowed")
    answer = await edge.post("/v1/track", EVENT, AGENT | {"Origin": "https://shop.example"})
    assert answer.status == 200
    assert len(await edge.events()) == 1


def test_a_key_is_a_browsers_unless_it_says_otherwise() -> None:
    assert (SHOP.kind, BACKEND.kind) == ("browser", "server")
    assert SHOP.timestamp_days_max == 0
