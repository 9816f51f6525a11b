"""
Intake: from one request to a frame in the journal, whatever protocol it came by.

Puts everything that refining needs into the envelope, so that refining the same frame again gives
the same events, and returns once the frame is on disk. Requests that are turned down are counted,
and a bounded number a minute leaves a rejected event behind to look at.

Errors   as body.py, decode.py and auth.py raise; Busy and JournalError from the journal.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable

import xxhash

from collector import metrics
from collector.errors import BadRequest, CollectorError
from collector.event import Envelope, Refusal, encode_envelope
from collector.ingest.address import Proxies, plain
from collector.ingest.auth import Sources, key_of_basic
from collector.ingest.body import InFlight, receive, too_large, unzip
from collector.ingest.cookies import ad_cookies
from collector.ingest.cors import Cors
from collector.ingest.decode import REFUSED_DATA_BYTES, Decoded, Decoder
from collector.ingest.protocol import Request
from collector.ingest.rates import Rates
from collector.ingest.settings import IngestSettings, SourceSettings
from collector.journal import Frame, Journal

log = logging.getLogger(__name__)

TEXT_CHARS = 2048  # of a user agent or referrer, so much is kept
REQUEST_ID_CHARS = 200
DAY = 86_400_000_000  # microseconds


class Intake:
    """The way into the journal that all protocols share."""

    def __init__(
        self, settings: IngestSettings, sources: Sources, rates: Rates, journal: Journal
    ) -> None:
        self.settings = settings
        self.rates = rates
        self.sources = sources
        self.cors = Cors(sources)
        self.decoder = Decoder(settings)
        self.proxies = Proxies(settings.trusted_proxies)
        self.journal = journal
        self._in_flight = InFlight(settings.body_bytes_in_flight_max)
        self._seed = os.urandom(8)
        self._seeds = 0
        self._kept = 0
        self._kept_since = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def admit(self, request: Request) -> None:
        """Raise BadRequest for too long an address to be kept, Busy for one that asks too often."""
        if len(request.path) + len(request.query_string) > self.settings.url_bytes_max:
            raise BadRequest("url_too_large", "the address is too long: use POST", status=414)
        if self.rates.by_address:
            self.rates.admit(self.address(request))

    async def body(self, request: Request) -> "Body":
        """The request's body, unzipped; the caller releases it when it is done."""
        self.admit(request)
        self.journal.check_room()
        settings = self.settings
        announced = request.content_length
        body = Body(self._in_flight)
        try:
            if announced is not None and announced > settings.body_bytes_max:
                raise too_large(settings.body_bytes_max)
            request.expect()
            raw = await receive(
                request.content, settings.body_bytes_max, settings.body_seconds, body.take
            )
            encoding = request.header("Content-Encoding")
            if encoding is not None:
                raw = await unzip(raw, encoding, settings.body_bytes_max)
                body.take(len(raw))
        except BaseException as exc:
            body.release()
            if isinstance(exc, BadRequest):
                self.keep(request, exc)
            raise
        body.data = raw
        metrics.body_bytes.inc(len(raw))
        return body

    def address(self, request: Request) -> str | None:
        """The address of who asks, seen through the proxies that are trusted."""
        peer = request.peer
        if self.proxies.trusts(peer):
            return self.proxies.client(request.headers("X-Forwarded-For"), plain(peer))
        return plain(peer)

    def key(self, request: Request, parameters: dict[str, str] | None) -> str | None:
        """The write key outside the body, if there is one."""
        key = request.header("X-Write-Key")
        if key:
            return key
        if parameters and (key := parameters.get("writeKey")):
            return key
        authorization = request.header("Authorization")
        return key_of_basic(authorization, self.sources.pairs) if authorization else None

    def source(self, request: Request, key: str | None) -> SourceSettings:
        """The source that *key* belongs to, if the page that sends may use it."""
        source = self.sources.find(key)
        self.cors.check(request, source)
        return source

    def accept(
        self,
        request: Request,
        source: SourceSettings,
        call: str,
        decoded: Decoded,
        by_server: bool = False,
        click: bool = False,
    ) -> Awaitable[int]:
        """
        Journal what was decoded; to be awaited, which ends when it is on disk.

        *by_server* says that no person's own device sent it, whatever kind the source is of;
        *click* that one did, which followed a link.
        """
        if source.events_per_second:
            self.rates.charge(source, decoded.events)
        envelope = self._envelope(request, source.name, call, decoded.body, decoded.refusals)
        envelope.sound = not decoded.problems
        browser = source.kind == "browser"
        if browser and not click:
            envelope.public = True
            envelope.mixed = source.mixed
            if source.timestamp_days_max:
                envelope.oldest = request.received_at - source.timestamp_days_max * DAY
        envelope.image = request.method == "GET" and not click
        if click or (browser and not by_server):
            headers = request.message.headers
            envelope.device = True
            envelope.gpc = headers.get("Sec-GPC") == "1"
            if source.cookie_name or "Cookie" in headers:
                self._visit(request, source, envelope, click=click)
        frame = Frame(encode_envelope(envelope), source.name, decoded.events)
        return self.journal.append(frame)

    def _visit(
        self, request: Request, source: SourceSettings, envelope: Envelope, *, click: bool
    ) -> None:
        """Put into *envelope* what the browser's cookies say of the person."""
        if source.ad_cookies:
            envelope.cookies = ad_cookies(request.headers("Cookie"), gpc=envelope.gpc) or None
        identity = self.sources.identities.get(source.name)
        if identity is not None:
            identity.visit(request, envelope, click=click)

    def _envelope(
        self, request: Request, source: str, call: str, body: bytes, refusals: list[Refusal]
    ) -> Envelope:
        headers = request.message.headers
        agent = headers.get("User-Agent")
        referrer = headers.get("Referer")
        peer = request.peer
        seed = None
        address = plain(peer)
        if self.proxies.trusts(peer):
            address = self.proxies.client(request.headers("X-Forwarded-For"), address)
            # A proxy that tries again sends the same request id: the retry is a duplicate. The
            # body counts too, in case a client's own constant id is passed on.
            if request_id := headers.get("X-Request-ID"):
                text = f"{source} {request.path} {request_id[:REQUEST_ID_CHARS]} "
                seed = xxhash.xxh3_128_digest(text.encode(errors="replace") + body)
        return Envelope(
            source=source,
            call=call,
            received_at=request.received_at,
            seed=seed or self._next_seed(),
            body=body,
            address=address,
            user_agent=printable(agent),
            referrer=printable(referrer),
            refusals=refusals,
        )

    def _next_seed(self) -> bytes:
        self._seeds += 1
        return self._seed + self._seeds.to_bytes(8, "big")

    def keep(
        self, request: Request, error: BadRequest, data: bytes = b"", source: str = ""
    ) -> None:
        """Leave a rejected event of a request that was turned down, of a few a minute."""
        now = time.monotonic()
        if now - self._kept_since >= 60:
            self._kept_since = now
            self._kept = 0
        if self._kept >= self.settings.refusals_kept_per_minute:
            return
        self._kept += 1
        refusal = Refusal(0, error.code, error.detail, data[:REFUSED_DATA_BYTES])
        envelope = self._envelope(request, source, "", b"", [refusal])
        # No event of it was accepted, and the sender does not wait for it.
        task = asyncio.get_running_loop().create_task(
            self._append(Frame(encode_envelope(envelope), source, 0))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until what is still being kept is on disk, or is given up."""
        await asyncio.gather(*self._tasks)

    async def _append(self, frame: Frame) -> None:
        try:
            self.journal.check_room()
            await self.journal.append(frame)
        except CollectorError:
            pass  # it was counted; keeping it is a courtesy


class Body:
    """A body in memory, counted until it is released."""

    __slots__ = ("_in_flight", "_taken", "data")

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._taken = 0
        self.data = b""

    def take(self, size: int) -> None:
        self._in_flight.take(size)
        self._taken += size

    def release(self) -> None:
        self._in_flight.give(self._taken)
        self._taken = 0


def printable(text: str | None) -> str | None:
    """A header as it is kept: bytes that were no UTF-8 are replaced, and it has an end."""
    if not text:
        return None
    return text[:TEXT_CHARS].encode(errors="replace").decode().replace("\0", "")
