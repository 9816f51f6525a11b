"""
Receiver: what destinations of the fault suite send to, as a process of its own.

    POST /<destination>/take      200 once the arrival is in the file
    POST /<destination>/late      the same, LATE_SECONDS later: something is under way all the time
    POST /<destination>/slow      the same, after `fail` half a second later
    POST /<destination>/refuse    the same, after `fail` 400 to everything, and nothing is kept

It is bytes on a socket and one line a request, so that it takes 10,000 events a second beside the
collector and the load on two cores. It can be killed and started again on its port (the vendor is
down, and what it took stays taken), and stopped and continued (the vendor hangs: its kernel still
accepts connections, and what was sent meanwhile arrives late).

Shapes   a line is [destination, at, Idempotency-Key or null, [[messageId, who, receivedAt], …]].
Units    seconds since 1970, of this machine's clock.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.process import free_port

LATE_SECONDS = 0.008
SLOW_SECONDS = 0.5
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\nnot today"


class Arrival(NamedTuple):
    """One event, one time that it came."""

    at: float
    id: str
    who: str
    key: str | None  # of the request, if it was for this event alone
    received_at: float  # by the collector


Line = tuple[str, float, str | None, list[tuple[str, str, str]]]


class Receiver:
    """The process, seen from a test."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, destination: str, manner: str = "take") -> str:
        return f"http://127.0.0.1:{self.port}/{destination}/{manner}"

    def start(self) -> "Receiver":
        """Start it, and return when it listens."""
        command = [sys.executable, "-m", "tests.faults.receiver", str(self.port), str(self.file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()  # also of one that is stopped
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def hang(self) -> None:
        """Answer nothing until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def fail(self) -> None:
        """From now on those fail whose addresses say so."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def arrivals(self, destination: str) -> list[Arrival]:
        """Everything that came for *destination*, in the order in which it came."""
        found: list[Arrival] = []
        decode = msgspec.json.Decoder(Line).decode
        with self.file.open("rb") as lines:
            for line in lines:
                name, at, key, events = decode(line)
                if name == destination:
                    found += [
                        Arrival(at, id_, who, key, datetime.fromisoformat(received).timestamp())
                        for id_, who, received in events
                    ]
        return found

    def latest(self, destination: str) -> float:
        """When something came for *destination* last; 0 if nothing has."""
        begin = f'["{destination}",'.encode()
        for line in reversed(self.file.read_bytes().splitlines()):
            if line.startswith(begin):
                return float(line[len(begin) :].partition(b",")[0])
        return 0.0

    def has(self, destination: str, id_: str) -> bool:
        """Whether the event *id_* came for *destination*."""
        begin, wanted = f'["{destination}",'.encode(), f'"{id_}"'.encode()
        lines = self.file.read_bytes().splitlines()
        return any(wanted in line and line.startswith(begin) for line in reversed(lines))


# --- the process itself --------------------------------------------------------------------------


class Event(msgspec.Struct, rename="camel"):
    """What is remembered of an event."""

    message_id: str
    received_at: str
    user_id: str = ""
    anonymous_id: str = ""


_decode = msgspec.json.Decoder(list[Event]).decode
_decode_one = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode


class Connection(asyncio.Protocol):
    """One connection; a client sends its next request when it has its answer."""

    failing = False  # whether `slow` and `refuse` mean something

    def __init__(self, file: int) -> None:
        self._file = file
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = bytes(self._data[:end]).split(b"\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)
        }
        whole = end + 4 + int(headers[b"content-length"])
        if len(self._data) < whole:
            return
        body = bytes(self._data[end + 4 : whole])
        del self._data[:whole]
        self._take(first.split(b" ")[1].decode(), headers.get(b"idempotency-key"), body)

    def _take(self, path: str, key: bytes | None, body: bytes) -> None:
        _, destination, manner = path.split("/")
        if manner in {"slow", "refuse"} and not self.failing:
            manner = "take"
        if manner == "refuse":
            self._transport.write(REFUSED)
            return
        events = _decode(body) if body.startswith(b"[") else [_decode_one(body)]
        kept = [(e.message_id, e.user_id or e.anonymous_id, e.received_at) for e in events]
        line = (destination, time.time(), key.decode() if key else None, kept)
        os.write(self._file, _encode(line) + b"\n")  # what was answered outlives a kill
        seconds = {"late": LATE_SECONDS, "slow": SLOW_SECONDS}.get(manner)
        if seconds is None:
            self._answer()
        else:
            asyncio.get_running_loop().call_later(seconds, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(TAKEN)


async def serve(port: int, file: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, setattr, Connection, "failing", True)
    server = await loop.create_server(lambda: Connection(fd), "127.0.0.1", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
