"""Senders that speak Segment's calls at paths of their own: RudderStack, Jitsu, apps, CDP."""

import base64
import gzip
import json
from datetime import datetime
from typing import Any

import pytest

from collector.ingest import SourceSettings
from tests.edge import BROWSER, Counted, Edge, MakeEdge, read, refusal
from tests.rawhttp import basic, chunked, encode

EVENT = {"event": "E", "userId": "u"}
PAIR = SourceSettings(name="jitsu", write_key="id:secret")


# --- RudderStack ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/sourceConfig", "/sourceConfig/", "/x/sourceConfig"])
@pytest.mark.parametrize("key", ["header", "query"])
async def test_rudder_finds_a_source_without_destinations(edge: Edge, path: str, key: str) -> None:
    query = "?p=npm&v=3.34.1&build=modern&writeKey=demo&lockIntegrationsVersion=true"
    if key == "header":
        answer = await edge.get(path, {"Authorization": basic("demo")})
    else:
        answer = await edge.get(path + query)
    assert answer.status == 200
    source = answer.json()["source"]
    assert source["enabled"] is True
    assert source["destinations"] == []
    assert source["id"] == "shop"
    # Reports would go to /rsaMetrics; nobody here reads them.
    assert not source["config"]["statsCollection"]["errors"]["enabled"]
    assert datetime.fromisoformat(source["updatedAt"])  # apps read it
    assert answer.header("Access-Control-Allow-Origin") == "*"


async def test_rudder_is_told_that_nothing_blocks_it(edge: Edge) -> None:
    for headers in ({"Authorization": basic("demo")}, {}):
        answer = await edge.get("/sourceConfig/?view=ad", headers, method="HEAD")
        assert answer.status == 200
    assert await edge.results() == []


async def test_rudder_with_a_key_that_nobody_has_finds_no_source(edge: Edge) -> None:
    answer = await edge.get("/sourceConfig", {"Authorization": basic("nobody")})
    assert refusal(answer) == (404, "unknown_write_key")
    assert refusal(await edge.get("/sourceConfig")) == (404, "missing_write_key")
    assert refusal(await edge.post("/sourceConfig", {})) == (405, "wrong_method")
    assert [r.code for r in await edge.rejections()] == ["unknown_write_key", "missing_write_key"]


async def test_rudder_may_send_beacons(edge: Edge) -> None:
    body = json.dumps({"batch": [EVENT | {"type": "track"}], "sentAt": "2026-01-01T00:00:00Z"})
    for path in ("/beacon/v1/batch", "/x/beacon/v1/batch"):
        data = encode(
            "POST", f"{path}?writeKey=demo", {"Content-Type": "text/plain"}, body.encode()
        )
        answer = await edge.send(data)
        assert (answer.status, answer.json()) == (200, {"success": True})
        assert (await edge.event()).user_id == "u"
    answer = await edge.post("/beacon/v1/batch?writeKey=wrong", body.encode(), key=None)
    assert refusal(answer) == (401, "unknown_write_key")


async def test_rudder_may_report_about_itself(edge: Edge) -> None:
    counted = Counted("collector_ingest_sdk_metrics_total")
    assert (await edge.post("/rsaMetrics", {"metrics": []}, key=None)).status == 200
    assert counted.moved == 1
    assert refusal(await edge.post("/rsaMetrics", b"{", key=None)) == (400, "bad_json")
    assert await edge.results() == []


@pytest.mark.parametrize("call", ["track", "page"])
async def test_rudder_has_pixels(edge: Edge, call: str) -> None:
    query = "writeKey=demo&anonymousId=a1&event=Opened&properties.subject=Hi&context.page.url=u"
    answer = await edge.get(f"/pixel/v1/{call}?{query}")
    assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
    event = await edge.event()
    assert (event.type, event.anonymous_id) == (call, "a1")
    assert read(event.properties) == {"subject": "Hi"}
    answer = await edge.get(f"/pixel/v1/{call}?writeKey=nobody&event=E")
    assert (answer.status, answer.header("X-Collector")) == (200, "unknown_write_key")


