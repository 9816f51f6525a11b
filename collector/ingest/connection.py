"""
Connections: HTTP as the ingest port speaks it, on aiohttp's parser and connection handling.

This file alone builds on aiohttp's server internals (pinned to a minor version). What is ours are
deadlines for headers, of which aiohttp has none but its keep-alive timeout, a short cut for
requests that are here as a whole, and words for parser errors. tests/ingest/test_conformance.py
asks the same of this port and of a plain aiohttp server.

Units    seconds and bytes.
Source   RFC 9110, RFC 9112
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from collector import metrics
from collector.errors import BadRequest, Busy, CollectorError
from collector.ingest.protocol import LastSent, Reply, Request, Sent, date_line

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10  # of a body that nobody has asked for yet
LINE_BYTES = 2048  # of a request that cannot be read, so much is looked at
AT_ONCE = 16  # requests of one connection that are answered before others get a turn
DRAIN_SECONDS = 30.0  # for a client to read its answers
LINGER_SECONDS = 2.0  # for one that still sends what cannot be read
STOP_POLL_SECONDS = 0.02
HANG_UP_SECONDS = 0.5  # for handlers that are cancelled

Handle = Callable[[Request], Coroutine[Any, None, Sent]]
ReplyToError = Callable[[CollectorError, bytes], Reply]  # and how its request begins, if known
MoreHeaders = Callable[[Request | None], bytes]  # header lines that every answer carries


class Connection(RequestHandler):
    """One connection: aiohttp's, with a deadline for headers and our words for its errors."""

    __slots__ = (
        "_begun",
        "_busy",
        "_deadline",
        "_gone",
        "_quick",
        "_request",
        "_resting",
        "_server",
    )

    def __init__(self, server: "Server", **settings: Any) -> None:
        super().__init__(server, loop=server.loop, **settings)
        self._server = server
        self._busy = False  # a request is being handled without a task
        self._quick: Coroutine[Any, None, Sent]  # its handler
        self._request: Request
        self._resting: asyncio.Task[None]  # until the client reads
        self._deadline: asyncio.TimerHandle | None = None
        self._begun = b""  # how a request begins that is not complete yet, or cannot be read
        self._gone: asyncio.Event | None = None  # nothing more is read from it; set once it left

    @property
    def stopping(self) -> bool:
        return self._server.stopping

    def close_if_idle(self) -> None:
        """Hang up, unless a request is under way: that one is answered first."""
        if self._busy or self._messages:
            return
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
        # Without a waiter the base class leaves what it has parsed in `_messages`.
        waiter, self._waiter = self._waiter, None
        super().data_received(data)
        self._waiter = waiter
        if waiter is None or waiter.done() or self._busy:
            return  # a request is under way
        messages = self._messages
        if not messages:
            # Bytes came and still no request is complete.
            self._begun += data[: LINE_BYTES - len(self._begun)]
            if self._deadline is None:
                self._deadline = self._loop.call_later(self._server.header_seconds, self._too_slow)
            return
        if messages[0][0].__class__ is _ErrInfo:
            # Requests before it in the same piece are gone: the answer to it is that to the first.
            self._begun += data[: LINE_BYTES - len(self._begun)]
        elif self._begun:
            self._begun = b""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._server.soon(self)

    # --- requests that are complete --------------------------------------------------------
    #
    # aiohttp makes a task for each request, which costs more than most requests do. One that is
    # here with its body, as most are, is handled without: its coroutine is run until it waits for
    # the journal, and again when that is done. Whatever is not as plain as that is left to
    # aiohttp's `start`, which waits in `_waiter` meanwhile.

    def go_on(self) -> None:
        """Handle the requests that have arrived, in their order."""
        for _ in range(AT_ONCE):
            waiter = self._waiter
            if self._busy or not self._messages or waiter is None or waiter.done():
                return
            message, payload = self._messages[0]
            if isinstance(message, _ErrInfo) or not _is_plain(message, payload):
                waiter.set_result(None)
                return
            self._busy = self._request_in_progress = True
            self._messages.popleft()
            assert self._parser is not None
            assert self._manager is not None
            self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            self._manager.requests_count += 1
            self._request = Request(message, payload, self)
            self._quick = self._server.handle(self._request)
            self._step()
        self._loop.call_soon(self.go_on)  # others want their turn

    def _step(self) -> None:
        """Run the handler until it waits for something or has its reply."""
        try:
            awaited = self._quick.send(None)
        except StopIteration as done:
            self._answer(done.value)
        except asyncio.CancelledError:
            self.force_close()
        except Exception as exc:  # noqa: BLE001  it is logged, and answered
            self._answer(self.handle_error(self._request, 500, exc))
        else:
            if awaited is None:  # it only gives others a turn
                self._loop.call_soon(self._resume)
            else:
                awaited._asyncio_future_blocking = False
                awaited.add_done_callback(self._resume)

    def _resume(self, _: object = None) -> None:
        self._step()
        self.go_on()

    def _answer(self, sent: Sent) -> None:
        sent.write()
        del self._quick, self._request
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if self.transport is None:
            return  # the client is gone
        if not sent.keep_alive:
            self.force_close()
        elif self.writing_paused:
            self._resting = self._loop.create_task(self._rest())
        else:
            self._busy = False
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    async def _rest(self) -> None:
        try:
            await self.drain()
        except ConnectionError:
            return  # the client is gone
        self._busy = False
        self.go_on()

    def _process_keepalive(self) -> None:
        if self._busy:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    async def drain(self) -> None:
        """Wait for a client that sends and does not read, so long; then hang up."""
        if self.writing_paused:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await self._drain_helper()
            except TimeoutError:
                self.force_close()

    # --- errors ----------------------------------------------------------------------------

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
            more = self._server.more_headers(None) + date_line() + b"Connection: close\r\n\r\n"
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


def _is_plain(message: RawRequestMessage, payload: StreamReader) -> bool:
    """Whether this is a complete request in HTTP/1.1 on a connection that goes on after it."""
    return (
        payload.is_eof()
        and message.method in {"GET", "POST"}
        and message.version == HttpVersion11
        and not message.should_close
        and not message.upgrade
    )


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
        self.handle = handle
        self.reply_to = reply_to
        self.more_headers = more_headers
        self.header_seconds = header_seconds
        self.connections_max = connections_max
        self.stopping = False
        self._ready: list[Connection] = []
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

    def soon(self, connection: Connection) -> None:
        """
        Have *connection* go on when all that can be read now was read.

        The event loop takes the interpreter's lock anew for each socket that has something;
        requests handled there would have it change hands with the journal's thread all the time.
        """
        if not self._ready:
            self.loop.call_soon(self._go_on)
        self._ready.append(connection)

    def _go_on(self) -> None:
        ready, self._ready = self._ready, []
        for connection in ready:
            connection.go_on()

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
