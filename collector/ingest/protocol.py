"""
Protocol: HTTP as the ingest port speaks it, on aiohttp's parser and connection handling.

This file alone builds on aiohttp's server internals (pinned to a minor version): it skips the
request and response objects of `web.Application`, which cost more than all we do with an event,
and writes replies whose bytes were put together beforehand. What that leaves to us is here and in
tests/ingest/test_http.py: HEAD, HTTP/1.0, `Connection: close`, `Expect: 100-continue`, parser
errors, and deadlines for headers, of which aiohttp has none but its keep-alive timeout.

Units    seconds and bytes.
Source   RFC 9110, RFC 9112
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_plus

import msgspec
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from collector import metrics
from collector.errors import BadRequest, Busy, CollectorError

log = logging.getLogger(__name__)

JSON = "application/json"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
READ_BYTES = 256 << 10  # of a body that nobody has asked for yet
LINE_BYTES = 2048  # of a request that cannot be read, so much is looked at
DRAIN_SECONDS = 30.0  # for a client to read its answers
LINGER_SECONDS = 2.0  # for one that still sends what cannot be read
STOP_POLL_SECONDS = 0.02
HANG_UP_SECONDS = 0.5  # for handlers that are cancelled

_date = (0, b"")


def _date_line() -> bytes:
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
        if status != HTTPStatus.NO_CONTENT:
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

    __slots__ = ("_task", "content", "message", "path", "protocol", "query_string", "received_at")

    def __init__(
        self, message: RawRequestMessage, content: StreamReader, protocol: "Connection"
    ) -> None:
        self.message = message
        self.content = content
        self.protocol = protocol
        self._task: Any = None  # the server sets and clears it
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
        transport.write(
            b"".join((reply.head, self._extra, _date_line(), connection, b"\r\n", body))
        )
        if protocol.writing_paused:  # a client that sends and does not read
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await protocol._drain_helper()
            except TimeoutError:
                protocol.force_close()

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class LastSent(Sent):
    """The answer to what cannot be read: the rest of it may still be on its way."""

    __slots__ = ()

    async def write_eof(self) -> None:
        """Hang up when the client does: a reset in the middle of its sending loses the answer."""
        await self._request.protocol.linger()


Handle = Callable[[Request], Awaitable[Sent]]
ReplyToError = Callable[[CollectorError, bytes], Reply]  # and how its request begins, if known
MoreHeaders = Callable[[Request | None], bytes]  # header lines that every answer carries


class Connection(RequestHandler):
    """One connection: aiohttp's, with a deadline for headers and our words for its errors."""

    __slots__ = ("_begun", "_deadline", "_gone", "_server")

    def __init__(self, server: "Server", **settings: Any) -> None:
        super().__init__(server, loop=server.loop, **settings)
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None
        self._begun = b""  # how a request begins that is not complete yet, or cannot be read
        self._gone: asyncio.Event | None = None  # nothing more is read from it; set once it left

    @property
    def stopping(self) -> bool:
        return self._server.stopping

    def close_if_idle(self) -> None:
        """Hang up, unless a request is under way: that one is answered first."""
        if self._waiter is not None and not self._waiter.done():
            self.force_close()

    async def linger(self) -> None:
        """Say that no more comes, and overhear what the client still sends until it is gone."""
        if self.transport is None or self.transport.is_closing():
            return
        self._gone = asyncio.Event()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            pass

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        metrics.connections.inc()
        if len(self._server._connections) > self._server.connections_max:
            self._refuse(Busy("too_many_connections", "too many connections; try again later"))

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            metrics.connections.dec()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._gone is not None:
            self._gone.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._gone is not None:
            return
        super().data_received(data)
        waiter = self._waiter
        if waiter is None:
            return  # a request is under way
        if not waiter.done():
            # Bytes came and still no request is complete.
            self._begun += data[: LINE_BYTES - len(self._begun)]
            if self._deadline is None:
                self._deadline = self._loop.call_later(self._server.header_seconds, self._too_slow)
            return
        messages = self._messages
        if messages and messages[0][0].__class__ is _ErrInfo:
            # Requests before it in the same piece are gone: the answer to it is that to the first.
            self._begun += data[: LINE_BYTES - len(self._begun)]
        elif self._begun:
            self._begun = b""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        detail = "the request's headers did not arrive in time: resend it"
        self._refuse(BadRequest("header_timeout", detail, status=408))

    def _refuse(self, error: CollectorError) -> None:
        """Answer before there is a request, and hang up."""
        metrics.refused.labels(error.code).inc()
        if self.transport is not None:
            begun = self._begun.lstrip(b"\r\n")
            reply = self._server.reply_to(error, begun)
            reply.count.inc()
            more = self._server.more_headers(None) + _date_line() + b"Connection: close\r\n\r\n"
            body = b"" if begun.startswith(b"HEAD ") else reply.body
            self.transport.write(reply.head + more + body)
        self.force_close()

    def handle_error(  # type: ignore[override]  # a reply is what our handlers return
        self,
        request: Request,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> Sent:
        """What a request gets that could not be parsed, or whose handler failed."""
        begun = self._begun.lstrip(b"\r\n")  # empty lines in front are allowed
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("A request failed inside the collector", exc_info=exc)
            error = BadRequest("internal_error", "the collector failed; resend later", status=500)
            begun = f"{request.method} {request.path}?".encode("utf-8", "surrogateescape")
        elif isinstance(exc, LineTooLong):
            error = BadRequest(
                "header_too_large", "the request line or a header is too long", status=431
            )
        else:
            error = BadRequest("bad_http", "this is not HTTP as RFC 9112 has it")
        metrics.refused.labels(error.code).inc()
        server = self._server
        if begun.startswith(b"HEAD "):
            request.message = request.message._replace(method="HEAD")  # it was not parsed
        kind = Sent if status >= HTTPStatus.INTERNAL_SERVER_ERROR else LastSent
        return kind(request, server.reply_to(error, begun), server.more_headers(request)).close()


class Server(web.Server):
    """Makes connections; *handle* answers every request that could be parsed."""

    def __init__(
        self,
        handle: Handle,
        reply_to: ReplyToError,
        more_headers: MoreHeaders,
        *,
        header_seconds: float,
        idle_seconds: float,
        url_bytes_max: int,
        header_bytes_max: int,
        headers_max: int,
        connections_max: int,
    ) -> None:
        super().__init__(handle, request_factory=self._request)  # type: ignore[arg-type]
        self.loop = asyncio.get_running_loop()
        self.reply_to = reply_to
        self.more_headers = more_headers
        self.header_seconds = header_seconds
        self.connections_max = connections_max
        self.stopping = False
        self._settings: dict[str, Any] = {
            "keepalive_timeout": idle_seconds,
            "max_line_size": url_bytes_max,
            "max_field_size": header_bytes_max,
            "max_headers": headers_max,
            "read_bufsize": READ_BYTES,
            "auto_decompress": False,  # body.py unzips, within bounds of its own
            "access_log": None,
            "logger": log,
        }

    @staticmethod
    def _request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: Connection,
        writer: object,
        task: object,
    ) -> Request:
        return Request(message, payload, protocol)

    async def stop(self, seconds: float) -> None:
        """Close what is idle, give requests under way *seconds* to be answered, end the rest."""
        self.stopping = True
        until = self.loop.time() + seconds
        while True:
            # Its own shutdown comes last: from then on not even the rest of a body is read.
            for connection in list(self._connections):
                assert isinstance(connection, Connection)
                connection.close_if_idle()
            if not self._connections or self.loop.time() >= until:
                break
            await asyncio.sleep(STOP_POLL_SECONDS)
        await self.shutdown(HANG_UP_SECONDS)

    def __call__(self) -> Connection:
        return Connection(self, **self._settings)
