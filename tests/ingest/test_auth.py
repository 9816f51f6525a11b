"""Auth: where SDKs put their write key, which one counts, and what a wrong one gets."""

import base64
import json
from typing import Any

import pytest

from collector import metrics
from collector.ingest import SourceSettings
from tests.edge import Counted, Edge, MakeEdge
from tests.rawhttp import Answer, Headers, basic, encode

REFUSED = "collector_ingest_refused_requests_total"
EVENT = {"type": "track", "event": "E", "userId": "u"}
SOURCES = [
    SourceSettings(name="header", write_key="k-header"),
    SourceSettings(name="query", write_key="k-query"),
    SourceSettings(name="basic", write_key="k-basic"),
    SourceSettings(name="body", write_key="k-body"),
    SourceSettings(name="jitsu", write_key="id:secret"),
    SourceSettings(name="odd", write_key="a/b%2F?&+=#"),
]


@pytest.fixture
async def keys(make_edge: MakeEdge) -> Edge:
    """A source for each place in which a key may stand."""
    return await make_edge(SOURCES)


def credentials(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


async def post(
    edge: Edge, body: dict[str, Any], headers: Headers = (), target: str = "/v1/track"
) -> Answer:
    return await edge.send(encode("POST", target, headers, json.dumps(body).encode()))


async def source_of(
    edge: Edge, body: dict[str, Any], headers: Headers = (), target: str = "/v1/track"
) -> str:
    answer = await post(edge, body, headers, target)
    assert answer.status == 200, answer
    return (await edge.results())[0].source


# --- where a key may stand -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        basic("k-basic"),
        credentials("k-basic:password"),
        credentials("k-basic:pass:word"),
        credentials("k-basic"),
        basic("k-basic").replace("Basic", "basic"),
        basic("k-basic").replace("Basic ", "BASIC   "),
    ],
)
async def test_the_user_of_basic_auth_is_the_key(keys: Edge, authorization: str) -> None:
    assert await source_of(keys, EVENT, {"Authorization": authorization}) == "basic"


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/v1/track", EVENT | {"writeKey": "k-body"}),
        ("/v1/t", EVENT | {"writeKey": "k-body"}),
        ("/v1/batch", {"batch": [EVENT], "writeKey": "k-body"}),
        ("/v1/import", {"batch": [EVENT], "writeKey": "k-body"}),
        ("/v1/batch", {"batch": [EVENT | {"writeKey": "k-body"}]}),
        ("/v1/b", {"batch": [EVENT, EVENT | {"writeKey": "k-body"}], "writeKey": None}),
    ],
)
async def test_the_body_may_hold_the_key(keys: Edge, target: str, body: dict[str, Any]) -> None:
    assert await source_of(keys, body, {}, target) == "body"


async def test_the_body_may_hold_the_key_also_if_it_is_read_leniently(keys: Edge) -> None:
    for path, text in (
        ("/v1/track", b'{"event":"E","n":NaN,"writeKey":"k-body"}'),
        ("/v1/batch", b'{"batch":[{"type":"track","event":"E","n":NaN}],"writeKey":"k-body"}'),
        ("/v1/batch", b'{"batch":[{"type":"track","event":"E","n":NaN,"writeKey":"k-body"}]}'),
        ("/v1/batch", b'{"batch":[5,{"type":"track","event":"E","writeKey":"k-body"}]}'),
    ):
        answer = await keys.post(path, text, key=None)
        assert answer.status == 200
        assert (await keys.results())[0].source == "body"


async def test_the_query_may_hold_the_key(keys: Edge) -> None:
    assert await source_of(keys, EVENT, {}, "/v1/track?writeKey=k-query") == "query"
    assert await source_of(keys, EVENT, {}, "/v1/track?a=b&writeKey=k%2Dquery&c") == "query"


async def test_a_header_may_hold_the_key(keys: Edge) -> None:
    assert await source_of(keys, EVENT, {"X-Write-Key": "k-header"}) == "header"
    assert await source_of(keys, EVENT, {"x-write-key": "id:secret"}) == "jitsu"


