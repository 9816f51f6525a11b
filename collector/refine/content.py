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
from collector.refine.draft import Call, Draft, StrictWireEvent, bare, extend, given

_encode = msgspec.json.Encoder().encode


def content(draft: Draft) -> None:
    """Set properties, traits, integrations and context."""
    wire, event, call = draft.wire, draft.event, draft.call
    if wire.properties is not NOTHING:
        event.properties = given(wire.properties)
    if wire.traits is not NOTHING:
        event.traits = given(wire.traits)
    theirs = draft.context.traits
    if (
        theirs is not NOTHING
        and event.type == "identify"
        and (not event.traits or bare(event.traits))
    ):
        event.traits = given(theirs) or event.traits
    event.integrations = given(wire.integrations)
    if call.integrations is not None:
        event.integrations = _merged(call.integrations, event.integrations)
    context = context_of(call, wire.context)
    event.context = extend(context, draft.members) if draft.members else context


def context_of(call: Call, own: Raw) -> bytes | None:
    """The context as sent: the batch's, overlaid by the event's own."""
    text = given(own)
    return text if call.context is None else _merged(call.context, text)


def extra(draft: Draft, unknown: dict[str, Raw]) -> None:
    """Set extra: what has no column, and what we have to say about the event."""
    wire = draft.wire
    members: list[bytes] = []
    if isinstance(wire, StrictWireEvent):
        if wire.meta is not NOTHING:
            members.append(b'"_metadata":' + bytes(wire.meta))
        if wire.channel is not NOTHING:
            members.append(b'"channel":' + bytes(wire.channel))
    else:
        members += [_encode(name) + b":" + bytes(value) for name, value in unknown.items()]
    if draft.flags or draft.claims:
        notes: dict[str, object] = {"flags": draft.flags} if draft.flags else {}
        if draft.claims:
            notes["claims"] = draft.claims
        if "clock_unusable" in draft.flags or "timestamp_too_old" in draft.flags:
            times = ("timestamp", "originalTimestamp", "sentAt")
            notes["times"] = {t: v[:100] for t in times if (v := getattr(wire, t))}
        members.append(b'"collector":' + _encode(notes))
    if members:
        draft.event.extra = b"{" + b",".join(members) + b"}"


def _merged(base: bytes, own: bytes | None) -> bytes:
    if own is None or bare(own):
        return base
    return own if bare(base) else extend(base, [own[1:-1]])
