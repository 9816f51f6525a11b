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

from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Raw

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


BRIEF_CHARS = 128
BriefText = Annotated[str, Meta(max_length=BRIEF_CHARS)]
BriefNumber = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
BriefId = BriefText | BriefNumber | None


class BriefWireEvent(WireEvent, gc=False):
    """
    A wire event of which ids and names are so short that no limit can be exceeded.

    The decoder checks that in passing; what it refuses is read again, and measured.
    """

    event: BriefText | None = None
    name: BriefText | None = None
    category: BriefText | None = None
    messageId: BriefId = None  # noqa: N815
    userId: BriefId = None  # noqa: N815
    anonymousId: BriefId = None  # noqa: N815
    groupId: BriefId = None  # noqa: N815
    previousId: BriefId = None  # noqa: N815


class Beside(msgspec.Struct, gc=False):
    """What stands beside the events of a batch, and applies to all of them."""

    writeKey: str | None = None  # noqa: N815
    sentAt: str | None = None  # noqa: N815
    context: Raw = NOTHING
    integrations: Raw = NOTHING


class WireBatch(Beside, gc=False, kw_only=True):
    """Many events in one body."""

    batch: list[BriefWireEvent]


class Outline(Beside, gc=False, kw_only=True):
    """The same, each event as the text that it is."""

    batch: list[Raw]


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
    image: bool = False  # asked for as an image, so that the referrer is the page that shows it
    sound: bool = False  # ingest looked at each event of the body and found no problem
    gpc: bool = False  # the person's browser objects to sale and sharing: Sec-GPC: 1
    anonymous_id: str | None = None  # of the identity cookie, for events without an id of their own
    anonymous_id_wins: bool = False  # and for those with another
    cookies: dict[str, str] | None = None  # of ad networks
    public: bool = False  # by a key that everybody can read: not all that it says is believed
    mixed: bool = False  # but what a server's library wrote is
    oldest: int | None = None  # the earliest time that an event may say it happened


class Event(msgspec.Struct, gc=False):
    """One refined event. The last five are JSON text in UTF-8, ready for jsonb."""

    type: str
    source: str
    received_at: int
    event: str | None = None
    name: str | None = None
    category: str | None = None
    message_id: str = ""
    timestamp: int = 0
    original_timestamp: int | None = None
    sent_at: int | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    context: bytes | None = None
    properties: bytes | None = None
    traits: bytes | None = None
    integrations: bytes | None = None
    extra: bytes | None = None


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
