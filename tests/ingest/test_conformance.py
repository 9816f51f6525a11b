"""
Conformance: HTTP on the hot path, which skips aiohttp's own request and response objects.

Every case runs against the ingest port and against an ordinary `web.Application` with the same
limits: what is expected is what RFC 9110 and RFC 9112 say, and aiohttp shows that it can be done.
Behind each case stands one more request on the same connection: whether it is answered tells
whether the connection was kept, and whether any byte was taken for what it is not.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from aiohttp import web

from collector.errors import JournalError
from collector.ingest import IngestSettings
from tests.edge import Counted, Edge, MakeEdge, assert_in_flight_is_empty, refusal
from tests.rawhttp import Answer, Wire, basic, chunked, encode

EVENT = b'{"event":"E","userId":"u"}'
LENGTH = {"Content-Length": str(len(EVENT))}
AUTHORIZATION = {"Authorization": basic("demo")}
POST = encode("POST", "/v1/track", AUTHORIZATION, EVENT)
HEALTH = encode("GET", "/health")
LAST = encode("GET", "/health", {"Connection": "close", "X-Last": "1"})
CHUNKED = encode("POST", "/v1/track", AUTHORIZATION | {"Transfer-Encoding": "chunked"})
DEFAULTS = IngestSettings()


class Server(NamedTuple):
    """One of the two."""

    name: str
    port: int
    taken: Callable[[], Awaitable[int]]  # events since the last call

    @property
    def ours(self) -> bool:
        return self.name == "collector"


MakeServer = Callable[..., Awaitable[Server]]


async def serve_plainly(
    stack: AsyncExitStack, idle_seconds: float = 75.0, body_bytes_max: int = 10_485_760
) -> Server:
    """The same paths, as anybody would write them with aiohttp."""
    bodies: list[bytes] = []

    async def track(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.json_response({"success": True})

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def taken() -> int:
        count = len(bodies)
        bodies.clear()
        return count

    app = web.Application(client_max_size=body_bytes_max)
    app.router.add_post("/v1/track", track)
    app.router.add_post("/v1/batch", track)
    app.router.add_get("/health", health)
    runner = web.AppRunner(
        app,
        access_log=None,
        keepalive_timeout=idle_seconds,
        shutdown_timeout=1.0,
        max_line_size=1 << 17,
        max_field_size=DEFAULTS.header_bytes_max,
        max_headers=DEFAULTS.headers_max,
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return Server("aiohttp", runner.addresses[0][1], taken)


@pytest.fixture(params=["collector", "aiohttp"])
async def make_server(
    request: pytest.FixtureRequest, make_edge: MakeEdge
) -> AsyncIterator[MakeServer]:
    async with AsyncExitStack() as stack:

        async def make(**settings: float) -> Server:
            if request.param == "aiohttp":
                return await serve_plainly(stack, **settings)
            edge = await make_edge(**settings)

            async def taken() -> int:
                return len(await edge.events())

            return Server("collector", edge.port, taken)

        yield make


@pytest.fixture
async def server(make_server: MakeServer) -> Server:
    return await make_server()


class Told(NamedTuple):
    """What a server said until it hung up."""

    statuses: list[int]
    answers: list[Answer]


_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Za-z ]+\r\n((?:[^\r\n]+\r\n)*)\r\n")


def parse(data: bytes, heads: frozenset[int]) -> list[Answer]:
    """The answers in *data*, each whole; those at *heads* have no body."""
    answers: list[Answer] = []
    at = 0
    while at < len(data):
        found = _HEAD.match(data, at)
        assert found is not None, data[at : at + 200]
        lines = found[2].decode().split("\r\n")[:-1]
        pairs = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        answer = Answer(int(found[1]), pairs, b"")
        at = found.end()
        size = 0 if len(answers) in heads else int(answer.header("Content-Length") or 0)
        assert len(data) >= at + size
        answers.append(answer._replace(body=data[at : at + size]))
        at += size
    return answers


async def tell(server: Server, data: bytes, *heads: int, apart: bool = False) -> Told:
    """
    Send *data* and one more request, and return all that came back until the server hung up.

    *apart* waits in between, for what llhttp and so aiohttp take amiss in one piece: anything
    behind `Connection: close` is an error, and what follows a declined upgrade is dropped.
    """
    async with await Wire.open(server.port) as wire:
        await wire.send(data if apart else data + LAST)
        if apart:
            await asyncio.sleep(0.1)
            await wire.send(LAST)
        answers = parse(await wire.closed(15), frozenset(heads))
    return Told([answer.status for answer in answers], answers)


def track(*lines: bytes, body: bytes = EVENT, version: bytes = b"1.1", host: bool = True) -> bytes:
    """A POST with exactly these header *lines* beside host and key."""
    head = [b"POST /v1/track HTTP/" + version, *([b"Host: c"] if host else [])]
    head += [b"Authorization: " + basic("demo").encode(), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


# --- connections ---------------------------------------------------------------------------------


async def test_a_connection_is_used_again(server: Server) -> None:
    async with await Wire.open(server.port) as wire:
        for data in (POST, HEALTH, POST, encode("GET", "/nothing"), POST):
            await wire.send(data)
            answer = await wire.answer()
            assert answer.status == (404 if b"/nothing" in data else 200)
            assert answer.header("Connection") is None
            assert answer.header("Date")
    assert await server.taken() == 3


async def test_answers_come_in_the_order_of_the_requests(server: Server) -> None:
    """Hundreds in one piece, more than the parser queues, of all sorts."""
    kinds = [
        (POST, 200),
        (HEALTH, 200),
        (encode("GET", "/nothing"), 404),
        (encode("HEAD", "/health"), 200),
        (CHUNKED + chunked(EVENT, 5), 200),
        (encode("DELETE", "/v1/track"), 405),
    ]
    order = [kinds[n * n % 7 % 6] for n in range(400)]
    heads = [n for n, (data, _) in enumerate(order) if data.startswith(b"HEAD")]
    told = await tell(server, b"".join(data for data, _ in order), *heads)
    assert told.statuses == [*(status for _, status in order), 200]
    posts = sum(data.startswith(b"POST") for data, _ in order)
    assert await server.taken() == posts > 100


async def test_a_request_may_come_in_any_pieces(server: Server) -> None:
    head = CHUNKED + chunked(EVENT, 7)
    for data, size in ((POST, 1), (POST, 50), (head, 1), (head, 13)):
        async with await Wire.open(server.port) as wire:
            for at in range(0, len(data), size):
                await wire.send(data[at : at + size])
                await asyncio.sleep(0)
            assert (await wire.answer()).status == 200
    assert await server.taken() == 4


@pytest.mark.parametrize("value", ["close", "Close", "keep-alive, close", "close, keep-alive"])
async def test_a_client_may_ask_to_close(server: Server, value: str) -> None:
    data = encode("POST", "/v1/track", AUTHORIZATION | {"Connection": value}, EVENT)
    told = await tell(server, data, apart=True)
    assert told.statuses == [200]
    assert told.answers[0].header("Connection") == "close"


async def test_http_1_0_closes_unless_it_asks_to_stay(server: Server) -> None:
    line = b"Content-Length: %d" % len(EVENT)
    for lines in ((line,), (line, b"Connection: close"), (line, b"Connection: x")):
        assert (await tell(server, track(*lines, version=b"1.0"), apart=True)).statuses == [200]
    data = track(line, b"Connection: Keep-Alive", version=b"1.0")
    told = await tell(server, data * 2)
    assert told.statuses == [200, 200, 200]
    assert [a.header("Connection") for a in told.answers] == ["keep-alive", "keep-alive", "close"]
    # and it may leave out the host
    assert (await tell(server, b"GET /health HTTP/1.0\r\n\r\n", apart=True)).statuses == [200]
    assert await server.taken() == 5


async def test_head_has_the_headers_of_get_and_no_body(server: Server) -> None:
    for path, status in (("/health", 200), ("/v1/track", 405), ("/nothing", 404)):
        told = await tell(server, encode("HEAD", path) + encode("GET", path), 0)
        assert told.statuses == [status, status, 200]
        head, get, _ = told.answers
        assert get.body
        for name in ("Content-Type", "Content-Length"):
            if not (path == "/v1/track" and name == "Content-Length"):  # names other methods
                assert head.header(name) == get.header(name)


@pytest.mark.parametrize("requests", [0, 2])
async def test_an_idle_connection_is_closed(make_server: MakeServer, requests: int) -> None:
    server = await make_server(idle_seconds=0.4)
    async with await Wire.open(server.port) as wire:
        for _ in range(requests):
            await asyncio.sleep(0.25)  # each request begins the time anew
            await wire.send(HEALTH)
            assert (await wire.answer()).status == 200
        began = time.monotonic()
        assert await wire.closed(5) == b""
        assert 0.2 < time.monotonic() - began < 2


async def test_a_client_that_leaves_costs_nobody_anything(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    half = encode("POST", "/v1/track", AUTHORIZATION | {"Content-Length": "1000"}) + b'{"event"'
    chunk = CHUNKED + b"100\r\nabc"
    for data in (half, chunk, b"", b"POST /v1/tr", POST * 300, HEALTH * 3000, POST + half):
        for seconds in (0, 0.05):
            wire = await Wire.open(server.port)
            wire.writer.write(data)
            await asyncio.sleep(seconds)
            wire.writer.transport.abort()
    await asyncio.sleep(0.2)
    assert (await tell(server, POST)).statuses == [200, 200]
    if server.ours:
        await assert_in_flight_is_empty()
        assert caplog.records == []


async def test_a_client_that_sends_and_does_not_read_is_waited_for(server: Server) -> None:
    """Its answers fill its window and our buffer; no request of it is lost, no other waits."""
    data = encode("GET", "/nothing")
    async with await Wire.open(server.port) as wire:
        wire.writer.write(data * 20_000 + LAST)
        await asyncio.sleep(0.3)
        assert (await tell(server, POST)).statuses == [200, 200]
        answers = parse(await wire.closed(60), frozenset())
    assert [answer.status for answer in answers] == [404] * 20_000 + [200]


# --- Expect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["100-continue", "100-Continue"])
async def test_a_client_that_waits_is_told_to_go_on(server: Server, value: str) -> None:
    async with await Wire.open(server.port) as wire:
        await wire.send(encode("POST", "/v1/track", AUTHORIZATION | LENGTH | {"Expect": value}))
        assert await wire.answer(head=True, seconds=5) == Answer(100, [], b"")
        await wire.send(EVENT)
        assert (await wire.answer()).status == 200
        await wire.send(HEALTH)
        assert (await wire.answer()).status == 200
    assert await server.taken() == 1


@pytest.mark.parametrize("value", ["200-ok", "100-continue, x"])
async def test_another_expectation_is_417(server: Server, value: str) -> None:
    data = encode("POST", "/v1/track", AUTHORIZATION | {"Expect": value}, EVENT)
    assert (await tell(server, data)).statuses[0] == 417
    assert await server.taken() == 0


async def test_an_expectation_that_is_no_text_is_417(edge: Edge) -> None:
    answer = await edge.post("/v1/track", EVENT, {"Expect": "\udcff"})
    assert refusal(answer) == (417, "unknown_expectation")


async def test_an_expectation_in_http_1_0_is_none(server: Server) -> None:
    line = b"Content-Length: %d" % len(EVENT)
    for value in (b"100-continue", b"x"):
        data = track(line, b"Expect: " + value, version=b"1.0")
        assert (await tell(server, data, apart=True)).statuses == [200]


async def test_a_client_that_waits_is_refused_before_it_sends(make_server: MakeServer) -> None:
    server = await make_server(body_bytes_max=1000)
    headers = AUTHORIZATION | {"Expect": "100-continue", "Content-Length": "5000"}
    async with await Wire.open(server.port) as wire:
        await wire.send(encode("POST", "/v1/track", headers))
        answer = await wire.answer(head=not server.ours, seconds=5)
        if server.ours:
            assert (answer.status, answer.header("Connection")) == (413, "close")
        else:
            assert answer.status == 100  # and it reads on until it is too much


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["length", "chunked"])
@pytest.mark.parametrize("more", [0, 1])
async def test_a_body_of_the_limit_is_taken_and_not_one_byte_more(
    server: Server, how: str, more: int
) -> None:
    size = DEFAULTS.body_bytes_max + more
    body = b'{"batch":[{"type":"track","event":"E","userId":"u"}]'.ljust(size - 1) + b"}"
    if how == "length":
        data = encode("POST", "/v1/batch", AUTHORIZATION, body)
    else:
        headers = AUTHORIZATION | {"Transfer-Encoding": "chunked"}
        data = encode("POST", "/v1/batch", headers) + chunked(body, 100_000)
    async with await Wire.open(server.port) as wire:
        await wire.send(data)
        answer = await wire.answer()
    assert answer.status == (413 if more else 200)
    assert await server.taken() == (0 if more else 1)


CHUNKS = {
    "capital letters": b"1A\r\n" + EVENT + b"\r\n0\r\n\r\n",
    "small letters": b"1a\r\n" + EVENT + b"\r\n0\r\n\r\n",
    "zeroes in front": b"000001a\r\n" + EVENT + b"\r\n0000\r\n\r\n",
    "one byte each": chunked(EVENT, 1),
    "an extension": b"1a;name=value\r\n" + EVENT + b"\r\n0;last\r\n\r\n",
    "a quoted extension": b'1a;name="a, b"\r\n' + EVENT + b"\r\n0\r\n\r\n",
    "extensions": b"1a;a;b=c;d\r\n" + EVENT + b"\r\n0\r\n\r\n",
    "a trailer": b"1a\r\n" + EVENT + b"\r\n0\r\nX-Sum: 5\r\n\r\n",
    "trailers": b"1a\r\n" + EVENT + b"\r\n0\r\nX-Sum: 5\r\nAuthorization: Basic eDo=\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_chunks_may_be_of_any_shape(server: Server, name: str) -> None:
    assert len(EVENT) == 0x1A
    for head in (CHUNKED, CHUNKED.replace(b"chunked", b"Chunked")):
        assert (await tell(server, head + CHUNKS[name])).statuses == [200, 200]
    assert await server.taken() == 2


# --- what is not HTTP ----------------------------------------------------------------------------

TE = b"Transfer-Encoding: chunked"
CL = b"Content-Length: %d" % len(EVENT)
ENDED = chunked(EVENT, 9)

REFUSED = {
    # ways to disagree about where a request ends, which is how one is smuggled
    "length and chunks": track(CL, TE, body=ENDED),
    "chunks and length": track(TE, CL, body=ENDED),
    "two lengths": track(CL, b"Content-Length: 5"),
    "the same length twice": track(CL, CL),
    "a list of lengths": track(CL + b", %d" % len(EVENT)),
    "a length with a sign": track(b"Content-Length: +26"),
    "a negative length": track(b"Content-Length: -1"),
    "a hexadecimal length": track(b"Content-Length: 0x1a"),
    "a length that is text": track(b"Content-Length: abc"),
    "a length of many digits": track(b"Content-Length: " + b"9" * 40),
    "a length with a space in it": track(b"Content-Length: 2 6"),
    "an empty length": track(b"Content-Length:"),
    "chunked is not last": track(b"Transfer-Encoding: chunked, gzip", body=ENDED),
    "no coding that is known": track(b"Transfer-Encoding: gzip", body=ENDED),
    "a coding that looks like chunked": track(b"Transfer-Encoding: xchunked", body=ENDED),
    "chunked in quotes": track(b'Transfer-Encoding: "chunked"', body=ENDED),
    "a space before the colon": track(b"Content-Length : 26"),
    "a fold": track(CL, b"X-Folded: a", b" b"),
    "a fold in the length": track(b"Content-Length:", b" 26"),
    "a header without a colon": track(CL, b"Nothing"),
    "a header without a name": track(CL, b": 1"),
    "a space in a name": track(CL, b"Bad Name: 1"),
    "a byte in a name that is none": track(CL, b"X-\xff: 1"),
    "NUL in a value": track(CL, b"X: a\0b"),
    "NUL in a name": track(CL, b"X\0: b"),
    "CR in a value": track(CL, b"X: a\rb"),
    "lines that end in LF alone": track(CL).replace(b"\r\n", b"\n"),
    "one line that ends in LF alone": track(CL).replace(b"Host: c\r\n", b"Host: c\n"),
    "a head that ends in LF alone": track(CL).replace(b"\r\n\r\n", b"\r\n\n"),
    "CR alone": track(CL).replace(b"\r\n", b"\r"),
    # request lines
    "no host": track(CL, host=False),
    "two hosts": track(CL, b"Host: d"),
    "HTTP/9.9": track(CL, version=b"9.9"),
    "HTTP/1.11": track(CL, version=b"1.11"),
    "HTTP/2.0": track(CL, version=b"2.0"),
    "no HTTP": track(CL).replace(b"HTTP/1.1", b"HTTX/1.1"),
    "a method in small letters": track(CL).replace(b"POST", b"post"),
    "a method that nobody knows": track(CL).replace(b"POST", b"BREW"),
    "a method that is none": track(CL).replace(b"POST", b"P@ST"),
    "a space in the target": track(CL).replace(b"/v1/track", b"/v1/track?a b"),
    "NUL in the target": track(CL).replace(b"/v1/track", b"/v1/track\0"),
    "a tab for a space": track(CL).replace(b"POST ", b"POST\t"),
    "no slash": track(CL).replace(b"/v1/track", b"v1/track"),
    "no target": track(CL).replace(b"/v1/track ", b""),
    "an asterisk": track(CL).replace(b"/v1/track", b"*"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "text": b"hello\r\n\r\n",
    "bytes": bytes(range(256)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_http_is_400_and_the_end(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = await tell(server, REFUSED[name])
    assert told.statuses == [400]
    assert told.answers[0].header("Connection") == ("close" if server.ours else None)
    assert await server.taken() == 0
    if server.ours:
        assert refusal(told.answers[0]) == (400, "bad_http")
        assert caplog.records == []
    assert (await tell(server, HEALTH)).statuses == [200, 200]


BAD_CHUNKS = {
    "a size that is none": b"zz\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nabc\r\n0\r\n\r\n",
    "a size of 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk that is longer": b"3\r\nabcd\r\n0\r\n\r\n",
    "a size of many digits": b"F" * 18 + b"\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "LF alone": b"3\nabc\n0\n\n",
    "LF alone after the chunk": b"3\r\nabc\n0\r\n\r\n",
    "LF alone in an extension": b"3;a\nabc\r\n0\r\n\r\n",
    "a space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "a bad trailer": b"3\r\nabc\r\n0\r\nBad Name: 1\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
async def test_chunks_that_are_none_are_400_and_the_end(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = await tell(server, CHUNKED + BAD_CHUNKS[name])
    assert told.statuses in ([400], [400, 400])  # the request and what is behind it
    assert await server.taken() == 0
    if server.ours:
        assert {refusal(answer)[1] for answer in told.answers} <= {"bad_http", "body_cut"}
        assert caplog.records == []


SIZES = {
    "a target of 200 kB": (encode("GET", "/health?" + "a" * 200_000), "header_too_large"),
    "a header of 20 kB": (encode("GET", "/health", {"X": "a" * 20_000}), "header_too_large"),
    "a name of 20 kB": (encode("GET", "/health", {"X" * 20_000: "a"}), "header_too_large"),
    "a header of 20 MB": (encode("GET", "/health", {"X": "a" * 20_000_000}), "header_too_large"),
    "200 headers": (encode("GET", "/health", {f"X-{n}": "1" for n in range(200)}), "bad_http"),
    "a trailer of 20 kB": (CHUNKED + b"0\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", "header_too_large"),
}


@pytest.mark.parametrize("name", SIZES)
async def test_heads_are_bounded(
    server: Server, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, code = SIZES[name]
    if server.ours:
        answer = (await tell(server, data)).answers[-1]
        assert refusal(answer) == (431 if code == "header_too_large" else 400, code)
        assert caplog.records == []
    elif "MB" not in name:  # whoever still sends when aiohttp hangs up may not get its answer
        assert (await tell(server, data)).statuses[-1] == 400
    assert await server.taken() == 0


async def test_heads_of_just_the_limit_are_taken(server: Server) -> None:
    headers = {f"X-{n}": "1" for n in range(DEFAULTS.headers_max - 1)}
    assert (await tell(server, encode("GET", "/health", headers))).statuses == [200, 200]
    headers = {"X": "a" * (DEFAULTS.header_bytes_max - 1)}
    assert (await tell(server, encode("GET", "/health", headers))).statuses == [200, 200]


async def test_who_still_sends_what_cannot_be_read_gets_the_answer(edge: Edge) -> None:
    """A connection that is closed under a sender is reset, and the answer may be lost with it."""
    async with await Wire.open(edge.port) as wire:
        await wire.send(b"GET /\xff HTTP/1.1\r\n")
        for _ in range(20):
            wire.writer.write(b"X: " + b"a" * 50_000)
            await wire.writer.drain()  # would tell that the connection is gone
            await asyncio.sleep(0.01)
        assert refusal(await wire.answer(seconds=5)) == (400, "bad_http")
        assert await wire.closed(0.5) == b""


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/health", 200),
        ("/health?", 200),
        ("/health?a=%zz&%&&=", 200),
        ("http://c/health", 200),
        ("HTTP://c:80/health?x", 200),
        ("http://somebody.else.test/health", 200),
        ("http://c", 404),
        ("http://c?a", 404),
        ("http:///health", 400),
        ("http://", 400),
        ("http://[::1/health", 400),
        ("health", 400),
        ("//health", 404),
        ("//c/health", 404),
        ("/./health", 404),
        ("/../health", 404),
        ("/a/../health", 404),
        ("/%2e%2e/health", 404),
        ("/..%2fhealth", 404),
        ("/health/..", 404),
        ("/health%00", 404),
        ("/health%2f", 404),
        ("/%2fhealth", 404),
        ("/health\\", 404),
        ("/health;a=b", 404),
        ("/" + "../" * 1000 + "etc/passwd", 404),
        ("/%", 404),
        ("/%c0%ae%c0%ae/", 404),
        ("*", 400),
    ],
)
async def test_targets_are_what_they_are(
    server: Server, target: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    told = await tell(server, encode("GET", target))
    assert told.statuses == ([400] if status == 400 else [status, 200])
    assert told.answers[0].header("Location") is None
    if server.ours:
        assert caplog.records == []


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "HEAD"])
async def test_another_method_is_405_and_says_which_works(server: Server, method: str) -> None:
    told = await tell(server, encode(method, "/v1/track"), *([0] if method == "HEAD" else []))
    assert told.statuses == [405, 200]
    assert told.answers[0].header("Allow") == "POST"
    assert b"TRACE" not in told.answers[0].body  # nor is anything reflected
    told = await tell(server, encode("POST", "/health", {}, b"{}"))
    assert told.statuses == [405, 200]
    assert set((told.answers[0].header("Allow") or "").replace(" ", "").split(",")) == {
        "GET",
        "HEAD",
    }


@pytest.mark.parametrize("method", ["OPTIONS", "CONNECT"])
async def test_requests_to_no_path_are_answered(server: Server, method: str) -> None:
    target = "*" if method == "OPTIONS" else "collector.test:443"
    async with await Wire.open(server.port) as wire:
        await wire.send(encode(method, target))
        answer = await wire.answer(seconds=5)
        assert answer.status in ({200, 204, 404, 405} if method == "OPTIONS" else {404, 405})


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"},
        {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
         "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        {"Upgrade": "TLS/1.0", "Connection": "Upgrade"},
        {"Upgrade": "\udcff", "Connection": "Upgrade"},
        {"Upgrade": "websocket"},
    ],
)  # fmt: skip
async def test_an_upgrade_is_declined_and_the_request_answered(
    server: Server, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    told = await tell(server, encode("GET", "/health", headers), apart=True)
    assert told.statuses == [200, 200]
    data = encode("POST", "/v1/track", headers | AUTHORIZATION, EVENT)
    assert (await tell(server, data, apart=True)).statuses == [200, 200]
    assert await server.taken() == 1
    if server.ours:
        assert caplog.records == []


# --- what is ours alone --------------------------------------------------------------------------


async def test_no_answer_tells_what_it_was_made_with(edge: Edge) -> None:
    server = Server("collector", edge.port, edge.journal.close)  # type: ignore[arg-type]
    told = [
        *(await tell(server, POST + HEALTH + encode("GET", "/nothing"))).answers,
        *(await tell(server, encode("OPTIONS", "/v1/track") + encode("GET", "/px.gif"))).answers,
        *(await tell(server, b"hello\r\n\r\n")).answers,
        *(await tell(server, encode("POST", "/v1/track", AUTHORIZATION, b"{" * 5000))).answers,
        *(await tell(server, CHUNKED + b"zz\r\n")).answers,
    ]
    assert len(told) > 9
    for answer in told:
        names = {name.lower() for name, _ in answer.headers}
        assert not names & {"server", "x-powered-by", "via", "set-cookie"}
        text = repr(answer).lower()
        for word in ("aiohttp", "python", "msgspec", "uvloop", "traceback", "collector/", ".py"):
            assert word not in text


@pytest.mark.parametrize("failure", [RuntimeError("secret"), TimeoutError("secret"), OSError(5)])
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])  # with a task and without
async def test_a_failure_inside_is_500_and_tells_nothing(
    edge: Edge,
    failure: Exception,
    method: str,
    headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Never a 4xx, which tells the sender to drop its events; an image stays one."""

    async def append(_: object) -> None:
        raise failure

    edge.ingest._journal.append = append  # type: ignore[method-assign,assignment]
    target = "/v1/track" if method == "POST" else "/px.gif?wk=demo&e=E"
    answer = await edge.send(encode(method, target, AUTHORIZATION | headers, EVENT))
    if method == "GET":
        assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
        assert answer.header("X-Collector") == "internal_error"
    else:
        assert refusal(answer) == (500, "internal_error")
    assert answer.header("Connection") == "close"
    assert "secret" not in repr(answer)
    (record,) = caplog.records
    assert record.exc_info is not None or isinstance(failure, TimeoutError)


