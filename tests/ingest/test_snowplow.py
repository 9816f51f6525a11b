"""Snowplow's trackers: what they write becomes events; they get answers with which they go on."""

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from collector.event import Event
from collector.ingest import SourceSettings
from collector.journal import JournalSettings
from tests.edge import BROWSER, Counted, Edge, MakeEdge, read, refusal
from tests.rawhttp import Answer, basic, encode
from tests.recordings import load

SITE = SourceSettings(name="site", write_key="wk", snowplow_app_ids=["web", "app-1"])
OTHER = SourceSettings(name="other", write_key="other-key", kind="server", snowplow_app_ids=["ios"])
TP2 = "/com.snowplowanalytics.snowplow/tp2"
IGLU = "iglu:com.snowplowanalytics.snowplow"
URL = "https://shop.test/p/1?utm_source=news&q=å#top"


@pytest.fixture
async def site(make_edge: MakeEdge) -> Edge:
    return await make_edge([SITE, OTHER])


async def get(edge: Edge, **parameters: str) -> Answer:
    return await edge.get("/i?" + urlencode(parameters), {"User-Agent": BROWSER})


async def post(edge: Edge, *events: object, path: str = TP2, **headers: str) -> Answer:
    body = {"schema": f"{IGLU}/payload_data/jsonschema/1-0-4", "data": events}
    return await edge.post(
        path, body, {k.replace("_", "-"): v for k, v in headers.items()}, key=None
    )


async def event_of(edge: Edge, **parameters: str) -> Event:
    """The event of *parameters*, which must be the same by GET and by POST."""
    parameters = {"aid": "web", "eid": "id-1", **parameters}
    answer = await get(edge, **parameters)
    assert (answer.status, answer.header("X-Collector")) == (200, "stored")
    first = await edge.event()
    answer = await post(edge, parameters, User_Agent=BROWSER)
    assert (answer.status, answer.json()) == (200, {"success": True})
    second = await edge.event()
    for name in ("type", "event", "name", "category", "properties", "context", "message_id"):
        assert getattr(first, name) == getattr(second, name)
    return first


def schema(path: str, data: object) -> str:
    return json.dumps({"schema": f"iglu:{path}", "data": data})


