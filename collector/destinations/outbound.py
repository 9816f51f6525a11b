"""
Outbound: how destinations speak HTTP to the outside.

    send ─▶ resolve ─▶ may it be connected to? ─▶ TLS ─▶ request ─▶ answer, up to a bound
            └───────────── Unreachable ─────────────┘ └──────── Ambiguous ────────┘

What tells the two apart is one moment: aiohttp calls `on_request_headers_sent` when it has a
connection, with TLS done, and is about to write the head of the request. Nothing was written
before it, and something may have been after it. Exception classes could not tell: a timeout of
the whole request looks the same wherever it strikes.

An answer is what the server said, whatever it said: redirects are not followed, and the body is
read up to `BODY_BYTES_MAX`. Certificates are always verified, against the system's authorities or
those of `SSL_CERT_FILE`. No proxy, cookie or netrc of the environment is used.

Errors   Unreachable  dns_failed, connect_failed, tls_failed, address_refused, connect_timeout
         Ambiguous    timeout, disconnected, bad_answer
         Denied       bad_url
Units    seconds, bytes.
"""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from yarl import URL

from collector import __version__
from collector.destinations.addresses import REFUSED, Allowance, Resolver
from collector.errors import Ambiguous, CollectorError, Denied, Unreachable

BODY_BYTES_MAX: Final = 65_536  # of an answer that are read; the rest is dropped
LARGE_BYTES: Final = 1_000_000  # from here on a body is written in pieces
USER_AGENT: Final = f"collector/{__version__}"
# A connection is kept this long for another request: less than the 5 s after which many servers
# (Node's, uvicorn) close it, since what is sent just then is in doubt.
SECONDS_BEFORE_CLOSE: Final = 4.0
INFLATE_ANY: Final = 47  # of zlib: gzip or deflate, whichever it is


class Answer(NamedTuple):
    """What came back: the body up to a bound."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        """The body decoded, or None if it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


