"""
Server: the routes of the ingest port, its start and stop, and how an error is answered.

    BadRequest     its own status (400, 401, 403, 404, 405, 408, 413, 415, 417, 431)
    Busy           its own status (429, 503) and Retry-After
    JournalError   503 and Retry-After
    anything else  500; it is a defect of ours, and logged as one

Every answer is JSON with `code` and `message` when something is wrong, carries the CORS headers,
and never redirects: SDKs follow a redirect with a bodyless GET and count it as delivered. Signed
click links are the exception (redirect.py).

Every path exists twice more: below `path_prefix`, and below `neutral_path_prefix` for pages whose
visitors block the usual names.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from collector import metrics
from collector.errors import BadRequest, Busy, CollectorError, ConfigError
from collector.ingest.auth import Sources
from collector.ingest.connection import Server
from collector.ingest.intake import Intake
from collector.ingest.links import Links
from collector.ingest.pixel import Pixel, gif
from collector.ingest.protocol import Reply, Request, Sent
from collector.ingest.rates import Rates
from collector.ingest.redirect import Redirect
from collector.ingest.sdk import Sdk
from collector.ingest.senders import Handler, make_senders
from collector.ingest.settings import (
    IngestSettings,
    LimitSettings,
    RedirectSettings,
    SourceSettings,
)
from collector.ingest.tracking import CALLS, Tracking
from collector.journal import Journal

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 10  # when the disk refuses
LINE_BYTES_MAX = 1 << 17  # what the parser takes of a request line, so that we can answer it

# Method and path of a request that cannot be read as a whole; the path has ended.
_LINE = re.compile(rb"(?:GET|HEAD) (?:[hH][tT][tT][pP][sS]?://[^/?# ]*)?([^?# \r\n]*)[?# \r\n]")

_HEALTHY = Reply(200, b'{"status":"ok"}')


class WrongMethod(BadRequest):
    """The path takes other methods: those *allowed*."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = sorted(allowed)
        super().__init__("wrong_method", f"use {' or '.join(self.allowed)} here", status=405)


def reply_to(error: CollectorError) -> Reply:
    """The answer to a request that failed with *error*."""
    body: dict[str, object] = {"success": False, "code": error.code, "message": error.detail}
    body |= error.beside
    if isinstance(error, WrongMethod):
        return Reply.json(error.status, body, [("Allow", ", ".join(error.allowed))])
    if isinstance(error, BadRequest):
        return Reply.json(error.status, body)
    if isinstance(error, Busy):
        return Reply.json(error.status, body, [("Retry-After", str(error.retry_after_seconds))])
    return Reply.json(503, body, [("Retry-After", str(RETRY_AFTER_SECONDS))])