async def test_a_journal_that_fails_is_503_and_no_failure_of_ours(edge: Edge) -> None:
    async def append(_: object) -> None:
        raise JournalError("journal_unwritable", "the disk refuses: look at it")

    edge.ingest._journal.append = append  # type: ignore[method-assign,assignment]
    answer = await edge.send(POST)
    assert refusal(answer) == (503, "journal_unwritable")
    assert int(answer.header("Retry-After") or 0) > 0


@pytest.mark.parametrize("prefix", ["", "/x", "/in"])
@pytest.mark.parametrize(
    "path",
    [
        *(
            "/metrics",
            "/status",
            "/health/live",
            "/health/ready",
            "/admin",
            "/api/status",
            "/debug",
        ),
        *("/metrics/", "/v1/metrics", "/v1/../metrics", "/%6detrics", "/events", "/"),
    ],
)
async def test_what_belongs_to_the_operator_is_not_on_this_port(
    make_edge: MakeEdge, prefix: str, path: str
) -> None:
    edge = await make_edge(path_prefix="/in")
    for host in ("collector.test", "127.0.0.1:8090", "localhost:8090"):
        answer = await edge.get(prefix + path, {"Host": host})
        assert refusal(answer) == (404, "not_found")
    assert refusal(await edge.get(f"http://127.0.0.1:8090{prefix}{path}"))[0] == 404


