"""
Segment: events go on to Segment, or to whatever takes what Segment takes: RudderStack, Jitsu,
Customer.io, another collector.

    POST endpoint   {"batch": [{…, "timestamp", "originalTimestamp", "sentAt"}, …]}

A receiver corrects the clock of a device by receivedAt - (sentAt - originalTimestamp). We did that
already, and our delay is none of the device's, so each event gets a sentAt of its own, as if its
device sent it now by its own clock; there is none beside the batch:

    sentAt = originalTimestamp + (now - timestamp)

That gives `timestamp` again, and a receiver that leaves it alone when both are given (RudderStack,
another collector) keeps both. Segment's own API takes `timestamp` for the original and computes
with that, so that a skew would come back: there originalTimestamp is `timestamp`, and sentAt now.
`original_timestamp` says which; `auto` knows the hosts of Segment and of Customer.io.

Loops: each way out, which is an endpoint with a write key, has a mark, and leaves it in
`context.collectors` of what passes. An event that has the mark comes by for the second time, and
is skipped, as is one with `MARKS_MAX` marks. The header `X-Collector-Forwarded` shows it to others.

Limits   Segment's: 500 KB to a batch, 32 KB to an event, 2,500 events. A receiver remembers
         messageIds for a day or so: that is how it knows what was sent twice.
Errors   as `answers.py` reads the status. Segment answers 200 to a wrong key, too.
Source   Segment, "HTTP Tracking API Source" and "Spec: Common Fields"
"""

import asyncio
import gzip
import hashlib
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Raw

from collector.destinations.answers import judge
from collector.destinations.base import (
    TAKEN,
    Destination,
    Mail,
    Mapped,
    Outcome,
    Parcel,
    Refused,
    Skipped,
)
from collector.destinations.outbound import Outbound, check_url
from collector.destinations.settings import DestinationSettings, Text
from collector.event import EVENT_TYPES
from collector.refine.clock import EARLIEST, LATEST
from collector.settings import Bytes
from collector.store.stored import moment

SEGMENT_US: Final = "https://api.segment.io/v1/batch"
CORRECTING_HOSTS: Final = ("segment.io", "segment.com", "segmentapis.com", "customer.io")
MARKS: Final = "collectors"  # in `context`: the ways that an event has gone
MARKS_MAX = 8
GZIP_LEVEL = 1  # events shrink to a seventh; higher levels take twice the time for little
SENT_AT: Final = b',"sentAt":"%b"}'
SENT_AT_BYTES: Final = len(SENT_AT % b"2026-01-01T00:00:00.000000Z")
encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_marks = msgspec.json.Decoder(list[str]).decode


class SegmentSettings(DestinationSettings, frozen=True, kw_only=True, tag="segment"):
    """Where events go on to, and what is taken there."""

    secrets: ClassVar[tuple[str, ...]] = ("write_key",)

    endpoint: Text = SEGMENT_US  # the whole address, as https://events.eu1.segmentapis.com/v1/batch
    write_key: Text  # of the source there
    event_bytes_max: Bytes = 32_768  # another collector takes 262_144
    original_timestamp: Literal["auto", "keep", "replace"] = "auto"  # whose clock has the receiver?
    gzip: bool = False

    batch_events_max: Annotated[int, Meta(gt=0, le=2_500)] = 500
    batch_bytes_max: Bytes = 475_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self.endpoint)
        if not (self.write_key.isascii() and self.write_key.isprintable()):
            raise ValueError("write_key is not plain ASCII")
        if self.event_bytes_max > self.batch_bytes_max:
            raise ValueError("event_bytes_max is more than batch_bytes_max: raise the latter")

    def build(self, http: Outbound) -> "Segment":
        return Segment(self, http)

    @property
    def keeps_original(self) -> bool:
        """Whether the receiver leaves `timestamp` alone when it is given the original as well."""
        if self.original_timestamp != "auto":
            return self.original_timestamp == "keep"
        host = f".{urlsplit(self.endpoint).hostname or ''}"
        return not host.endswith(tuple(f".{name}" for name in CORRECTING_HOSTS))


