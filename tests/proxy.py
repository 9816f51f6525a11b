"""
A TCP proxy in front of Postgres that does to a connection what networks do.

    forward            both ways, after `delay_seconds`
    cut                nothing passes any more and nobody is told
    reset              both sides get a reset
    hold               what the client sends from its next COMMIT on is held back
    hold_answers       so is what the server says after a COMMIT
    marker             bytes of a client that end the connection when they pass

It understands one thing of the protocol: what a COMMIT and its answer look like.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"


def reset(writer: asyncio.StreamWriter) -> None:
    """End with a reset instead of an orderly end."""
    with contextlib.suppress(OSError):
        raw = writer.get_extra_info("socket")
        if raw is not None and raw.family != socket.AF_UNIX:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Link:
    """One connection through the proxy."""

    def __init__(
        self, proxy: "Proxy", client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.held = b""  # what the client sent, from COMMIT on
        self.holding = False
        self.committing = False  # COMMIT has passed, its answer has not

    async def release(self) -> None:
        """Let what was held back reach the server, whose client has gone."""
        self.holding = False
        with contextlib.suppress(OSError):
            self.server.write(self.held)
            await self.server.drain()
            self.server.close()

    def drop_client(self) -> None:
        """Reset the client's side only."""
        reset(self.client)

    def reset(self) -> None:
        reset(self.client)
        reset(self.server)


class Proxy:
    """Listens on 127.0.0.1 and connects to where *dsn* points."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        self._user = parts.username or "collector"
        self._database = parts.path.lstrip("/")
        self._host = query["host"][0] if "host" in query else parts.hostname or ""
        self._port = int(query["port"][0]) if "port" in query else parts.port or 5432
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.links: list[Link] = []
        self.port = 0
        self.refusing = False
        self.delay_seconds = 0.0
        self.marker: bytes | None = None
        self.marked = 0  # connections that the marker ended
        self.flowing = asyncio.Event()
        self.flowing.set()
        # Called with what a client sends, before it is passed on.
        self.on_client: Callable[[Link, bytes], None] | None = None
        # Called when a COMMIT comes by; whether to hold it, or its answer, back.
        self.on_commit: Callable[[Link], bool] | None = None
        self.on_answer: Callable[[Link], bool] | None = None

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self.links:
            link.reset()

    async def __aenter__(self) -> "Proxy":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def dsn(self) -> str:
        return f"postgresql://{self._user}@127.0.0.1:{self.port}/{self._database}?sslmode=disable"

    # --- what may happen -------------------------------------------------------------------

    def cut(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self.flowing.clear()

    def heal(self) -> None:
        self.flowing.set()

    def reset(self) -> None:
        """Reset every connection."""
        for link in self.links:
            link.reset()
        self.links.clear()

    # --- forwarding ------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            reset(writer)
            return
        try:
            if self._host.startswith("/"):
                back = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
            else:
                back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            reset(writer)
            return
        link = Link(self, writer, back[1])
        self.links.append(link)
        for work in (self._from_client(link, reader), self._from_server(link, back[0])):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _from_client(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._pause()
                if self.marker is not None and self.marker in data:
                    self.marked += 1
                    link.reset()
                    return
                if self.on_client is not None:
                    self.on_client(link, data)
                    await self._pause()
                if COMMIT in data:
                    link.committing = True
                    if self.on_commit is not None and self.on_commit(link):
                        link.holding = True
                if link.holding:
                    link.held += data
                    continue
                link.server.write(data)
                await link.server.drain()
        await self._pause()
        if not link.holding:
            link.server.close()

    async def _from_server(self, link: Link, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._pause()
                if link.committing and b"COMMIT\x00" in data:
                    link.committing = False
                    if self.on_answer is not None and self.on_answer(link):
                        continue
                link.client.write(data)
                await link.client.drain()
        await self._pause()
        link.client.close()

    async def _pause(self) -> None:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        await self.flowing.wait()