async def test_write_keys_are_compared_in_constant_time(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash look-up finds the source, hmac.compare_digest decides, for every way to send a key."""
    from collector.ingest import auth

    asked: list[tuple[bytes, bytes]] = []
    compare = auth.hmac.compare_digest

    def compare_digest(one: bytes, other: bytes) -> bool:
        asked.append((one, other))
        return False if other == b"secret-1" else compare(one, other)

    monkeypatch.setattr(auth.hmac, "compare_digest", compare_digest)
    assert (await edge.post("/v1/track", EVENT)).status == 200
    assert asked
    for send in (
        edge.post("/v1/track", EVENT, key="secret-1"),
        edge.post("/v1/track", EVENT, {"X-Write-Key": "secret-1"}, key=None),
        edge.post("/v1/track?writeKey=secret-1", EVENT, key=None),
        edge.post("/v1/track", json.loads(EVENT) | {"writeKey": "secret-1"}, key=None),
    ):
        answer = await send
        assert refusal(answer) == (401, "unknown_write_key")
    answer = await edge.get("/v1/projects/secret-1/settings")
    assert refusal(answer) == (404, "unknown_write_key")


async def test_a_refused_head_is_counted(edge: Edge) -> None:
    counted = Counted("collector_ingest_refused_requests_total", reason="bad_http")
    for data in REFUSED.values():
        await edge.send(data + LAST)
    assert counted.moved == len(REFUSED)
