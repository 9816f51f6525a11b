"""
Admin: the second port, for the operator's eyes: metrics, health and the state of everything.

    GET /metrics        Prometheus; carries nothing personal
    GET /health/live    200 while the event loop turns
    GET /health/ready   200 while events can be journaled; Postgres may be away, the body says so
    GET /status         what `collector status` shows
    …                   destinations, dead letters, replays and traces: see api.py
    POST /links         click links: see links.py

`/metrics` and `/health` answer any Host. All else checks Host against an allow-list (DNS
rebinding) and Sec-Fetch-Site or Origin (requests made by other sites' pages), and asks for a token
when the port listens beyond loopback.

Errors   JSON with `code` and `message`, as on the ingest port.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from collector import metrics
from collector.admin.answers import answer, problem
from collector.admin.api import BODY_BYTES_MAX, Api
from collector.admin.links import LinkMaker
from collector.errors import CollectorError, ConfigError
from collector.settings import Port, Section
from collector.store.desk import Connect

Facts = Callable[[], dict[str, Any]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = ("/metrics", "/health/live", "/health/ready")
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


class AdminSettings(Section, frozen=True, kw_only=True):
    """The port for operators."""

    host: str = "127.0.0.1"
    port: Port = 8090
    allowed_hosts: list[str] = []  # names this port is reached by, besides localhost and `host`
    token: str = ""  # asked for when `host` is not loopback


def is_loopback(host: str) -> bool:
    """Whether *host* can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Admin:
    """
    The admin port. *ready* raises what keeps events from being journaled; *connect* gives a
    connection to Postgres, without which there is nothing to be asked about deliveries; *links*
    makes click links.
    """

    def __init__(
        self,
        settings: AdminSettings,
        ready: Callable[[], None],
        status: Facts,
        connect: Connect | None = None,
        links: LinkMaker | None = None,
    ) -> None:
        self._settings = settings
        self._ready = ready
        self._status = status
        self._connect = connect
        self._links = links
        self._hosts = {*LOOPBACK_HOSTS, settings.host, *settings.allowed_hosts}
        self._runner: web.AppRunner | None = None
        self.port = settings.port

    async def start(self) -> None:
        """Listen. ConfigError if the address cannot be had."""
        app = web.Application(middlewares=[self._guard], client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._health)
        app.router.add_get("/status", self._show)
        if self._connect is not None:
            app.router.add_routes(Api(self._connect).routes())
        if self._links is not None:
            app.router.add_routes(self._links.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        settings = self._settings
        try:
            await web.TCPSite(self._runner, settings.host, settings.port).start()
        except OSError as exc:
            raise ConfigError(
                f"admin cannot listen on {settings.host}:{settings.port} ({exc.strerror or exc}): "
                "stop what uses the port, or set admin.host and admin.port"
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    # --- who may ask -----------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS and (refusal := self._refusal(request)):
            return refusal
        try:
            return await handler(request)
        except web.HTTPException as exc:
            return problem(exc.status, exc.reason.lower().replace(" ", "_"), exc.text or "")

    def _refusal(self, request: web.Request) -> web.Response | None:
        host = request.host.rpartition(":")[0] if ":" in request.host else request.host
        host = host.strip("[]") or request.host.strip("[]")
        if host not in self._hosts:
            return problem(
                403, "unknown_host", "this name is not in admin.allowed_hosts: add it, or use an IP"
            )
        site = request.headers.get("Sec-Fetch-Site")
        origin = request.headers.get("Origin")
        if site not in {None, "same-origin", "none"} or (
            site is None and origin not in {None, f"{request.scheme}://{request.host}"}
        ):
            return problem(403, "foreign_site", "other sites' pages may not ask here")
        if is_loopback(self._settings.host):
            return None
        token = self._settings.token
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and hmac.compare_digest(token.encode(), given.encode(errors="replace")):
            return None
        return problem(
            401, "missing_token", "send Authorization: Bearer with the token of admin.token"
        )

    # --- answers ---------------------------------------------------------------------------

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(metrics.REGISTRY), headers={"Content-Type": content_type})

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _health(self, request: web.Request) -> web.Response:
        store = self._status()["store"]
        body = {"postgres": "up" if store["up"] else "away"}
        try:
            self._ready()
        except CollectorError as exc:
            return answer(
                503, {"status": "not_ready", "code": exc.code, "reason": exc.detail} | body
            )
        return answer(200, {"status": "ready"} | body)

    async def _show(self, request: web.Request) -> web.Response:
        return answer(200, self._status())