class Ingest:
    """The ingest port. Answers only after the journal has what it acknowledges."""

    def __init__(
        self,
        settings: IngestSettings,
        sources: Sequence[SourceSettings],
        journal: Journal,
        redirect: RedirectSettings | None = None,
        limits: LimitSettings | None = None,
    ) -> None:
        self.settings = settings
        self.links = Links(redirect or RedirectSettings())
        self._intake = Intake(
            settings, Sources(sources), Rates(limits or LimitSettings(), sources), journal
        )
        self.sources = self._intake.sources
        self._cors = self._intake.cors
        self._journal = journal
        self._sdk = Sdk(self._intake, settings)
        self._tracking = Tracking(self._intake)
        self._senders = [
            *make_senders(self._intake, self._tracking, self._sdk),
            Redirect(self._intake, self.links),
        ]
        self._routes: dict[str, dict[str, Handler]] = {}
        self._images: set[bytes] = set()  # the paths of pixels
        self._bases: list[str] = []
        self._server: Server | None = None
        self._listeners: list[asyncio.Server] = []
        for base in dict.fromkeys(("", settings.path_prefix, settings.neutral_path_prefix)):
            self._bases.append(base)
            self._add_routes(base)

    def reload(
        self,
        sources: Sequence[SourceSettings],
        redirect: RedirectSettings,
        limits: LimitSettings,
    ) -> None:
        """From the next request on use these; ConfigError if they cannot be used, and none is."""
        self._intake.rates.use(limits, sources)
        self.sources.use(sources)
        self.links.use(redirect)

    def _add_routes(self, base: str) -> None:
        tracking, pixel = self._tracking, Pixel(self._intake)
        self._route(f"{base}/health", "GET", self._health)
        self._route(f"{base}/v1/m", "POST", self._sdk.metrics)
        self._image(f"{base}/px.gif", pixel.handler(None))
        self._image(f"{base}/lib/line.gif", pixel.handler(None))  # a name that says nothing
        for name, call in CALLS.items():
            self._route(f"{base}/v1/{name}", "POST", tracking.handler(call))
        for call in ("track", "page", "screen", "identify", "group", "alias"):
            self._image(f"{base}/v1/pixel/{call}", pixel.handler(call))
        for sender in self._senders:
            for route in sender.routes():
                if route.image:
                    self._image(base + route.path, route.handler)
                else:
                    self._route(base + route.path, route.method, route.handler)

    def _image(self, path: str, handler: Handler) -> None:
        self._route(path, "GET", handler)
        self._images |= {path.encode(), path.encode() + b"/"}

    def _route(self, path: str, method: str, handler: Handler) -> None:
        # With and without the last slash: a redirect would lose the body.
        methods = self._routes[path + "/"] = self._routes.setdefault(path, {})
        methods[method] = handler
        if method == "GET":
            methods["HEAD"] = handler

    # --- start and stop --------------------------------------------------------------------

    async def start(self) -> None:
        """Listen. ConfigError if the address cannot be had."""
        settings = self.settings
        self._server = Server(
            self._handle,
            self._reply_to_unread,
            self._cors.headers,
            header_seconds=settings.header_seconds,
            idle_seconds=settings.idle_seconds,
            url_bytes_max=max(LINE_BYTES_MAX, settings.url_bytes_max),
            header_bytes_max=settings.header_bytes_max,
            headers_max=settings.headers_max,
            connections_max=settings.connections_max,
        )
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                self._server, settings.host or None, settings.port, backlog=1024
            )
        except (OSError, socket.gaierror) as exc:
            raise ConfigError(
                f"ingest cannot listen on {settings.host}:{settings.port} ({exc.strerror or exc}): "
                "stop what uses the port, or set ingest.host and ingest.port"
            ) from exc
        self._listeners.append(listener)

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 asked for any."""
        port: int = self._listeners[0].sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Take no more connections, finish the requests under way, close the rest."""
        for listener in self._listeners:
            listener.close()
        if self._server is not None:
            await self._server.stop(self.settings.stop_seconds)
        await self._intake.settle()

    # --- requests --------------------------------------------------------------------------

    async def _handle(self, request: Request) -> Sent:
        methods = self._routes.get(request.path)
        handler = None if methods is None else methods.get(request.method)
        try:
            reply = await (self._other(request, methods) if handler is None else handler(request))
        except CollectorError as exc:
            return self._refused(request, exc)
        except MemoryError:
            detail = "the collector has no memory for this now: resend later, or smaller batches"
            return self._refused(request, Busy("out_of_memory", detail))
        more = self._cors.headers(request)
        return Sent(request, reply, more + request.cookie_line if request.cookie_line else more)

    def _refused(self, request: Request, error: CollectorError) -> Sent:
        metrics.refused.labels(error.code).inc()
        if (
            request.method in {"GET", "HEAD"}
            and request.path.encode(errors="replace") in self._images
        ):
            metrics.pixels.labels(error.code).inc()
            reply = gif(error.code)
        else:
            reply = reply_to(error)
        sent = Sent(request, reply, self._cors.headers(request))
        # What is left of a body that nobody will read would be taken for the next request.
        return sent if request.content.is_eof() else sent.close()

    def _reply_to_unread(self, error: CollectorError, begun: bytes) -> Reply:
        """The answer to a request of which no more is known than how it *begun*."""
        line = _LINE.match(begun)
        if line is None or line[1] not in self._images:
            return reply_to(error)
        metrics.pixels.labels(error.code).inc()
        return gif(error.code)

    async def _other(self, request: Request, methods: dict[str, Handler] | None) -> Reply:
        """The answer to a request that no route takes."""
        path = request.path
        if methods is None and (methods := self._find(path)) is not None:
            handler = methods.get("GET" if request.method == "HEAD" else request.method)
            if handler is not None:
                return await handler(request)
        if methods is not None:
            if request.method == "OPTIONS":
                return self._cors.preflight(request)
            raise WrongMethod(methods)
        for base in self._bases:
            rest = path.removeprefix(f"{base}/v1/projects/")
            if rest == path:
                continue
            key, _, last = rest.rstrip("/").rpartition("/")
            if last == "settings" and key and "/" not in key:
                if request.method in {"GET", "HEAD"}:
                    return await self._sdk.settings(request, unquote(key), base)
                if request.method != "OPTIONS":
                    raise WrongMethod(["GET", "HEAD"])
        if request.method == "OPTIONS":
            return self._cors.preflight(request)
        raise BadRequest(
            "not_found",
            "nothing is here: events go to /v1/track, /v1/batch and their like",
            status=404,
        )

    def _find(self, path: str) -> dict[str, Handler] | None:
        """The handlers of a path that carries something of the request."""
        for base in self._bases:
            if path.startswith(base):
                for sender in self._senders:
                    if methods := sender.find(base, path[len(base) :]):
                        return methods
        return None

    async def _health(self, request: Request) -> Reply:
        self._journal.check_room()
        return _HEALTHY
