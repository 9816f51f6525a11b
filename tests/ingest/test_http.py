"""HTTP: paths, methods and stopping, as this port has them; test_conformance.py has the rest."""

import asyncio
import json

import pytest

from tests.edge import Edge, MakeEdge
from tests.rawhttp import Wire, basic, encode

EVENT = b'{"event":"E","userId":"u"}'
AUTHORIZATION = {"Authorization": basic("demo")}
POST = encode("POST", "/v1/track", AUTHORIZATION, EVENT)


@pytest.mark.parametrize(
    "target",
    [
        *("/", "/v1", "/v1/", "/v1/trac", "/v1//track", "/v2/track", "/v1/track/more", "/V1/TRACK"),
        *("/v1/projects//settings", "/v1/projects/demo", "/v1/projects/a/b/settings", "/metrics"),
        *("/x", "/x/", "/x/x/v1/track", "/v1/%74rack", "/%2e%2e", "/.env", "http://b.test/c"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_what_is_nowhere_is_404_in_json(edge: Edge, method: str, target: str) -> None:
    answer = await edge.send(encode(method, target, {}, b"{}"))
    told = answer.json()
    assert (answer.status, told["code"], told["success"]) == (404, "not_found", False)
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.header("Location") is None


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/track", "POST"),
        ("/v1/b/", "POST"),
        ("/x/v1/import", "POST"),
        ("/v1/m", "POST"),
        ("/health", "GET, HEAD"),
        ("/px.gif", "GET, HEAD"),
        ("/v1/projects/demo/settings", "GET, HEAD"),
    ],
)
async def test_another_method_is_405_in_json_and_says_which_works(
    edge: Edge, path: str, allow: str
) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - set(allow.split(", ")):
        answer = await edge.send(encode(method, path, AUTHORIZATION, EVENT))
        told = answer.json()
        assert (answer.status, told["code"]) == (405, "wrong_method")
        assert answer.header("Allow") == allow
        assert allow.replace(", ", " or ") in told["message"]
    assert await edge.results() == []


@pytest.mark.parametrize("path", ["/v1/track", "/v1/t", "/v1/batch", "/v1/projects/demo/settings"])
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("host", ["collector.test", "www.collector.test:80", "evil.test"])
async def test_nothing_is_ever_a_redirect(edge: Edge, path: str, slash: str, host: str) -> None:
    """A POST that is redirected becomes a GET without a body, and counts as delivered."""
    body = json.dumps({"event": "E", "batch": []}).encode()
    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        headers = AUTHORIZATION | {"Host": host, "X-Forwarded-Proto": "http"}
        answer = await edge.send(encode(method, path + slash, headers, body), head=method == "HEAD")
        assert answer.status < 300 or answer.status >= 400
        assert answer.header("Location") is None


async def test_an_address_may_come_whole(edge: Edge) -> None:
    """As it is sent to a proxy."""
    target = "http://collector.test/v1/track?writeKey=demo"
    assert (await edge.send(encode("POST", target, {}, EVENT))).status == 200
    assert (await edge.event()).event == "E"
    assert (await edge.send(encode("CONNECT", "collector.test:443"))).status in {400, 404, 405}


async def test_a_body_that_nobody_read_is_not_the_next_request(edge: Edge) -> None:
    """Its bytes would be taken for a request of whoever shares the connection."""
    async with await Wire.open(edge.port) as wire:
        await wire.send(encode("POST", "/v1/nothing", {}, POST) + encode("GET", "/health"))
        assert (await wire.answer()).status == 404
        assert (await wire.answer()).body == b'{"status":"ok"}'
    async with await Wire.open(edge.port) as wire:  # all the more if it did not come at once
        await wire.send(encode("POST", "/v1/nothing", {"Content-Length": str(len(POST))}))
        assert (await wire.answer()).status == 404
        await wire.send(POST)
        assert await wire.closed(5) == b""
    assert await edge.results() == []


@pytest.mark.parametrize("sent", [5, len(EVENT)])
async def test_a_stop_answers_what_is_under_way_and_closes_the_rest(
    make_edge: MakeEdge, sent: int
) -> None:
    edge = await make_edge(stop_seconds=5)
    async with await Wire.open(edge.port) as idle, await Wire.open(edge.port) as busy:
        await busy.send(POST[:-sent])
        await asyncio.sleep(0.1)
        stop = asyncio.create_task(edge.ingest.stop())
        assert await idle.closed(3) == b""
        await busy.send(POST[-sent:])
        answer = await busy.answer(seconds=3)
        assert (answer.status, answer.header("Connection")) == (200, "close")
        async with asyncio.timeout(3):
            await stop
    assert (await edge.event()).event == "E"


@pytest.mark.parametrize("seconds", [0, 0.3])
async def test_a_stop_does_not_wait_longer_than_it_was_told(
    make_edge: MakeEdge, seconds: float
) -> None:
    edge = await make_edge(stop_seconds=seconds)
    async with await Wire.open(edge.port) as busy:
        await busy.send(POST[:-5])
        await asyncio.sleep(0.1)
        async with asyncio.timeout(3):
            await edge.ingest.stop()
        assert b"200" not in await busy.closed(3)
    assert await edge.events() == []
