"""
Protocol: requests and replies as handlers see them.

They stand in the place of the objects of aiohttp's `web.Application`, which cost more than all we
do with an event: replies are bytes that were put together beforehand. What that leaves to us is
HEAD, HTTP/1.0, `Connection: close` and `Expect: 100-continue`; connections are in connection.py.

Units    times are microseconds since 1970, sizes are bytes.
Source   RFC 9110, RFC 9112
"""

import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import msgspec
from aiohttp import HttpVersion11, StreamReader
from aiohttp.http_parser import RawRequestMessage

from collector import metrics
from collector.errors import BadRequest

if TYPE_CHECKING:
    from collector.ingest.connection import Connection

JSON = "application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_date = (0, b"")


def date_line() -> bytes:
    """The Date header of an answer that is sent now."""
    global _date  # noqa: PLW0603  once a second
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\n")
    return _date[1]


class Reply:
    """A status, headers and a body, put together once and sent many times."""

    __slots__ = ("body", "count", "head", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        content_type: str | None = JSON,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.status = status
        self.body = body
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        if status not in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
            lines.append(f"Content-Length: {len(body)}")
        lines.extend(f"{name}: {value}" for name, value in headers)
        self.head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n"
        self.count = metrics.requests.labels(f"{status // 100}xx")

    @classmethod
    def json(cls, status: int, value: object, headers: Iterable[tuple[str, str]] = ()) -> "Reply":
        """A reply with *value* as its JSON body."""
        return cls(status, msgspec.json.encode(value), JSON, headers)


class Request:
    """One request as handlers see it: the parsed head, and the body's stream."""

    __slots__ = (
        "_task",
        "content",
        "cookie_line",
        "message",
        "path",
        "protocol",
        "query_string",
        "received_at",
    )

    def __init__(
        self, message: RawRequestMessage, content: StreamReader, protocol: "Connection"
    ) -> None:
        self.message = message
        self.content = content
        self.protocol = protocol
        self._task: Any = None  # the server sets and clears it
        self.cookie_line = b""  # a header line of the answer, if there is one
        target = message.path
        if not target.startswith("/"):  # absolute form, as sent to a proxy
            target = message.url.raw_path_qs
        self.path, _, self.query_string = target.partition("?")
        # Before the body arrives: a slow upload is not a clock that is wrong.
        self.received_at = time.time_ns() // 1000

    # What the server's connection handling asks of a request.
    def _finish(self) -> None:
        pass

    def _cancel(self, exc: BaseException) -> None:
        """The connection is gone: a body that is still being read ends here."""
        if not self.content.is_eof():
            self.content.set_exception(exc)

    @property
    def method(self) -> str:
        return self.message.method

    def header(self, name: str) -> str | None:
        return self.message.headers.get(name)

    def headers(self, name: str) -> list[str]:
        return self.message.headers.getall(name, [])

    @property
    def peer(self) -> str | None:
        """The address at the other end of the connection."""
        peer = self.protocol.peername
        return peer[0] if isinstance(peer, tuple) else None

    def query(self, pairs_max: int = 500) -> dict[str, str]:
        """The query's parameters, decoded once as forms are; the first of one name counts."""
        found: dict[str, str] = {}
        for pair in self.query_string.split("&", pairs_max)[:pairs_max]:
            name, _, value = pair.partition("=")
            found.setdefault(
                unquote_plus(name, errors="replace"), unquote_plus(value, errors="replace")
            )
        return found

    @property
    def content_length(self) -> int | None:
        """The announced size of the body in bytes, or None for a chunked one."""
        text = self.message.headers.get("Content-Length")
        if text is not None:
            return int(text)
        return None if self.message.chunked else 0

    def expect(self) -> None:
        """Tell a client that waits for it to send its body."""
        expectation = self.message.headers.get("Expect")
        if expectation is None or self.message.version < HttpVersion11:
            return
        if expectation.lower() != "100-continue":
            raise BadRequest(
                "unknown_expectation", "only Expect: 100-continue is understood", status=417
            )
        if not self.content.is_eof() and self.protocol.transport is not None:
            self.protocol.transport.write(CONTINUE)


class Sent:
    """A reply to one request, in the shape in which the server finishes responses."""

    __slots__ = ("_extra", "_reply", "_request", "keep_alive")

    def __init__(self, request: Request, reply: Reply, extra: bytes = b"") -> None:
        self._request = request
        self._reply = reply
        self._extra = extra
        self.keep_alive = not request.message.should_close

    def close(self) -> "Sent":
        """End the connection after this reply."""
        self.keep_alive = False
        return self

    async def prepare(self, _: object) -> None:
        """Write the reply, and wait for a client that does not read what it is sent."""
        self.write()
        await self._request.protocol.drain()

    def write(self) -> None:
        """Write the reply."""
        request, reply = self._request, self._reply
        protocol = request.protocol
        transport = protocol.transport
        reply.count.inc()
        if transport is None or transport.is_closing():
            return
        if protocol.stopping:
            self.keep_alive = False
        if not self.keep_alive:
            connection = b"Connection: close\r\n"
        elif request.message.version < HttpVersion11:
            connection = b"Connection: keep-alive\r\n"
        else:
            connection = b""
        body = b"" if request.message.method == "HEAD" else reply.body
        transport.write(b"".join((reply.head, self._extra, date_line(), connection, b"\r\n", body)))

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class LastSent(Sent):
    """The answer to what cannot be read: the rest of it may still be on its way."""

    __slots__ = ()

    async def write_eof(self) -> None:
        """Hang up when the client does: a reset in the middle of its sending loses the answer."""
        await self._request.protocol.linger()
