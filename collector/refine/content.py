"""
Content: the JSON columns of the event.

What the sender wrote goes to Postgres as the same bytes. Members of the batch apply to each of
its events, and an event's own win over them. The traits of an identify may stand in
`context.traits` (RudderStack's SDKs). Top-level members that no column has are kept in `extra`,
the write key excepted: it is a secret.
"""

import msgspec
from msgspec import Raw

from collector.event import NOTHING
from collector.refine.draft import Call, Draft, StrictWireEvent, extend, given

_encode = msgspec.json.Encoder().encode


def content(draft: Draft) -> None:
    """Set properties, traits, integrations and context."""
    wire, event, call = draft.wire, draft.event, draft.call
    if wire.properties is not NOTHING:
        event.properties = given(wire.properties)
    if wire.traits is not NOTHING:
        event.traits = given(wire.traits)
    if event.type == "identify" and _bare(event.traits) and draft.context.traits is not NOTHING:
        event.traits = given(draft.context.traits) or event.traits
    event.integrations = _merged(call.integrations, given(wire.integrations))
    context = context_of(call, wire.context)
    event.context = extend(context, draft.members) if draft.members else context


def context_of(call: Call, own: Raw) -> bytes | None:
    """The context as sent: the batch's, overlaid by the event's own."""
    return _merged(call.context, given(own))


def extra(draft: Draft, unknown: dict[str, Raw]) -> None:
    """Set extra: what has no column, and what we have to say about the event."""
    wire = draft.wire
    members = [_encode(name) + b":" + bytes(value) for name, value in unknown.items()]
    if isinstance(wire, StrictWireEvent):
        if wire.channel is not NOTHING:
            members.append(b'"channel":' + bytes(wire.channel))
        if wire.meta is not NOTHING:
            members.append(b'"_metadata":' + bytes(wire.meta))
    if draft.flags:
        notes: dict[str, object] = {"flags": draft.flags}
        if "clock_unusable" in draft.flags:
            times = ("timestamp", "originalTimestamp", "sentAt")
            notes["times"] = {t: v[:100] for t in times if (v := getattr(wire, t))}
        members.append(b'"collector":' + _encode(notes))
    if members:
        draft.event.extra = b"{" + b",".join(members) + b"}"


def _bare(text: bytes | None) -> bool:
    return text is None or not text[1:-1].strip()


def _merged(base: bytes | None, own: bytes | None) -> bytes | None:
    if base is None or _bare(base):
        return own if own is not None else base
    if own is None or _bare(own):
        return base
    return extend(base, [own[1:-1]])
