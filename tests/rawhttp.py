"""HTTP as bytes on a socket: nothing between a test and the server says what may be sent."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

SECONDS = 30.0

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one value of *name*; two are a fault of the server."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        assert self.header("Content-Type") == "application/json"
        return json.loads(self.body)


def basic(key: str) -> str:
    """A write key as most SDKs send it."""
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


def encode(
    method: str, target: str | bytes, headers: Headers = (), body: bytes | None = None
) -> bytes:
    """A request, with the headers as they are given and what is missing of Host and length."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if "host" not in names:
        pairs.insert(0, ("Host", "collector.test"))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("Content-Length", str(len(body))))
    line = target if isinstance(target, bytes) else target.encode()
    head = [method.encode() + b" " + line + b" HTTP/1.1"]
    head += [f"{name}: {value}".encode("utf-8", "surrogateescape") for name, value in pairs]
    return b"\r\n".join(head) + b"\r\n\r\n" + (body or b"")


def chunked(body: bytes, size: int) -> bytes:
    """*body* in chunks of *size*, as Transfer-Encoding has it."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def __aenter__(self) -> "Wire":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def send(self, data: bytes) -> None:
        """Write *data*; a server that hung up is found out by reading."""
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self, *, head: bool = False, seconds: float = SECONDS) -> Answer:
        """The next answer; *head* means that it has no body whatever its headers say."""
        async with asyncio.timeout(seconds):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = text[:-4].split("\r\n")
            version, status = first.split(" ")[:2]
            assert version == "HTTP/1.1"
            pairs = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
            answer = Answer(int(status), pairs, b"")
            length = answer.header("Content-Length")
            if head or length is None:
                return answer
            return answer._replace(body=await self.reader.readexactly(int(length)))

    async def closed(self, seconds: float = SECONDS) -> bytes:
        """What still comes until the server hangs up."""
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""


async def exchange(port: int, data: bytes, *, head: bool = False) -> Answer:
    """Send *data* over a connection of its own and return the answer."""
    async with await Wire.open(port) as wire:
        await wire.send(data)
        return await wire.answer(head=head)
