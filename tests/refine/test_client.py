"""Client: what the request says of the visitor's device, and never of a server."""

import pytest

from tests.edge import BROWSER, FULL, Edge, read


async def test_a_browser_is_described_from_its_request(edge: Edge) -> None:
    headers = {"User-Agent": BROWSER, "Referer": "https://shop.example/cart?utm_source=a"}
    assert (await edge.post("/v1/track", FULL, headers)).status == 200
    assert read((await edge.event()).context) == {
        "ip": "127.0.0.1",
        "userAgent": BROWSER,
        "page": {"url": headers["Referer"]},
        "campaign": {"source": "a"},
    }


async def test_what_the_sdk_said_about_the_device_stays(edge: Edge) -> None:
    context = {"ip": "0.0.0.0", "userAgent": "mine", "page": {"url": "https://mine.example/"}}
    for more in ({}, {"direct": "odd"}, {"direct": 1}, {"library": 5}, {"traits": "x"}):
        headers = {"User-Agent": BROWSER, "Referer": "https://shop.example/"}
        answer = await edge.post("/v1/track", FULL | {"context": context | more}, headers)
        assert answer.status == 200
        assert read((await edge.event()).context) == context | more


@pytest.mark.parametrize(
    "library",
    [
        {"name": "analytics-python", "version": "2.4.0"},
        {"name": "analytics-node"},
        {"name": "@segment/analytics-node"},
        {"name": "@rudderstack/rudder-sdk-node"},
        {"name": "@customerio/cdp-analytics-node"},
        {"name": "analytics-ruby"},
        {"name": "analytics-go"},
        {"name": "analytics-java"},
        {"name": "analytics-php"},
        {"name": "Analytics.NET"},
        {"name": "@jitsu/js", "env": "node"},
    ],
)
async def test_a_server_is_never_taken_for_the_visitor(edge: Edge, library: dict[str, str]) -> None:
    """The default source is of kind browser, and server SDKs use it too."""
    headers = {"User-Agent": "python-requests/2", "Referer": "https://backend.example/"}
    for key in ("demo", "secret-1"):
        body = FULL | {"context": {"library": library}}
        assert (await edge.post("/v1/track", body, headers, key=key)).status == 200
        assert read((await edge.event()).context) == {"library": library}


@pytest.mark.parametrize(
    "name", ["analytics.js", "analytics-ios", "analytics-kotlin", "mine", "", 5]
)
async def test_other_libraries_run_where_the_visitor_is(edge: Edge, name: object) -> None:
    event = await edge.take(FULL | {"context": {"library": {"name": name}}}, User_Agent=BROWSER)
    assert read(event.context)["ip"] == "127.0.0.1"
    assert read(event.context)["userAgent"] == BROWSER


async def test_a_library_of_any_length_is_read(edge: Edge) -> None:
    for length in (100, 900, 1100, 100_000):
        library = {"pad": "x" * length, "name": "analytics-python"}
        event = await edge.take(FULL | {"context": {"library": library}}, User_Agent=BROWSER)
        assert read(event.context) == {"library": library}


async def test_a_server_source_is_asked_for_the_address_by_direct(edge: Edge) -> None:
    for direct, expected in ((True, "127.0.0.1"), (False, None), ("true", None), (None, None)):
        body = FULL | {"context": {"direct": direct}}
        assert (await edge.post("/v1/track", body, key="secret-1")).status == 200
        assert read((await edge.event()).context).get("ip") == expected


@pytest.mark.parametrize(
    ("agent", "kept"),
    [
        ("x" * 10_000, "x" * 2048),
        ("caf\udcc3\udca9", "café"),
        ("\udcff\udcfe", "??"),
        ("", None),
    ],
)
async def test_a_user_agent_is_text_and_has_an_end(edge: Edge, agent: str, kept: str) -> None:
    event = await edge.take(FULL, User_Agent=agent)
    assert read(event.context).get("userAgent") == kept