def packed(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


# --- recorded ------------------------------------------------------------------------------------

PAGE = {"url": "https://example.com/docs?q=å", "title": "Docs", "path": "/docs", "search": "?q=å"}
OWN = {
    "app_id": "app-1",
    "platform": "srv",
    "name_tracker": "ns1",
    "v_tracker": "py-1.1.0",
}
ENTITY = {"schema": "iglu:com.example/ctx/jsonschema/1-0-0", "data": {"a": 1}}
LIBRARY = {"library": {"name": "snowplow-py", "version": "1.1.0"}}


@pytest.mark.parametrize("name", ["get-pixel", "get-pixel-nob64", "post-tp2"])
async def test_what_a_tracker_sent_is_an_event_as_it_said_it(site: Edge, name: str) -> None:
    found = []
    for request in load(f"snowplow-python/{name}"):
        answer = await site.send(request.bytes)
        assert answer.status == 200
        if request.method == "GET":
            assert answer.header("Content-Type") == "image/gif"
            assert "no-store" in (answer.header("Cache-Control") or "")
        found += await site.events()
    page, structured, described = found
    assert {event.user_id for event in found} == {"user-1"}
    assert {event.source for event in found} == {"site"}
    assert (page.type, page.name, read(page.properties)) == ("page", "Docs", PAGE)
    assert read(page.context) == LIBRARY | {"page": PAGE, "snowplow": OWN}
    assert (structured.type, structured.event, structured.category) == ("track", "buy", "shop")
    assert read(structured.properties) == {
        "category": "shop",
        "label": "x",
        "property": "p",
        "value": 9.5,
    }
    assert read(structured.context) == LIBRARY | {"snowplow": OWN}
    assert (described.type, described.event) == ("track", "order")
    assert read(described.properties) == {"total": 19.99, "name": "Å"}
    order = "iglu:com.example/order/jsonschema/1-0-0"
    assert read(described.context)["snowplow"] == OWN | {"schema": order, "contexts": [ENTITY]}
    for event in found:
        assert event.original_timestamp
        assert event.sent_at
        skew = event.received_at - event.sent_at
        assert event.timestamp == event.original_timestamp + skew
        assert len(event.message_id) == 36


# --- events --------------------------------------------------------------------------------------


async def test_a_page_view_of_a_browser_is_as_everybodys(site: Edge) -> None:
    event = await event_of(
        site,
        e="pv",
        url=URL,
        page="One",
        refr="https://a.test/",
        p="web",
        duid="d",
        nuid="n",
        sid="s",
        vid="3",
        lang="nb",
        tz="Europe/Oslo",
        res="1280x720",
        vp="800x600",
        tv="js-4.6.8",
        cookie="1",
        f_pdf="1",
    )
    page = {
        "url": URL,
        "title": "One",
        "referrer": "https://a.test/",
        "path": "/p/1",
        "search": "?utm_source=news&q=å",
    }
    assert (event.type, event.name, read(event.properties)) == ("page", "One", page)
    assert (event.user_id, event.anonymous_id) == (None, "d")
    assert read(event.context) == {
        "page": page,
        "locale": "nb",
        "timezone": "Europe/Oslo",
        "screen": {"width": 1280, "height": 720},
        "library": {"name": "snowplow-js", "version": "4.6.8"},
        "campaign": {"source": "news"},
        "ip": "127.0.0.1",
        "userAgent": BROWSER,
        "snowplow": {
            "app_id": "web",
            "platform": "web",
            "domain_userid": "d",
            "network_userid": "n",
            "domain_sessionid": "s",
            "domain_sessionidx": "3",
            "viewport": "800x600",
            "v_tracker": "js-4.6.8",
            "cookie": "1",
            "f_pdf": "1",
        },
    }


CLICK = {
    "schema": f"{IGLU}/link_click/jsonschema/1-0-1",
    "data": {"targetUrl": "u", "n": 12345678901234567890},
}
EVENTS: list[tuple[dict[str, str], str, dict[str, Any]]] = [
    (
        {"e": "pp", "pp_mix": "0", "pp_max": "7", "pp_miy": "-1", "pp_may": "x"},
        "Page Ping",
        {"min_x": 0, "max_x": 7, "min_y": -1, "max_y": "x"},
    ),
    (
        {"e": "se", "se_ca": "c", "se_ac": "a", "se_va": "1e400"},
        "a",
        {"category": "c", "value": "1e400"},
    ),
    (
        {
            "e": "tr", "tr_id": "o1", "tr_tt": "19.90", "tr_tx": "1", "tr_sh": "0",
            "tr_af": "shop", "tr_cu": "NOK", "tr_ci": "Oslo",
        },
        "Order Completed",
        {
            "order_id": "o1", "total": 19.9, "tax": 1, "shipping": 0, "affiliation": "shop",
            "currency": "NOK", "city": "Oslo",
        },
    ),
    (
        {"e": "ti", "ti_id": "o1", "ti_sk": "s", "ti_pr": "9.95", "ti_qu": "2", "ti_nm": "N"},
        "Transaction Item",
        {"order_id": "o1", "sku": "s", "price": 9.95, "quantity": 2, "name": "N"},
    ),
    (
        {
            "e": "ue",
            "ue_px": packed(schema("x/unstruct_event/y", CLICK)),
        },
        "link_click",
        {"targetUrl": "u", "n": 12345678901234567890},
    ),
    ({"e": "ue", "ue_pr": '{"data":{"schema":"odd","data":null}}'}, "odd", {}),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "name", "properties"), EVENTS)
async def test_each_event_is_a_track_call(
    site: Edge, parameters: dict[str, str], name: str, properties: dict[str, Any]
) -> None:
    event = await event_of(site, **parameters)
    assert (event.type, event.event) == ("track", name)
    assert (read(event.properties) or {}) == properties


async def test_a_screen_view_is_a_screen(site: Edge) -> None:
    data = {"schema": f"{IGLU}/screen_view/jsonschema/1-0-0", "data": {"name": "Home", "id": "1"}}
    event = await event_of(site, e="ue", ue_pr=schema("x/unstruct_event/y", data))
    assert (event.type, event.name) == ("screen", "Home")
    assert read(event.properties) == {"name": "Home", "id": "1"}


SESSION = {"schema": f"{IGLU}/client_session/jsonschema/1-0-2", "data": {"userId": "install-1"}}


@pytest.mark.parametrize(
    ("ids", "user", "anonymous"),
    [
        ({"uid": "u", "duid": "d", "nuid": "n"}, "u", "d"),
        ({"nuid": "n", "tnuid": "t"}, None, "n"),
        ({"tnuid": "t"}, None, "t"),
        ({"co": schema("x/contexts/y", [ENTITY, SESSION]), "nuid": "n"}, None, "install-1"),
        ({"cx": packed(schema("x/contexts/y", [SESSION])), "uid": "u"}, "u", "install-1"),
        ({"uid": "u"}, "u", None),
    ],
)
async def test_who_it_was(
    site: Edge, ids: dict[str, str], user: str | None, anonymous: str | None
) -> None:
    event = await event_of(site, e="pv", **ids)
    assert (event.user_id, event.anonymous_id) == (user, anonymous)