async def test_headers_of_rudder_are_let_through_and_change_nothing(edge: Edge) -> None:
    asked = "anonymousid,authorization,content-type,rsa-recovered,rsa-retry-attempt,sentat"
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": asked}
    for path in ("/v1/track", "/sourceConfig/", "/beacon/v1/batch", "/rsaMetrics"):
        answer = await edge.send(encode("OPTIONS", path, headers | {"Origin": "http://shop.test"}))
        assert answer.status == 204
        assert answer.header("Access-Control-Allow-Headers") == asked
    told = {"AnonymousId": "YW5vbi0x", "SentAt": "2026-11-22T00:02:36.048Z"}
    await edge.post("/v1/track", EVENT, told)
    event = await edge.event()
    assert (event.anonymous_id, event.sent_at) == (None, None)


async def test_a_form_that_is_gzip_is_json(edge: Edge) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps({"batch": [EVENT | {"type": "track"}]}).encode())
    assert (await edge.post("/v1/batch", body, headers)).status == 200
    assert (await edge.event()).event == "E"


# --- Jitsu ---------------------------------------------------------------------------------------

JITSU = {"type": "track", "event": "E", "userId": None, "anonymousId": "a", "writeKey": "id:***"}


@pytest.mark.parametrize("type_", ["track", "identify", "page", "screen", "group", "alias"])
async def test_jitsu_has_a_path_for_each_call(make_edge: MakeEdge, type_: str) -> None:
    edge = await make_edge([PAIR])
    body = JITSU | {"type": type_, "groupId": "g", "userId": "u", "previousId": "p"}
    for path in ("/api/s/", "/api/s/s2s/", "/x/api/s/"):
        answer = await edge.post(path + type_, body, {"X-Write-Key": "id:secret"}, key=None)
        assert (answer.status, answer.json()) == (200, {"success": True})
        event = await edge.event()
        assert (event.type, event.source, event.user_id) == (type_, "jitsu", "u")


async def test_what_a_server_sends_has_no_persons_address(make_edge: MakeEdge) -> None:
    edge = await make_edge([PAIR])
    headers = {"X-Write-Key": "id:secret", "User-Agent": BROWSER}
    await edge.post("/api/s/track", JITSU, headers, key=None)
    await edge.post("/api/s/s2s/track", JITSU, headers, key=None)
    by_person, by_server = await edge.events()
    assert read(by_person.context) == {"ip": "127.0.0.1", "userAgent": BROWSER}
    assert by_server.context is None


@pytest.mark.parametrize(("policy", "kept"), [("keep", True), ("remove", False), ("x", False)])
async def test_a_page_may_ask_that_no_address_be_kept(
    make_edge: MakeEdge, policy: str, kept: bool
) -> None:
    edge = await make_edge([PAIR])
    headers = {"X-Write-Key": "id:secret", "X-IP-Policy": policy}
    await edge.post("/api/s/track", JITSU, headers, key=None)
    assert ((await edge.event()).context is not None) is kept


async def test_a_masked_key_in_the_body_is_not_asked(make_edge: MakeEdge) -> None:
    edge = await make_edge([PAIR])
    for masked in ("id:***", "***", "demo"):
        body = JITSU | {"writeKey": masked}
        answer = await edge.post("/api/s/track", body, {"X-Write-Key": "id:secret"}, key=None)
        assert answer.status == 200
    answer = await edge.post("/api/s/track", JITSU, {"X-Write-Key": "id:wrong"}, key=None)
    assert refusal(answer) == (401, "unknown_write_key")
    assert refusal(await edge.post("/api/s/track", JITSU, key=None)) == (401, "unknown_write_key")


