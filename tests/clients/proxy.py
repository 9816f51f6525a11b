"""A way to the collector on which things go wrong: by plan, and each as it really happens."""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from tests.rawhttp import Answer, Wire


class Fault(NamedTuple):
    """What becomes of one request: an answer of the proxy's own, or none at all."""

    status: int = 0
    headers: Mapping[str, str] = {}
    forward: bool = False  # the collector has it; the client never learns so


def says(status: int, **headers: str) -> Fault:
    """The proxy answers in the collector's place."""
    return Fault(status, {name.replace("_", "-"): value for name, value in headers.items()})


LOSE_REQUEST = Fault()
LOSE_ANSWER = Fault(forward=True)


class Proxy:
    """
    Passes requests on to a port of loopback, but for those that *faults* names by their number.

    *method* is that of the requests which are counted, if not all are: browsers ask beforehand.
    With *tls* it is reached by https.

    A collector that is not there looks as it would without a proxy: the connection breaks.
    """

    def __init__(
        self,
        port: int,
        faults: Mapping[int, Fault] | None = None,
        method: str = "",
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = port
        self._tls = tls
        self._faults = dict(faults or {})
        self._method = f"{method} ".encode() if method else b""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests = 0
        self.passed = 0  # and answered by the collector
        self.statuses = Counter[int]()
        self.broken = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        where = "http://127.0.0.1" if self._tls is None else "https://localhost"
        return f"{where}:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, limit=1 << 20, ssl=self._tls
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def passes(self, requests: int, seconds: float = 60.0) -> None:
        """Wait until so many requests were answered by the collector."""
        async with asyncio.timeout(seconds):
            while self.passed < requests:
                await asyncio.sleep(0.01)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # The client may leave at any time, and the collector may not be there.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._request(reader, writer):
                    pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((line[15:] for line in lines if line.startswith("content-length:")), "0")
        data = head + await reader.readexactly(int(length))
        fault = None
        if head.startswith(self._method):
            self.requests += 1
            fault = self._faults.pop(self.requests, None)
        if fault is not None and fault.status:
            answer = Answer(fault.status, list(fault.headers.items()), b"later, please")
        elif fault is not None and not fault.forward:
            self.broken += 1
            return False
        else:
            try:
                answer = await self._forward(data)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
                return False
            if fault is not None:
                self.broken += 1
                return False
        self.statuses[answer.status] += 1
        skip = {"content-length", "connection"}
        pairs = [f"{n}: {v}\r\n" for n, v in answer.headers if n.lower() not in skip]
        writer.write(
            f"HTTP/1.1 {answer.status} Status\r\nContent-Length: {len(answer.body)}\r\n".encode()
            + "".join(pairs).encode("latin-1")
            + b"\r\n"
            + answer.body
        )
        await writer.drain()
        return True

    async def _forward(self, data: bytes) -> Answer:
        async with await Wire.open(self._target) as wire:
            await wire.send(data)
            answer = await wire.answer()
            self.passed += 1
            return answer