async def test_any_printable_key_works_wherever_it_fits(keys: Edge) -> None:
    key = "a/b%2F?&+=#"
    assert await source_of(keys, EVENT | {"writeKey": key}) == "odd"
    assert await source_of(keys, EVENT, {"Authorization": basic(key)}) == "odd"
    assert await source_of(keys, EVENT, {"X-Write-Key": key}) == "odd"
    quoted = "a%2Fb%252F%3F%26%2B%3D%23"
    assert await source_of(keys, EVENT, {}, f"/v1/track?writeKey={quoted}") == "odd"
    assert (await keys.get(f"/v1/projects/{quoted}/settings")).status == 200


async def test_a_bearer_token_is_no_key_and_the_body_is(keys: Edge) -> None:
    token = {"Authorization": "Bearer k-basic"}
    assert await source_of(keys, EVENT | {"writeKey": "k-body"}, token) == "body"
    batch = {"batch": [EVENT], "writeKey": "k-body"}
    assert await source_of(keys, batch, token, "/v1/batch") == "body"
    answer = await post(keys, EVENT, token)
    assert (answer.status, answer.json()["code"]) == (401, "missing_write_key")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic Og==",
        "Basic /////w==",
        "Digest x",
        "Basic é\udcff",
        "k-basic",
    ],
)
async def test_credentials_without_a_key_are_passed_over(keys: Edge, authorization: str) -> None:
    headers = {"Authorization": authorization, "X-Write-Key": ""}
    assert await source_of(keys, EVENT | {"writeKey": "k-body"}, headers) == "body"


@pytest.mark.parametrize("missing", range(4))
async def test_the_first_of_header_query_basic_body_counts(keys: Edge, missing: int) -> None:
    places = ["header", "query", "basic", "body"][missing:]
    headers = {}
    if "header" in places:
        headers["X-Write-Key"] = "k-header"
    if "basic" in places:
        headers["Authorization"] = basic("k-basic")
    target = "/v1/track?writeKey=k-query" if "query" in places else "/v1/track"
    body = EVENT | {"writeKey": "k-body"}
    assert await source_of(keys, body, headers, target) == places[0]


@pytest.mark.parametrize("place", ["header", "query", "basic"])
async def test_a_right_key_behind_a_wrong_one_does_not_count(keys: Edge, place: str) -> None:
    headers = {}
    if place == "header":
        headers["X-Write-Key"] = "wrong"
    if place == "basic":
        headers["Authorization"] = basic("wrong")
    target = "/v1/track?writeKey=wrong" if place == "query" else "/v1/track"
    answer = await post(keys, EVENT | {"writeKey": "k-body"}, headers, target)
    assert (answer.status, answer.json()["code"]) == (401, "unknown_write_key")


# --- what a wrong key gets -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/track", "/v1/t", "/v1/batch", "/v1/b", "/v1/import"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Authorization": basic("nobody")}, "unknown_write_key"),
        ({"X-Write-Key": "nobody"}, "unknown_write_key"),
        ({"X-Write-Key": "\udcff\udcfe"}, "unknown_write_key"),
        ({"Authorization": basic("DEMO")}, "unknown_write_key"),
        ({}, "missing_write_key"),
    ],
)
async def test_a_wrong_key_is_401_and_says_so(
    edge: Edge, path: str, headers: dict[str, str], code: str
) -> None:
    counted = Counted(REFUSED, reason=code)
    answer = await post(edge, EVENT | {"batch": [EVENT]}, headers, path)
    assert answer.status == 401
    told = answer.json()
    assert (told["success"], told["code"]) == (False, code)
    assert "write key" in told["message"]
    assert answer.header("Access-Control-Allow-Origin") == "*"
    # It would make a browser ask the visitor for a password.
    assert answer.header("WWW-Authenticate") is None
    assert counted.moved == 1
    (rejection,) = await edge.rejections()
    assert (rejection.code, rejection.accepted, rejection.source) == (code, False, "")
    assert rejection.detail == told["message"]


