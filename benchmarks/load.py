"""
Load: requests over so many connections, each sent when the one before it was answered.

    python -m benchmarks.load --port 8080 --kind batch --connections 8 --seconds 5

Prints one JSON object: requests, events and errors, seconds, and quantiles of the time from the
first byte sent to the first byte answered, in milliseconds. With --rate, requests are sent at that
pace whether or not the server keeps up, as far as the connections allow.
"""

import argparse
import asyncio
import json
import os
import time
from dataclasses import dataclass, field

import uvloop

from benchmarks import samples

KINDS = {"pixel": 1, "get": 1, "single": 1, "person": 1, "batch": 100, "post": 1}


def requests_of(kind: str, path: str | None) -> tuple[bytes, int]:
    """The bytes of one request, and the number of events in it."""
    if kind in {"pixel", "get"}:
        return f"GET {path or samples.PIXEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 1
    body = samples.batch(100) if kind == "batch" else samples.single()
    if kind == "person":  # each event another one's
        body = body.replace(b"user-000000", b"user-" + samples.MARK)
    path = path or ("/v1/batch" if kind == "batch" else "/v1/t")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        f"User-Agent: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body, KINDS[kind]


@dataclass
class Tally:
    """What all connections did."""

    answered: int = 0
    errors: int = 0
    waits: list[float] = field(default_factory=list)
    sent: int = 0
    until: float = 0.0
    pause: float = 0.0  # seconds between two requests of one connection, with --rate


class Sender(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, tally: Tally, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._tally = tally
        self._ended = ended
        self._at = 0.0
        self._next = 0.0
        self._prefix = f"{os.getpid() % 10_000:04d}"
        self._stamp = samples.MARK in request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._next = time.perf_counter()
        self._send()

    def _send(self) -> None:
        tally = self._tally
        request = self._request
        if self._stamp:
            request = request.replace(samples.MARK, f"{self._prefix}{tally.sent:08d}".encode())
        tally.sent += 1
        self._at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        tally = self._tally
        if not data.startswith(b"HTTP/1.1 "):
            return  # the rest of an answer that came in two pieces
        if data.startswith(b"HTTP/1.1 2"):
            tally.answered += 1
            tally.waits.append(now - self._at)
        else:
            tally.errors += 1
        if now >= tally.until:
            self._transport.close()
            return
        if tally.pause:
            self._next += tally.pause
            if self._next > now:
                asyncio.get_running_loop().call_later(self._next - now, self._send)
                return
        self._send()

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def run(
    port: int, kind: str, connections: int, seconds: float, path: str | None, rate: float
) -> dict[str, float]:
    """Send for *seconds* and return what came of it."""
    request, events = requests_of(kind, path)
    loop = asyncio.get_running_loop()
    tally = Tally(pause=connections / rate if rate else 0.0)
    began = time.perf_counter()
    tally.until = began + seconds
    endings = []
    for _ in range(connections):
        ended: asyncio.Future[None] = loop.create_future()
        endings.append(ended)
        await loop.create_connection(
            lambda ended=ended: Sender(request, tally, ended), "127.0.0.1", port
        )
        if rate:  # spread out, or all would send in the same moment
            await asyncio.sleep(tally.pause / connections)
    await asyncio.wait_for(asyncio.gather(*endings), seconds + 60)
    took = time.perf_counter() - began
    waits = sorted(tally.waits) or [0.0]
    return {
        "requests": tally.answered,
        "events": tally.answered * events,
        "errors": tally.errors,
        "seconds": took,
        "per_second": tally.answered * events / took,
        "p50_ms": 1e3 * waits[len(waits) // 2],
        "p99_ms": 1e3 * waits[len(waits) * 99 // 100],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--path")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second")
    given = parser.parse_args()
    result = uvloop.run(
        run(given.port, given.kind, given.connections, given.seconds, given.path, given.rate)
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