async def test_nobodys_events_get_ids_and_the_same_ones_again(site: Edge) -> None:
    await post(site, {"e": "pv", "aid": "web"}, {"e": "pv", "aid": "web"})
    first, second = await site.events()
    assert first.anonymous_id == second.anonymous_id  # one device
    assert first.message_id != second.message_id


async def test_the_time_that_is_meant_stands_and_odd_ones_are_flagged(site: Edge) -> None:
    event = await event_of(site, e="pv", dtm="1000", stm="2000", ttm="1582977599123")
    assert event.timestamp == 1_582_977_599_123_000
    event = await event_of(site, e="pv", dtm="never", stm="9" * 50)
    assert event.timestamp == event.received_at
    assert read(event.extra)["collector"]["flags"] == ["clock_unusable"]


# --- whose ---------------------------------------------------------------------------------------


async def test_an_app_belongs_to_the_source_that_lists_it(site: Edge) -> None:
    for app, source in (("web", "site"), ("app-1", "site"), ("ios", "other"), ("wk", "site")):
        assert (await event_of(site, e="pv", aid=app)).source == source


async def test_an_app_id_that_is_a_write_key_is_not_kept(site: Edge) -> None:
    event = await event_of(site, e="pv", aid="wk", tna="n")
    assert read(event.context)["snowplow"] == {"name_tracker": "n"}
    await get(site, e="ue", aid="wk")
    await post(site, {"e": "ue", "aid": "wk"})
    await post(site, {"e": "ue", "aid": "wk"}, {"e": "pv", "aid": "wk"})
    await site.post(TP2, b'{"data":[{"aid":"wk",]}', key=None)
    results = await site.results()
    assert len(results) == 5
    assert not any(b"wk" in one.data for one in results if not isinstance(one, Event))


async def test_a_key_in_the_request_counts_before_the_app(site: Edge) -> None:
    body = {"data": [{"e": "pv", "aid": "nobody"}]}
    for path, headers in (
        (TP2, {"Authorization": basic("wk")}),
        (TP2, {"X-Write-Key": "wk"}),
        (f"{TP2}?writeKey=wk", {}),
    ):
        assert (await site.post(path, body, headers, key=None)).status == 200
        assert (await site.event()).source == "site"
    answer = await site.post(TP2, body, {"X-Write-Key": "wrong"}, key=None)
    assert refusal(answer) == (401, "unknown_write_key")
    answer = await site.get("/i?e=pv&aid=x&writeKey=wk")
    assert answer.status == 200
    assert b"writeKey" not in ((await site.events())[0].context or b"")


@pytest.mark.parametrize("app", ["nobody", "", None])
async def test_an_unknown_app_is_401_which_no_tracker_tries_again(
    site: Edge, app: str | None
) -> None:
    parameters = {"e": "pv"} | ({} if app is None else {"aid": app})
    refused = Counted("collector_ingest_refused_requests_total", reason="unknown_app_id")
    answer = await get(site, **parameters)
    assert (answer.status, answer.header("X-Collector")) == (401, "unknown_app_id")
    assert answer.header("Content-Type") == "image/gif"
    assert refusal(await post(site, parameters)) == (401, "unknown_app_id")
    assert refused.moved == 2
    kept = await site.rejections()
    assert [one.code for one in kept] == ["unknown_app_id"] * 2
    assert all((app or "pv").encode() in one.data for one in kept)


async def test_events_of_several_apps_go_where_they_belong(site: Edge) -> None:
    answer = await post(
        site,
        *(
            {"e": "pv", "aid": app, "eid": f"{n}"}
            for n, app in enumerate(["web", "ios", "no", "web"])
        ),
    )
    assert (answer.status, answer.json()["rejected_count"]) == (200, 1)
    assert answer.json()["rejected"][0]["index"] == 2
    results = await site.results()
    assert sorted((one.source, one.message_id) for one in results if isinstance(one, Event)) == [
        *(("other", "1"), ("site", "0"), ("site", "3")),
    ]
    assert site.journal.accepted == {"site": 3, "other": 1}