@pytest.mark.parametrize("key", [None, 42, True, {}, [], "", "nobody", "\x00", "\ud800"])
async def test_a_key_of_any_kind_in_the_body_is_judged_and_never_a_failure(
    edge: Edge, key: object
) -> None:
    for path, body in (
        ("/v1/track", EVENT | {"writeKey": key}),
        ("/v1/batch", {"batch": [EVENT], "writeKey": key}),
        ("/v1/batch", {"batch": [EVENT | {"writeKey": key}]}),
    ):
        answer = await edge.post(path, body, key=None)
        assert answer.status == 401
        assert answer.json()["code"] in {"missing_write_key", "unknown_write_key"}


async def test_a_key_may_be_told_before_the_body_is_read(edge: Edge) -> None:
    answer = await edge.post("/v1/track", b"{no json", key="nobody")
    assert answer.json()["code"] == "unknown_write_key"
    answer = await edge.post("/v1/track", b"{no json")
    assert (answer.status, answer.json()["code"]) == (400, "bad_json")


async def test_an_unknown_key_becomes_neither_a_label_nor_part_of_an_answer(edge: Edge) -> None:
    from prometheus_client import generate_latest

    answer = await edge.post("/v1/track", EVENT, key="a-stranger")
    assert b"a-stranger" not in answer.body
    assert b"a-stranger" not in generate_latest(metrics.REGISTRY)


async def test_a_refused_event_keeps_what_was_sent_but_not_the_key(keys: Edge) -> None:
    sent = {"userId": "u", "properties": {"a": 1}, "writeKey": "k-body"}
    assert (await post(keys, sent)).status == 400
    (rejection,) = await keys.rejections()
    assert rejection.source == "body"
    assert json.loads(rejection.data) == sent | {"writeKey": "***"}
    batch = {"batch": [{"type": "track", "writeKey": "k-body"}, 5], "writeKey": "k-body"}
    assert (await post(keys, batch, {}, "/v1/batch")).status == 200
    for rejection in await keys.rejections():
        assert b"k-body" not in rejection.data
    # One that nobody has may be looked at: it is how a mistake is found.
    assert (await post(keys, sent | {"writeKey": "k-bodi"})).status == 401
    (rejection,) = await keys.rejections()
    assert json.loads(rejection.data)["writeKey"] == "k-bodi"


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/projects/nobody/settings", "/v1/projects/%00%FF/settings"])
async def test_settings_of_a_key_that_nobody_has_are_not_there(edge: Edge, path: str) -> None:
    answer = await edge.get(path)
    assert (answer.status, answer.json()["code"]) == (404, "unknown_write_key")
    assert answer.header("Access-Control-Allow-Origin") == "*"


async def test_settings_may_be_asked_about_with_head(edge: Edge) -> None:
    assert (await edge.get("/v1/projects/demo/settings", method="HEAD")).status == 200


@pytest.mark.parametrize("base", ["", "/in/here", "/x"])
async def test_settings_name_the_place_at_which_they_were_asked(
    make_edge: MakeEdge, base: str
) -> None:
    edge = await make_edge(path_prefix="/in/here")
    for slash in ("", "/"):
        answer = await edge.get(f"{base}/v1/projects/demo/settings{slash}", {"Host": "e.test:81"})
        mine = answer.json()["integrations"]["Segment.io"]
        assert mine == {"apiKey": "demo", "apiHost": f"e.test:81{base}/v1", "protocol": "http"}


async def test_settings_believe_a_proxy_only_if_it_is_trusted(make_edge: MakeEdge) -> None:
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "events.shop.example"}
    for trusted, where in (
        ([], ("collector.test/v1", "http")),
        (["127.0.0.1"], ("events.shop.example/v1", "https")),
    ):
        edge = await make_edge(trusted_proxies=trusted)
        mine = (await edge.get("/v1/projects/demo/settings", told)).json()["integrations"]
        assert (mine["Segment.io"]["apiHost"], mine["Segment.io"]["protocol"]) == where


async def test_a_host_that_is_no_text_is_no_failure(edge: Edge) -> None:
    answer = await edge.get("/v1/projects/demo/settings", {"Host": "\udcff\udcfe"})
    assert answer.status in {200, 400}
    answer.json()
