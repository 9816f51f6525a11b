"""HTTP: what building on low-level parts leaves to us, as RFC 9110 and RFC 9112 have it."""

import asyncio
import json

import pytest

from tests.edge import Edge, MakeEdge
from tests.rawhttp import Answer, Wire, basic, chunked, encode

EVENT = b'{"event":"E","userId":"u"}'
AUTHORIZATION = {"Authorization": basic("demo")}
POST = encode("POST", "/v1/track", AUTHORIZATION, EVENT)


async def test_a_connection_is_used_again(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        for data in (POST, encode("GET", "/health"), POST, encode("OPTIONS", "/v1/t"), POST):
            await wire.send(data)
            answer = await wire.answer()
            assert answer.status in {200, 204}
            assert answer.header("Connection") is None
            assert answer.header("Date")
    assert len(await edge.events()) == 3


async def test_requests_may_come_before_the_answers_are_read(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        await wire.send(POST * 50)
        for _ in range(50):
            assert (await wire.answer()).status == 200
    assert len(await edge.events()) == 50


async def test_a_request_may_come_in_any_pieces(edge: Edge) -> None:
    body = chunked(EVENT, 7)
    head = encode("POST", "/v1/track", AUTHORIZATION | {"Transfer-Encoding": "chunked"}, b"")
    for data, size in ((POST, 1), (POST, 50), (head + body, 1), (head + body, 13)):
        async with await Wire.open(edge.port) as wire:
            for at in range(0, len(data), size):
                await wire.send(data[at : at + size])
                await asyncio.sleep(0)
            assert (await wire.answer()).status == 200
    assert [event.event for event in await edge.events()] == ["E"] * 4


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"zz\r\nabc\r\n0\r\n\r\n", "bad_http"),
        (b"-5\r\nabc\r\n0\r\n\r\n", "bad_http"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "bad_http"),
        (b"FFFFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n", "bad_http"),
    ],
)
async def test_chunks_that_are_none_are_400(edge: Edge, body: bytes, code: str) -> None:
    head = encode("POST", "/v1/track", AUTHORIZATION | {"Transfer-Encoding": "chunked"}, b"")
    async with await Wire.open(edge.port) as wire:
        await wire.send(head + body)
        answer = await wire.answer(seconds=5)
        assert answer.status == 400
        assert answer.json()["code"] in {code, "body_cut"}
    assert await edge.events() == []


async def test_a_client_may_ask_to_close(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        await wire.send(
            encode("POST", "/v1/track", {**AUTHORIZATION, "Connection": "close"}, EVENT)
        )
        answer = await wire.answer()
        assert (answer.status, answer.header("Connection")) == (200, "close")
        assert await wire.closed(5) == b""


async def test_http_1_0_closes_unless_it_asks_to_stay(edge: Edge) -> None:
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0")
    async with await Wire.open(edge.port) as wire:
        await wire.send(old)
        assert (await wire.answer()).status == 200
        assert await wire.closed(5) == b""
    async with await Wire.open(edge.port) as wire:
        for _ in range(2):
            await wire.send(old.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1))
            answer = await wire.answer()
            assert (answer.status, answer.header("Connection")) == (200, "keep-alive")
    async with await Wire.open(edge.port) as wire:  # and it may leave out the host
        await wire.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await wire.answer()).status == 200


async def test_head_has_the_headers_and_no_body(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        for path, status in (("/health", 200), ("/v1/track", 405), ("/v1/nothing", 404)):
            await wire.send(encode("HEAD", path) + encode("GET", "/health"))
            answer = await wire.answer(head=True)
            assert answer.status == status
            assert int(answer.header("Content-Length") or 0) > 0
            assert (await wire.answer()).body == b'{"status":"ok"}'


# --- Expect --------------------------------------------------------------------------------------


async def test_a_client_that_waits_is_told_to_go_on(edge: Edge) -> None:
    headers = AUTHORIZATION | {"Expect": "100-continue", "Content-Length": str(len(EVENT))}
    async with await Wire.open(edge.port) as wire:
        await wire.send(encode("POST", "/v1/track", headers))
        assert await wire.answer(head=True, seconds=5) == Answer(100, [], b"")
        await wire.send(EVENT)
        assert (await wire.answer()).status == 200
    assert (await edge.event()).event == "E"


async def test_a_client_that_did_not_wait_is_not_told(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        await wire.send(
            encode("POST", "/v1/track", AUTHORIZATION | {"Expect": "100-Continue"}, EVENT)
        )
        assert (await wire.answer()).status == 200


async def test_a_client_that_waits_is_refused_before_it_sends(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_bytes_max=1000)
    headers = AUTHORIZATION | {"Expect": "100-continue", "Content-Length": "5000"}
    async with await Wire.open(edge.port) as wire:
        await wire.send(encode("POST", "/v1/track", headers))
        answer = await wire.answer(seconds=5)
        assert (answer.status, answer.header("Connection")) == (413, "close")


# --- what is not HTTP, not here, or not like this ------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: c\r\nBad Name: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: c\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nHost: c\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nHost: c\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: c\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /px.gif?e=\xff HTTP/1.1\r\nHost: c\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_400_and_the_end(edge: Edge, data: bytes) -> None:
    async with await Wire.open(edge.port) as wire:
        await wire.send(data)
        answer = await wire.answer(seconds=5)
        assert (answer.status, answer.json()["code"]) == (400, "bad_http")
        assert await wire.closed(5) == b""
    assert (await edge.get("/health")).status == 200


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