class Item(NamedTuple):
    """One event, written but for its sentAt."""

    text: bytes  # without the last brace
    lead: int  # microseconds by which the device's clock is ahead of ours


class Segment(Destination[SegmentSettings]):
    """One source at Segment, or at something like it."""

    types: ClassVar[frozenset[str]] = EVENT_TYPES
    integrations: ClassVar[tuple[str, ...]] = ("Segment", "Segment.io")

    def __init__(self, settings: SegmentSettings, http: Outbound) -> None:
        super().__init__(settings, http)
        key = settings.write_key
        self._keeps_original = settings.keeps_original
        self.mark = hashlib.sha256(f"{settings.endpoint}\n{key}".encode()).hexdigest()[:12]
        # A key of two parts, as Jitsu's, is user and password already.
        token = b64encode((key if ":" in key else f"{key}:").encode()).decode()
        self._secrets = (*settings.secret_values(), token)
        self._headers = {
            "Authorization": f"Basic {token}",
            "Content-Type": "application/json",
            "X-Collector-Forwarded": self.mark,
        }
        if settings.gzip:
            self._headers["Content-Encoding"] = "gzip"

    def map(self, mail: Mail) -> Mapped:
        event = mail.event
        if mail.restricted:  # there is no flag for it that every receiver knows
            return Skipped("opt_out")
        context = self._marked(event.context_text)
        if context is None:
            return Skipped("loop")
        message = event.message()
        for name in ("writeKey", "sentAt", "receivedAt"):
            message.pop(name, None)
        original = event.timestamp
        if self._keeps_original and event.original_timestamp is not None:
            original = event.original_timestamp
        message["timestamp"] = _moment(event.timestamp)
        message["originalTimestamp"] = _moment(original)
        message["context"] = context
        text = encode(message)[:-1]
        size = len(text) + SENT_AT_BYTES
        if size > self.settings.event_bytes_max:
            return Refused(
                "too_large",
                f"{size} bytes, and `event_bytes_max` is {self.settings.event_bytes_max}: "
                "raise it if the receiver takes more, or drop fields with an override",
            )
        return Parcel(event.message_id, Item(text, original - event.timestamp), size + 1)

    async def send(self, batch: Sequence[Parcel], *, test: bool = False) -> Sequence[Outcome]:
        now = time.time_ns() // 1_000
        ends: dict[int, bytes] = {}  # most devices share a lead: none
        for parcel in batch:
            lead = parcel.payload.lead
            if lead not in ends:
                ends[lead] = SENT_AT % moment(min(max(now + lead, EARLIEST), LATEST)).encode()
        items = [parcel.payload.text + ends[parcel.payload.lead] for parcel in batch]
        items[0] = b'{"batch":[' + items[0]
        items[-1] += b"]}"
        body = b",".join(items)  # copied once
        if self.settings.gzip:
            body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
        answer = await self.http.send("POST", self.settings.endpoint, body, self._headers)
        judge(answer, secrets=self._secrets)
        return [TAKEN] * len(batch)

    def _marked(self, context: bytes | None) -> Raw | None:
        """*context* with our mark; None if it is there already, or too many are."""
        own = encode([self.mark])
        if context is None or context in {b"{}", b"null"}:
            return Raw(b'{"%b":%b}' % (MARKS.encode(), own))
        if not context.startswith(b"{"):
            return Raw(context)
        if MARKS.encode() not in context:  # the rest need not be read
            return Raw(b'{"%b":%b,%b' % (MARKS.encode(), own, context[1:]))
        members: dict[str, Any] = _decode_members(context)
        try:
            marks = _decode_marks(members.get(MARKS, b"[]"))
        except msgspec.ValidationError:  # not ours
            marks = []
        if self.mark in marks or len(marks) >= MARKS_MAX:
            return None
        members[MARKS] = [*marks, self.mark]
        return Raw(encode(members))


def _moment(at: int) -> str:
    """*at* as ISO 8601, microseconds kept where there are any."""
    text = moment(at)
    micros = at % 1_000
    return f"{text[:-1]}{micros:03d}Z" if micros else text
