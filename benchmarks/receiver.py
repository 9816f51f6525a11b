"""
Receiver: answers every POST with 200 as soon as its body is there, and does nothing else.

    python -m benchmarks.receiver 8082 DIRECTORY

    POST /<anything>   200
    GET  /stats        {"requests", "events", "first", "last"} since the last /stats; bodies are
                       written to DIRECTORY/bodies, each behind its length in 8 bytes
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODIES_MAX = 1_000  # that are kept between two /stats


class Tally:
    """What all connections got."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clear()

    def clear(self) -> None:
        self.requests = 0
        self.first = self.last = 0.0
        self.bodies: list[bytes] = []

    def take(self, body: bytes) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.requests += 1
        if len(self.bodies) < BODIES_MAX:
            self.bodies.append(body)

    def report(self) -> bytes:
        with (self.directory / "bodies").open("wb") as file:
            for body in self.bodies:
                file.write(len(body).to_bytes(8, "big") + body)
        found = {"requests": self.requests, "first": self.first, "last": self.last}
        self.clear()
        text = json.dumps(found).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


class Connection(asyncio.Protocol):
    """One connection; its client sends again when it has its answer."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._data = bytearray()
        self._whole = 0  # bytes of this request; 0 until its head is there
        self._head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's own

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._whole:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            if self._data.startswith(b"GET /stats"):
                self._data.clear()
                self._transport.write(self._tally.report())
                return
            head = bytes(self._data[:end]).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._head, self._whole = end + 4, end + 4 + length
        if len(self._data) >= self._whole:
            self._tally.take(bytes(self._data[self._head : self._whole]))
            self._data.clear()
            self._whole = 0
            self._transport.write(OK)


async def serve(port: int, directory: Path) -> None:
    tally = Tally(directory)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tally), "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
