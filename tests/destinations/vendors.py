"""
Vendors, as small servers that refuse what the vendor refuses, keep what they took, and fail as
servers do when they are told to.

A vendor is a `Vendor` with its own `take`. `vendor.fault = hang` makes every request fail so.
"""

import asyncio
import base64
import gzip
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from multidict import CIMultiDictProxy

BODY_BYTES_MAX = 16_000_000
HUGE_BYTES = 20_000_000


@dataclass(frozen=True)
class Received:
    """One request as it arrived; *body* unpacked."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes
    wire_bytes: int  # of the body, as it came

    def json(self) -> Any:
        return json.loads(self.body)


Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Vendor:
    """A server on a free port. *ssl_context* makes it speak TLS."""

    def __init__(self, host: str = "127.0.0.1", ssl_context: Any = None) -> None:
        self.host = host
        self.requests: list[Received] = []
        self.fault: Fault | None = None
        self.connections = 0
        self._ssl = ssl_context
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._ssl else ''}://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.create_server((self.host, self.port))
        self.port = listening.getsockname()[1]
        await web.SockSite(self._runner, listening, ssl_context=self._ssl).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        wire = await request.read()
        body = wire
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(wire)
        received = Received(request.method, request.path_qs, request.headers, body, len(wire))
        self.requests.append(received)
        if self.fault is not None:
            return await self.fault(request)
        return self.take(received)

    def take(self, received: Received) -> web.Response:
        """The vendor's answer to a request that nothing is wrong with, or something is."""
        return web.json_response({"success": True})


# --- faults -------------------------------------------------------------------------------------


def status(code: int, body: str = "", **headers: str) -> Fault:
    """This status, with *headers*, written retry_after="3"."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, text=body, headers=named)

    return answer


def redirect(location: str, code: int = 307) -> Fault:
    return status(code, Location=location)


async def hang(request: web.Request) -> web.StreamResponse:
    """It never answers."""
    await asyncio.sleep(60)
    return web.Response()


async def hang_in_body(request: web.Request) -> web.StreamResponse:
    """It begins to answer 200, and never ends."""
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"{")
    await asyncio.sleep(60)
    return response


async def disconnect(request: web.Request) -> web.StreamResponse:
    """It closes the connection instead of answering."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def reset(request: web.Request) -> web.StreamResponse:
    """It resets the connection instead of answering."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    """It closes the connection in the middle of a 200."""
    assert request.transport is not None
    request.transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"success":')
    request.transport.close()
    return web.Response()


async def babble(request: web.Request) -> web.StreamResponse:
    """It answers what is no HTTP."""
    assert request.transport is not None
    request.transport.write(b"SSH-2.0-OpenSSH_9.9\r\n\x00\x01\x02")
    request.transport.close()
    return web.Response()


async def talk(request: web.Request) -> web.StreamResponse:
    """It answers 200 with more than anybody wants to read."""
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(HUGE_BYTES // 100_000):
        await response.write(b"x" * 100_000)
    return response


async def explode(request: web.Request) -> web.StreamResponse:
    """It answers 400 with a few bytes that unpack to many."""
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = packed.compress(b"0" * HUGE_BYTES) + packed.flush()
    return web.Response(status=400, body=body, headers={"Content-Encoding": "gzip"})


async def echo(request: web.Request) -> web.StreamResponse:
    """It refuses, and its answer repeats all that it was sent, as some do."""
    headers = " ".join(f"{name}: {value}" for name, value in request.headers.items())
    body = (await request.read()).decode("utf-8", "replace")
    return web.Response(status=400, text=f"{request.path_qs} {headers} {body}")


# --- vendors --------------------------------------------------------------------------------------


class Hook(Vendor):
    """A webhook's receiver: JSON with a length, and nothing else."""

    def take(self, received: Received) -> web.Response:
        headers: Mapping[str, str] = received.headers
        if headers.get("Content-Type") != "application/json" or "Content-Length" not in headers:
            return web.Response(status=415)
        events = received.json()
        for event in events if isinstance(events, list) else [events]:
            if not event["messageId"] or not event["type"]:
                return web.Response(status=422)
        return web.Response(text="ok")


class SegmentApi(Vendor):
    """Segment's batch call: Basic auth with a colon, and its limits."""

    write_key = "wk_live_5e9ment"
    batch_bytes_max = 500_000
    event_bytes_max = 32_768
    events_max = 2_500

    def __init__(self, host: str = "127.0.0.1", ssl_context: Any = None) -> None:
        super().__init__(host, ssl_context)
        self.events: list[dict[str, Any]] = []

    def take(self, received: Received) -> web.Response:
        if received.path != "/v1/batch" or received.method != "POST":
            return web.Response(status=404)
        if len(received.body) > self.batch_bytes_max:
            return web.json_response(
                {"code": "invalid_request", "message": "too large"}, status=400
            )
        try:
            login = basic_login(received.headers.get("Authorization", ""))
        except ValueError:
            login = ("", "")
        if login != (self.write_key, ""):
            return web.Response(status=401, text="invalid write key")
        batch = received.json()["batch"]
        sizes = [
            len(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
            for event in batch
        ]
        if len(batch) > self.events_max or max(sizes) > self.event_bytes_max:
            return web.Response(status=400, text="too many events, or one is too large")
        self.events += batch
        return web.json_response({"success": True})


def basic_login(header: str) -> tuple[str, str]:
    """User and password of a Basic *header*; ValueError without a colon."""
    scheme, _, token = header.partition(" ")
    user, colon, password = base64.b64decode(token, validate=True).decode().partition(":")
    if scheme != "Basic" or not colon:
        raise ValueError(header)
    return user, password
