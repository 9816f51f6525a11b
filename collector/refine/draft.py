"""
Draft: one event on its way through the steps, and the request that it came in.

A step reads the wire event and the call, and sets what it is responsible for on `draft.event`.
JSON is not taken apart to be put together again: members are appended to the text of the object
that was sent, and Postgres keeps the last of two members with one name.

Shapes   JSON members are bytes such as b'"ip":"203.0.113.7"'.
"""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from collector.event import NOTHING, Beside, BriefWireEvent, Envelope, Event, WireEvent

OPENER = ord("{")


class StrictWireEvent(
    BriefWireEvent, forbid_unknown_fields=True, gc=False, rename={"meta": "_metadata"}
):
    """A wire event of which every top-level member is known; SDKs send no other."""

    channel: Raw = NOTHING
    meta: Raw = NOTHING


class Page(msgspec.Struct, gc=False):
    """The address of `context.page`."""

    url: str | None = None
    search: str | None = None


class Context(msgspec.Struct, gc=False):
    """The members of `context` that steps look at; the rest stays as it was sent."""

    ip: Raw = NOTHING
    userAgent: Raw = NOTHING  # noqa: N815
    direct: Raw = NOTHING
    library: Raw = NOTHING
    page: Page | UnsetType | None = UNSET  # None if there is one that cannot be read
    campaign: Raw = NOTHING
    clickIds: Raw = NOTHING  # noqa: N815
    traits: Raw = NOTHING


class OddContext(Context, gc=False):
    """A context whose page is anything."""

    page: object = UNSET  # type: ignore[assignment]


NO_CONTEXT = Context()


class Call:
    """What one request says about all of its events; computed once."""

    __slots__ = (
        "agent",
        "context",
        "envelope",
        "integrations",
        "ip",
        "page",
        "sent",
        "sent_at",
    )

    def __init__(self, envelope: Envelope) -> None:
        encode = msgspec.json.encode
        self.envelope = envelope
        self.sent_at: str | None = None
        self.sent: int | None = None  # the same in microseconds, once it was read
        self.context: bytes | None = None
        self.integrations: bytes | None = None
        self.ip = b'"ip":' + encode(envelope.address) if envelope.address else None
        agent = envelope.user_agent
        self.agent = b'"userAgent":' + encode(agent) if agent else None
        self.page = None
        if envelope.referrer:
            url = encode(envelope.referrer)
            # To an image the page that shows it is both: where it stands and who refers to it.
            referrer = b',"referrer":' + url if envelope.image else b""
            self.page = b'"page":{"url":' + url + referrer + b"}"

    def apply(self, beside: Beside) -> None:
        """Take over what a batch says of all its events."""
        self.sent_at = beside.sentAt
        self.context = given(beside.context)
        self.integrations = given(beside.integrations)


class Draft(msgspec.Struct, gc=False):
    """One event between the steps."""

    call: Call
    index: int
    wire: WireEvent
    context: Context
    event: Event
    members: list[bytes] = []  # to append to `context`
    flags: list[str] = []  # kept under extra.collector.flags
    claims: dict[str, object] = {}  # what was said and is not believed: extra.collector.claims


def extend(text: bytes | None, members: list[bytes]) -> bytes:
    """The JSON object *text* with *members* appended; they win over members of the same name."""
    if text is None or bare(text):
        return b"{" + b",".join(members) + b"}"
    return b"".join((text[:-1], b",", b",".join(members), b"}"))


def bare(text: bytes) -> bool:
    """Whether the JSON object *text* has no members."""
    return text[1:2] != b'"' and not text[1:-1].strip()


def given(raw: Raw) -> bytes | None:
    """The JSON object in *raw*, or None for one that is absent, null or an empty list."""
    if raw is NOTHING:
        return None
    text = bytes(raw)
    return text if text[0] == OPENER else None
