"""
Event: the shapes that cross rooms.

    bytes ──ingest──▶ Envelope ──journal──▶ Envelope ──refine──▶ Event | Rejection ──▶ store

Shapes   Envelope   one accepted request, with everything that refining it needs (msgpack).
         WireEvent  one event as senders write it; what need not be read stays raw JSON.
         Event      one refined event: a row of `collector.events`.
         Rejection  one event that was turned down, and why: a row of `collector.rejected_events`.
Units    times are microseconds since 1970, UTC, as integers.
Source   Segment, "Spec: Common Fields"
"""

from typing import NamedTuple

import msgspec
from msgspec import Raw

EVENT_TYPES = frozenset({"track", "identify", "page", "screen", "group", "alias"})
BATCH = "batch"  # the call that brings many events; every other call is named by its event type

NOTHING = Raw(b"")  # a JSON member that is absent


class WireEvent(msgspec.Struct, gc=False):
    """One event as senders write it: ids as text or whole numbers, the rest raw JSON."""

    type: str | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    messageId: str | int | None = None  # noqa: N815  the names of the wire, here and below
    userId: str | int | None = None  # noqa: N815
    anonymousId: str | int | None = None  # noqa: N815
    groupId: str | int | None = None  # noqa: N815
    previousId: str | int | None = None  # noqa: N815
    timestamp: str | None = None
    originalTimestamp: str | None = None  # noqa: N815
    sentAt: str | None = None  # noqa: N815
    writeKey: str | None = None  # noqa: N815
    context: Raw = NOTHING
    properties: Raw = NOTHING
    traits: Raw = NOTHING
    integrations: Raw = NOTHING


class WireBatch(msgspec.Struct, gc=False):
    """Many events in one body; `context`, `integrations` and `sentAt` apply to all of them."""

    batch: list[WireEvent]
    writeKey: str | None = None  # noqa: N815
    sentAt: str | None = None  # noqa: N815
    context: Raw = NOTHING
    integrations: Raw = NOTHING


class Problem(NamedTuple):
    """Why an event cannot be taken: a fixed word, and a sentence that ends with what to do."""

    code: str
    detail: str


class Refusal(msgspec.Struct, array_like=True, gc=False):
    """An event that could not even be read, as it travels beside the others of its request."""

    index: int
    code: str
    detail: str
    data: bytes


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """One accepted request. Refining the same envelope again gives the same events."""

    source: str
    call: str  # BATCH, or the event type that the path names
    received_at: int
    seed: bytes  # 16 bytes; ids that the sender left out are derived from it
    body: bytes  # strict JSON that Postgres keeps: one event, or an object with "batch"
    device: bool = False  # sent by the person's own device: address and user agent are the person's
    address: str | None = None
    user_agent: str | None = None
    referrer: str | None = None
    refusals: list[Refusal] = []


class Event(msgspec.Struct, gc=False):
    """One refined event. The last five are JSON text in UTF-8, ready for jsonb."""

    message_id: str
    type: str
    source: str
    received_at: int
    timestamp: int
    original_timestamp: int | None
    sent_at: int | None
    event: str | None
    name: str | None
    category: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    previous_id: str | None
    context: bytes | None
    properties: bytes | None
    traits: bytes | None
    integrations: bytes | None
    extra: bytes | None


class Rejection(msgspec.Struct, gc=False):
    """One event that was turned down; *accepted* tells whether its request was answered 200."""

    source: str
    received_at: int
    code: str
    detail: str
    data: bytes  # what was sent, as far as it is kept
    accepted: bool = True
    message_id: str | None = None


encode_envelope = msgspec.msgpack.Encoder().encode
decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