class Exchange(NamedTuple):
    """One request, and what became of it: an answer or an error."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    answer: Answer | None
    error: CollectorError | None


class Outbound:
    """One destination's connections. They are made when first needed, in the running loop."""

    def __init__(
        self, *, timeout_seconds: float, connections_max: int, private_addresses: Sequence[str]
    ) -> None:
        self.watch: Callable[[Exchange], None] | None = None
        self._timeout_seconds = timeout_seconds
        self._connections_max = connections_max
        self._allowance = Allowance(private_addresses)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """
        Send one request, once, and return its answer, whatever that says.

        Raises Unreachable when nothing of it was sent, Ambiguous when some of it may have been and
        no complete answer came, Denied when *url* is none.
        """
        if not url[:8].lower().startswith(("http://", "https://")):
            shown = url.partition("?")[0][:80]
            raise Denied("bad_url", f"{shown!r} is no address: write it with https://")
        if self._session is None:
            self._session = self._open()
        try:
            answer = await self._exchange(self._session, method, url, body, headers)
        except CollectorError as error:
            if self.watch is not None:
                self.watch(Exchange(method, url, headers, body, None, error))
            raise
        if self.watch is not None:
            self.watch(Exchange(method, url, headers, body, answer, None))
        return answer

    async def close(self) -> None:
        """Close every connection; a later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_begin_to_write)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections_max,
                socket_factory=self._allowance.open_socket,
                resolver=Resolver(),
                use_dns_cache=False,
                keepalive_timeout=SECONDS_BEFORE_CLOSE,
            ),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_seconds,
                ceil_threshold=self._timeout_seconds + 1,  # as it is, not rounded up
            ),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # unbounded, as far as we read; see `_inflate`
            trust_env=False,
            trace_configs=[trace],
        )

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Answer:
        progress = _Progress()
        try:
            async with session.request(
                method,
                url,
                data=body if len(body) < LARGE_BYTES else BytesIO(body),
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=progress,
            ) as response:
                return Answer(response.status, response.headers, await _read(response))
        # `from None`: aiohttp's errors hold the request, with its headers, and show its address.
        except aiohttp.InvalidURL as exc:
            raise Denied(
                "bad_url", f"{exc.description or 'no address'}: set one with http or https"
            ) from None
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as exc:
            host = URL(url).host
            if progress.writing:
                raise self._ambiguous(exc, host) from None
            raise self._unreachable(exc, host) from None

    def _unreachable(self, exc: Exception, host: str | None) -> Unreachable:
        if isinstance(exc, TimeoutError):
            return Unreachable(
                "connect_timeout",
                f"{host} took no connection within {self._timeout_seconds:g} s: "
                "see whether it is up and can be reached from here",
            )
        if REFUSED in _brief(exc):
            return Unreachable(
                "address_refused",
                f"{_brief(exc)}: add its network to `private_addresses` of this destination "
                "if it is meant",
            )
        if isinstance(exc, aiohttp.ClientConnectorDNSError | UnicodeError):
            return Unreachable("dns_failed", f"{_brief(exc)}: look at its name and at your DNS")
        if isinstance(exc, aiohttp.ClientSSLError):
            return Unreachable(
                "tls_failed",
                f"{_brief(exc)}: it needs a valid certificate of an authority that is known here; "
                "name another authority's file in SSL_CERT_FILE",
            )
        return Unreachable("connect_failed", f"{_brief(exc)}: see whether it is up")

    def _ambiguous(self, exc: Exception, host: str | None) -> Ambiguous:
        if isinstance(exc, TimeoutError):
            return Ambiguous(
                "timeout",
                f"{host} gave no complete answer within {self._timeout_seconds:g} s: "
                "raise `timeout_seconds` if it is that slow",
            )
        if isinstance(exc, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
            return Ambiguous(
                "bad_answer", f"{host} answered what is no HTTP, or half of it: {_brief(exc)}"
            )
        return Ambiguous(
            "disconnected", f"{host} ended the connection before its answer: {_brief(exc)}"
        )


class _Progress:
    """How far one request came."""

    __slots__ = ("writing",)

    def __init__(self) -> None:
        self.writing = False


async def _begin_to_write(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    progress: _Progress = context.trace_request_ctx
    if progress.writing:
        # aiohttp sends a PUT again by itself when a connection that was kept turns out to be
        # closed. Sending again is the courier's to decide, who knows what `on_ambiguous` says.
        raise aiohttp.ServerDisconnectedError
    progress.writing = True


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body up to the bound. Of a longer one the rest is dropped, with the connection."""
    pieces: list[bytes] = []
    missing = BODY_BYTES_MAX
    while missing and (piece := await response.content.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    if not missing:
        response.close()
    body = b"".join(pieces)
    if "Content-Encoding" in response.headers:
        return _inflate(body)
    return body


def _inflate(body: bytes) -> bytes:
    """*body* unpacked up to the bound; as it is when it is not packed, or in another way."""
    try:
        return zlib.decompressobj(INFLATE_ANY).decompress(body, BODY_BYTES_MAX)
    except zlib.error:
        return body


def _brief(exc: Exception) -> str:
    """What *exc* says, in a line, without the address that it was for, which may hold a token."""
    if isinstance(exc, aiohttp.ClientConnectorError):
        text = f"{exc.host}:{exc.port}: {exc.os_error}"
    elif isinstance(exc, aiohttp.ClientResponseError):
        text = exc.message
    elif isinstance(exc, OSError) and exc.errno:
        text = os.strerror(exc.errno)
    elif isinstance(exc, aiohttp.ClientPayloadError | UnicodeError):
        text = str(exc)
    else:
        text = type(exc).__name__
    return " ".join(text.split())[:200]


def check_url(url: str) -> None:
    """Raise ValueError with what to do unless *url* can be sent to. It asks no name server."""
    try:
        parts = URL(url)
    except ValueError as exc:
        raise ValueError(f"no address: {exc}") from exc
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise ValueError("no address: write it with https:// or http:// and a host")
    if parts.user is not None or parts.password is not None:
        raise ValueError("user and password do not belong into an address: use a header")