@pytest.mark.parametrize(
    ("key", "sent", "taken"),
    [
        ("id:secret", "id:secret", True),
        ("id:secret", "id:other", False),
        ("id:secret", "id", False),
        ("id:secret", "id:", False),
        ("id", "id:secret", True),
        ("id", "id:anything:else", True),
        ("id", "other:id", False),
    ],
)
@pytest.mark.parametrize("place", ["header", "basic", "query"])
async def test_a_pair_asks_for_both_and_an_id_alone_for_itself(
    make_edge: MakeEdge, key: str, sent: str, taken: bool, place: str
) -> None:
    edge = await make_edge([SourceSettings(name="pair", write_key=key)])
    headers, path = {}, "/v1/track"
    if place == "header":
        headers["X-Write-Key"] = sent
    elif place == "query":
        path += f"?writeKey={sent}"
    else:
        headers["Authorization"] = "Basic " + base64.b64encode(sent.encode()).decode()
    answer = await edge.post(path, EVENT, headers, key=None)
    assert answer.status == (200 if taken else 401)


# --- Apps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/b", "/b", "/v1/import", "/v1/batch", "/x/b"])
async def test_an_app_sends_chunks_of_gzip_and_its_key_in_the_body(edge: Edge, path: str) -> None:
    body = {"batch": [EVENT | {"type": "track"}], "sentAt": "2026-01-01T00:00:00Z"}
    packed = gzip.compress(json.dumps(body | {"writeKey": "demo"}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    request = encode("POST", path, headers | {"Transfer-Encoding": "chunked"}, chunked(packed, 50))
    answer = await edge.send(request)
    assert (answer.status, answer.json()) == (200, {"success": True})
    assert (await edge.event()).source == "shop"


@pytest.mark.parametrize("base", ["/v1", "", "/x/v1", "/x"])
async def test_an_app_finds_settings_with_and_without_v1(edge: Edge, base: str) -> None:
    for slash in ("", "/"):
        answer = await edge.get(f"{base}/projects/demo/settings{slash}", {"Host": "e.test"})
        mine = answer.json()["integrations"]["Segment.io"]
        assert (
            mine["apiHost"] == f"e.test{base.removesuffix('/v1')}/v1"
        )  # it replaces the app's own
        assert mine["apiKey"] == "demo"
    assert (await edge.get("/projects/nobody/settings")).status == 404
    assert refusal(await edge.post("/projects/demo/settings", {})) == (405, "wrong_method")


# --- Customer.io Data Pipelines ------------------------------------------------------------------


async def test_the_settings_of_each_vendor_name_its_own_integration_alone(edge: Edge) -> None:
    found: list[Any] = []
    for base in ("", "/cio"):
        answer = await edge.get(f"{base}/v1/projects/demo/settings", {"Host": "e.test"})
        assert answer.status == 200
        found.append(answer.json()["integrations"])
    where = {"apiKey": "demo", "apiHost": "e.test/v1", "protocol": "http"}
    assert found == [{"Segment.io": where}, {"Customer.io Data Pipelines": where}]
    answer = await edge.get("/x/cio/v1/projects/demo/settings/", method="HEAD")
    assert answer.status == 200


@pytest.mark.parametrize("strict", [{}, {"X-Strict-Mode": "1"}, {"X-Strict-Mode": "0"}])
async def test_we_are_always_strict(edge: Edge, strict: dict[str, str]) -> None:
    assert refusal(await edge.post("/v1/track", {}, strict)) == (400, "missing_event")
    assert refusal(await edge.post("/v1/track", EVENT, strict, key="no")) == (
        401,
        "unknown_write_key",
    )
    # One bad event never costs a batch the others.
    batch = {"batch": [EVENT | {"type": "track"}, {"type": "track"}]}
    answer = await edge.post("/v1/batch", batch, strict)
    assert (answer.status, answer.json()["rejected_count"]) == (200, 1)
