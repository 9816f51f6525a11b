"""
Webhook: every event as JSON to an address of one's own.

    single   POST url   {"messageId": …, "type": …, …}    one request for each event
    batch    POST url   [{…}, {…}, …]                     up to `batch_events_max`

The body is the event as Segment's API has it. It is written once: the bytes that are signed are the
bytes that are sent. Signatures:

    segment  X-Signature: hex of HMAC-SHA1 of the body; of a batch, as Segment does it, of the text
             of its first element alone
    v2       X-Signature-256: t=<seconds since 1970>,v1=<hex of HMAC-SHA256 of "<t>." and the body>

Limits   Segment's: 4,000 events to a batch, an answer within 5 s.
Errors   as `answers.py` reads the status. Of an event alone `Idempotency-Key` is its messageId.
Source   Segment, "Webhooks Destination" and "Webhook (Actions) Destination"
"""

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Meta

from collector.destinations.answers import judge
from collector.destinations.base import (
    TAKEN,
    Destination,
    Mail,
    Mapped,
    Outcome,
    Parcel,
    Skipped,
)
from collector.destinations.outbound import Outbound, check_url
from collector.destinations.settings import DestinationSettings, Text
from collector.event import EVENT_TYPES
from collector.settings import Count, Seconds, SecondsOrNone

VERSION: Final = 2  # of Segment's tracking API, as its own webhooks say it
WITH_VERSION: Final = b',"version":%d}' % VERSION
HEADERS_MAX = 50
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
OURS: Final = frozenset(  # headers that belong to the request, not to the settings
    {"connection", "content-encoding", "content-length", "host", "idempotency-key"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "x-signature", "x-signature-256"}
)
encode = msgspec.json.Encoder().encode


class WebhookSettings(DestinationSettings, frozen=True, kw_only=True, tag="webhook"):
    """Where events are posted to, and how the receiver knows that it was us."""

    secrets: ClassVar[tuple[str, ...]] = ("secret", "headers")

    url: Text
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: dict[str, str] = {}  # added to each request
    signature: Literal["none", "segment", "v2"] = "none"
    secret: str = ""  # what requests are signed with
    batch: bool = False  # events as an array instead of one by one

    timeout_seconds: Seconds = 5.0
    concurrency: Count = 4
    batch_events_max: Annotated[int, Meta(gt=0, le=4_000)] = 1_000  # without `batch` it is 1
    linger_seconds: SecondsOrNone = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self.url)
        if self.signature != "none" and not self.secret:
            raise ValueError(f"signature {self.signature!r} needs a `secret`")
        if len(self.headers) > HEADERS_MAX:
            raise ValueError(f"more than {HEADERS_MAX} headers")
        for name, value in self.headers.items():
            if not HEADER_NAME.fullmatch(name) or name.lower() in OURS:
                raise ValueError(f"header {name!r} cannot be set: use another name")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"header {name!r} is not plain ASCII: write it so")
        if not self.batch:
            msgspec.structs.force_setattr(self, "batch_events_max", 1)

    def build(self, http: Outbound) -> "Webhook":
        return Webhook(self, http)


class Webhook(Destination[WebhookSettings]):
    """One address that events are posted to."""

    types: ClassVar[frozenset[str]] = EVENT_TYPES
    integrations: ClassVar[tuple[str, ...]] = ("Webhooks", "Webhooks (Actions)")

    def __init__(self, settings: WebhookSettings, http: Outbound) -> None:
        super().__init__(settings, http)
        self._secret = settings.secret.encode()
        self._secrets = settings.secret_values()
        self._headers = dict(settings.headers)
        if not any(name.lower() == "content-type" for name in settings.headers):
            self._headers["Content-Type"] = "application/json"

    def map(self, mail: Mail) -> Mapped:
        if mail.restricted:  # a receiver that we do not know has no flag for it
            return Skipped("opt_out")
        event = mail.event
        if "version" in event.extra or "writeKey" in event.extra:
            message = event.message()
            message.pop("writeKey", None)
            message.setdefault("version", VERSION)
            body = encode(message)
        else:  # the same, with what other webhooks have written already
            body = event.message_text[:-1] + WITH_VERSION
        return Parcel(event.message_id, body, len(body) + 2)  # of a batch, brackets and commas

    async def send(self, batch: Sequence[Parcel], *, test: bool = False) -> Sequence[Outcome]:
        headers = dict(self._headers)
        first: bytes = batch[0].payload
        if self.settings.batch:
            pieces = [parcel.payload for parcel in batch]
            pieces[0] = b"[" + first
            pieces[-1] += b"]"
            body = b",".join(pieces)  # copied once
        else:
            assert len(batch) == 1, "`batch_events_max` is 1"
            body = first
            headers["Idempotency-Key"] = header_value(batch[0].key)
        if self.settings.signature == "segment":
            headers["X-Signature"] = sign_as_segment(self._secret, first)
        elif self.settings.signature == "v2":
            headers["X-Signature-256"] = sign(self._secret, body, int(time.time()))
        answer = await self.http.send(self.settings.method, self.settings.url, body, headers)
        judge(answer, secrets=self._secrets)
        return [TAKEN] * len(batch)


def sign_as_segment(secret: bytes, text: bytes) -> str:
    """The value of `X-Signature` for *text*: the body, or the first element of a batch."""
    return hmac.new(secret, text, hashlib.sha1).hexdigest()


def sign(secret: bytes, body: bytes, at: int) -> str:
    """The value of `X-Signature-256` for *body*, sent *at* seconds since 1970."""
    return f"t={at},v1={hmac.new(secret, b'%d.%b' % (at, body), hashlib.sha256).hexdigest()}"


def header_value(text: str) -> str:
    """*text* as the value of a header: an id may hold anything, a header plain ASCII only."""
    plain = text.isascii() and text.isprintable() and text == text.strip() and "%" not in text
    return text if plain else quote(text, safe="")