async def test_what_a_server_sends_has_no_persons_address(site: Edge) -> None:
    for more in ({"p": "srv"}, {"p": "web", "aid": "ios"}):
        context = read((await event_of(site, e="pv", **more)).context)
        assert not {"ip", "userAgent"} & set(context)
    await post(site, {"e": "pv", "aid": "web"}, SP_Anonymous="*")
    assert "ip" not in read((await site.event()).context)


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"e": "ue", "aid": "web"}, "missing_event"),
        ({"e": "ue", "aid": "web", "ue_px": "!!"}, "bad_base64"),
        ({"e": "ue", "aid": "web", "ue_pr": "{"}, "bad_json"),
        ({"e": "ue", "aid": "web", "ue_pr": "[]"}, "not_an_object"),
        ({"e": "ue", "aid": "web", "ue_pr": '{"data":5}'}, "wrong_type"),
        ({"e": "se", "aid": "web"}, "missing_event"),
        ({"e": "xx", "aid": "web"}, "unknown_type"),
        ({"aid": "web"}, "missing_type"),
        ({"e": "pv", "aid": "web", "co": "{"}, "bad_json"),
        ({"e": "pv", "aid": "web", "uid": "x" * 600}, "id_too_long"),
    ],
)
async def test_what_is_wrong_with_an_event_is_told_and_costs_no_neighbour(
    site: Edge, event: dict[str, str], code: str
) -> None:
    answer = await get(site, **event)
    assert (answer.status, answer.header("X-Collector")) == (400, code)
    assert answer.header("Content-Type") == "image/gif"
    assert [one.code for one in await site.rejections()] == [code]
    good = {"e": "pv", "aid": "web", "eid": "good"}
    answer = await post(site, good, event, good)
    assert answer.status == 200
    assert [(one["index"], one["code"]) for one in answer.json()["rejected"]] == [(1, code)]
    results = await site.results()
    assert [one.message_id for one in results if isinstance(one, Event)] == ["good", "good"]
    assert [one.code for one in results if not isinstance(one, Event)] == [code]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"[]", "bad_json"),
        (b"{}", "missing_batch"),
        (b'{"data":5}', "missing_batch"),
        (b'{"data":[5]}', "not_an_object"),
    ],
)
async def test_a_body_of_which_nothing_can_be_read_is_400(
    site: Edge, body: bytes, code: str
) -> None:
    answer = await site.post(TP2, body, key=None)
    assert refusal(answer) == (400, code)


async def test_values_that_are_no_text_are_read_as_what_they_are(site: Edge) -> None:
    odd = {"e": "se", "aid": "web", "se_ac": "a", "se_va": 9.5, "dtm": 1000, "x": None, "y": [1]}
    assert (await post(site, odd, 5)).status == 200
    (event,) = await site.events()
    assert read(event.properties) == {"category": "", "value": 9.5}
    assert event.original_timestamp == 1_000_000_000
    assert read(event.context)["snowplow"]["y"] == "[1]"


async def test_when_the_disk_is_full_a_tracker_is_told_to_try_again(make_edge: MakeEdge) -> None:
    edge = await make_edge([SITE], JournalSettings(total_bytes_max=1))
    assert (await get(edge, e="pv", aid="web")).status == 200
    for answer in (await get(edge, e="pv", aid="web"), await post(edge, {"e": "pv", "aid": "web"})):
        assert refusal(answer) == (503, "journal_full")  # no image: it would count as sent


async def test_pages_of_listed_origins_may_send_with_credentials(make_edge: MakeEdge) -> None:
    listed = SourceSettings(
        name="site", write_key="wk", snowplow_app_ids=["web"], origins=["https://shop.test"]
    )
    edge = await make_edge([listed])
    headers = {"Origin": "https://shop.test", "Access-Control-Request-Method": "POST"}
    asked = {"Access-Control-Request-Headers": "content-type,sp-anonymous"}
    answer = await edge.send(encode("OPTIONS", TP2, headers | asked))
    assert answer.header("Access-Control-Allow-Origin") == "https://shop.test"
    assert answer.header("Access-Control-Allow-Credentials") == "true"
    assert answer.header("Access-Control-Allow-Headers") == asked["Access-Control-Request-Headers"]
    assert (await post(edge, {"e": "pv", "aid": "web"}, Origin="https://shop.test")).status == 200
    answer = await post(edge, {"e": "pv", "aid": "web"}, Origin="https://other.test")
    assert answer.status == 403


async def test_a_tracker_may_have_a_post_path_of_its_own(make_edge: MakeEdge) -> None:
    edge = await make_edge([SITE], snowplow_paths=["/com.acme/track"])
    for path in ("/com.acme/track", "/x/com.acme/track", TP2):
        assert (await post(edge, {"e": "pv", "aid": "web"}, path=path)).status == 200
    assert (await post(edge, {"e": "pv", "aid": "web"}, path="/com.other/track")).status == 404
    assert (await edge.get("/i?e=pv&aid=web", method="HEAD")).header(
        "X-Collector"
    ) == "not_recorded"
    assert len(await edge.events()) == 3
