"""
The pipeline: one accepted request to its events and rejections, step by step.

Pure: the same envelope gives the same answer, and nothing outside is asked. Ingest made the body
strict JSON that Postgres keeps; what could not be read travels beside it as refusals.

Errors   none: every event of the request is an Event or a Rejection, so that
         `len(events) + len(rejections)` is the number the frame was counted with.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import repeat

import msgspec
from msgspec import UNSET, Raw

from collector.event import (
    BATCH,
    NOTHING,
    Beside,
    Envelope,
    Event,
    Outline,
    Problem,
    Rejection,
    WireEvent,
)
from collector.refine.campaign import campaign
from collector.refine.client import client
from collector.refine.clock import clock
from collector.refine.consent import consent
from collector.refine.content import content, context_of, extra
from collector.refine.cookies import cookies
from collector.refine.draft import NO_CONTEXT, Call, Context, Draft, OddContext, StrictWireEvent
from collector.refine.ids import ids
from collector.refine.problem import Limits, problem_of

STEPS = (ids, clock, client, campaign, consent, cookies, content)


class _StrictBatch(Beside, gc=False, kw_only=True):
    batch: list[StrictWireEvent]


_decode_strict = msgspec.json.Decoder(StrictWireEvent).decode
_decode_event = msgspec.json.Decoder(WireEvent).decode
_decode_strict_batch = msgspec.json.Decoder(_StrictBatch).decode
_decode_outline = msgspec.json.Decoder(Outline).decode
_decode_context = msgspec.json.Decoder(Context).decode
_decode_odd_context = msgspec.json.Decoder(OddContext).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

_KNOWN = frozenset(field.encode_name for field in msgspec.structs.fields(WireEvent))
_NOTHING_UNKNOWN: dict[str, Raw] = {}
_WRITE_KEY = re.compile(rb'("writeKey"\s*:\s*)"[^"]*"?')  # of what is kept to look at


def refine(envelope: Envelope, limits: Limits) -> Iterator[Event | Rejection]:
    """The events of one request, in its order; refusals come last."""
    call = Call(envelope)
    texts: list[Raw] = []
    for index, (wire, unknown) in enumerate(_wire_events(call)):
        kind = wire.type if envelope.call == BATCH else envelope.call
        problem = None if envelope.sound else problem_of(wire, kind, limits)
        if problem is not None:
            texts = texts or _texts(envelope)
            yield _rejected(envelope, problem, bytes(texts[index]), wire.messageId)
            continue
        yield _refined(call, index, wire, unknown, kind or "")
    for refusal in envelope.refusals:
        yield _rejected(envelope, Problem(refusal.code, refusal.detail), refusal.data, None)


def _wire_events(call: Call) -> Iterable[tuple[WireEvent, dict[str, Raw]]]:
    """Each event as it was written, with those of its members that have no column."""
    body = call.envelope.body
    if not body:
        return ()
    if call.envelope.call != BATCH:
        return (_wire_event(body),)
    try:
        batch = _decode_strict_batch(body)
    except msgspec.ValidationError:
        outline = _decode_outline(body)
        call.apply(outline)
        return map(_wire_event, outline.batch)
    call.apply(batch)
    return zip(batch.batch, repeat(_NOTHING_UNKNOWN))


def _wire_event(text: bytes | Raw) -> tuple[WireEvent, dict[str, Raw]]:
    try:
        return _decode_strict(text), _NOTHING_UNKNOWN
    except msgspec.ValidationError:
        members = _decode_members(text)
        return _decode_event(text), {k: v for k, v in members.items() if k not in _KNOWN}


def _refined(call: Call, index: int, wire: WireEvent, unknown: dict[str, Raw], kind: str) -> Event:
    envelope = call.envelope
    event = Event(kind, envelope.source, envelope.received_at, wire.event, wire.name, wire.category)
    draft = Draft(call, index, wire, _context(call, wire), event)
    for step in STEPS:
        step(draft)
    extra(draft, unknown)
    return event


def _context(call: Call, wire: WireEvent) -> Context:
    text = context_of(call, wire.context) if call.context else wire.context
    if text is None or text is NOTHING:
        return NO_CONTEXT
    try:
        return _decode_context(text)
    except msgspec.ValidationError:
        pass
    try:
        context = _decode_odd_context(text)
    except msgspec.ValidationError:
        return NO_CONTEXT  # null or an empty list
    if context.page is not UNSET:
        context.page = None
    return context


def _texts(envelope: Envelope) -> list[Raw]:
    """Each event of the body as it was written."""
    if envelope.call != BATCH:
        return [Raw(envelope.body)]
    return _decode_outline(envelope.body).batch


def _rejected(
    envelope: Envelope, problem: Problem, data: bytes, message_id: str | int | None
) -> Rejection:
    if problem.code != "unknown_write_key":  # that one is nobody's, and shows what is wrong
        data = _WRITE_KEY.sub(rb'\1"***"', data)
    return Rejection(
        source=envelope.source,
        received_at=envelope.received_at,
        code=problem.code,
        detail=problem.detail,
        data=data,
        message_id=None if message_id is None else str(message_id)[:512],
    )
