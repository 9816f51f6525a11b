"""
Decode: bytes to events, at two speeds, so that one bad event never costs the others.

    fast     msgspec reads the whole body with types; nothing is copied, nothing built that need
             not be read
    lenient  anything it refuses, or that Postgres could not keep: the body is taken apart, each
             event is read alone, repaired where it has one obvious reading, or refused with a
             reason

Shapes   Decoded.body is strict JSON in UTF-8: one event, or an object with "batch".
Units    sizes in bytes.
Errors   BadRequest for a body that can never be read; what is wrong with a single event is a
         Problem at its index.
"""

import asyncio
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw

from collector import metrics
from collector.errors import BadRequest
from collector.event import (
    BATCH,
    Beside,
    BriefWireEvent,
    Outline,
    Problem,
    Refusal,
    WireBatch,
    WireEvent,
)
from collector.ingest.coerce import coerce, coerce_time
from collector.ingest.settings import IngestSettings
from collector.leniency import Unreadable, doubtful, repair, split
from collector.refine import Limits, lack_of, problem_of

THREAD_BYTES = 256 << 10  # reading more than this leniently leaves the loop alone
LARGE_BYTES = 1 << 20  # reading more than this at all does
LENIENT_AT_ONCE = 2  # of those in threads: each may take ten times the memory of its body
OBJECTS_PER_EVENT = 20  # of so many at most a large batch is read in one go
REFUSED_DATA_BYTES = 65_536  # of an event that is refused, so much is kept
BATCH_DEPTH = 2  # the brackets around the events of a batch


class _Object(msgspec.Struct, gc=False):
    """An object of which nothing is read."""


_ObjectOrNothing = _Object | Annotated[list[Any], Meta(max_length=0)] | None  # PHP's {} is []


class _PlainEvent(BriefWireEvent, gc=False):
    """A wire event of which only the ids are read: nothing about its objects need be asked."""

    context: _ObjectOrNothing = None  # type: ignore[assignment]
    properties: _ObjectOrNothing = None  # type: ignore[assignment]
    traits: _ObjectOrNothing = None  # type: ignore[assignment]
    integrations: _ObjectOrNothing = None  # type: ignore[assignment]


class _PlainBatch(Beside, gc=False, kw_only=True):
    batch: list[_PlainEvent]


_decode_event = msgspec.json.Decoder(WireEvent).decode
_decode_brief = msgspec.json.Decoder(BriefWireEvent).decode
_decode_batch = msgspec.json.Decoder(WireBatch).decode
_decode_plain_batch = msgspec.json.Decoder(_PlainBatch).decode
_decode_outline = msgspec.json.Decoder(Outline).decode

# UnicodeDecodeError is a ValueError; msgspec's own errors are too.
_REFUSED = (ValueError, RecursionError)


class Decoded(NamedTuple):
    """One readable body, and what is wrong with single events of it."""

    body: bytes
    write_key: str | None
    events: int  # readable or not
    refusals: list[Refusal]
    problems: list[tuple[int, Problem]]  # by index, refusals included


class Decoder:
    """Reads bodies within the limits of one ingest port."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._limits = Limits(settings.id_bytes_max, settings.name_bytes_max)
        self._threads = asyncio.Semaphore(LENIENT_AT_ONCE)

    async def decode(self, body: bytes, call: str) -> Decoded:
        """The events in *body*, which came to the path of *call*."""
        try:
            if len(body) > LARGE_BYTES:
                return await asyncio.to_thread(self._fast, body, call)
            return self._fast(body, call)
        except _REFUSED:
            pass
        metrics.repaired.inc()
        if len(body) < THREAD_BYTES:
            return self._lenient(body, call)
        async with self._threads:
            return await asyncio.to_thread(self._lenient, body, call)

    def _fast(self, body: bytes, call: str) -> Decoded:
        settings = self._settings
        # Nothing may become millions of objects before it is found to be too much.
        if call != BATCH and len(body) > settings.event_bytes_max:
            raise ValueError
        objects_max = OBJECTS_PER_EVENT * settings.batch_events_max
        if len(body) > objects_max and body.count(b"{") > objects_max:
            raise ValueError
        own = BATCH_DEPTH if call == BATCH else 0
        if doubtful(body, depth_max=settings.depth_max + own):
            raise ValueError
        if call != BATCH:
            event = _decode_brief(body)
            problem = problem_of(event, call, self._limits)
            return Decoded(body, event.writeKey, 1, [], [(0, problem)] if problem else [])
        batch: _PlainBatch | WireBatch
        try:
            batch = _decode_plain_batch(body)
        except msgspec.ValidationError:
            batch = _decode_batch(body)
        events = batch.batch
        if len(events) > settings.batch_events_max:
            raise ValueError
        self._check_beside(len(events), memoryview(batch.context), memoryview(batch.integrations))
        if len(body) > settings.event_bytes_max:
            outline = _decode_outline(body).batch
            if any(len(memoryview(event)) > settings.event_bytes_max for event in outline):
                raise ValueError
        if isinstance(batch, _PlainBatch):
            found = [lack_of(event, event.type) for event in batch.batch]
        else:
            found = [problem_of(event, event.type, self._limits) for event in batch.batch]
        problems = [(index, problem) for index, problem in enumerate(found) if problem is not None]
        key = batch.writeKey or next((e.writeKey for e in events if e.writeKey), None)
        return Decoded(body, key, len(events), [], problems)

    def _check_beside(self, events: int, *members: bytes | memoryview) -> None:
        """Raise BadRequest if *members*, which each of the events gets, become too much in all."""
        settings = self._settings
        size = sum(map(len, members))
        if size > settings.event_bytes_max or size * events > settings.body_bytes_max:
            raise BadRequest(
                "context_too_large",
                "context and integrations beside a batch count for each of its events, and are too "
                "large: send fewer events at once, or put them into the events that need them",
                status=413,
            )

    def _lenient(self, body: bytes, call: str) -> Decoded:
        if not body.strip():
            raise BadRequest("empty_body", "the body is empty: send one JSON object")
        if call != BATCH:
            return self._lenient_event(body, call)
        try:
            envelope = split(body, elements_max=10 * self._settings.batch_events_max)
        except Unreadable as exc:
            raise BadRequest(exc.code, exc.detail) from exc
        if envelope.elements is None:
            raise BadRequest("missing_batch", 'the body needs a list named "batch": add one')
        beside = (envelope.members.get(name, b"") for name in ("context", "integrations"))
        self._check_beside(len(envelope.elements), *beside)
        good: list[bytes] = []
        refusals: list[Refusal] = []
        problems: list[tuple[int, Problem]] = []
        key = None
        for index, element in enumerate(envelope.elements):
            if index >= self._settings.batch_events_max:
                most = self._settings.batch_events_max
                detail = f"a batch holds at most {most} events: send smaller batches"
                result: tuple[bytes, WireEvent] | Problem = Problem("too_many_events", detail)
            else:
                result = self._one(element)
            if isinstance(result, Problem):
                problems.append((index, result))
                refusals.append(Refusal(index, *result, element[:REFUSED_DATA_BYTES]))
                continue
            text, event = result
            key = key or event.writeKey
            if problem := problem_of(event, event.type, self._limits):
                problems.append((index, problem))
            good.append(text)
        members = [b'"batch":[' + b",".join(good) + b"]"]
        members += [
            b'"%s":%s' % (name.encode(), value)
            for name in ("sentAt", "context", "integrations")
            if name in envelope.members and (value := self._member(envelope.members[name], name))
        ]
        clean = b"{" + b",".join(members) + b"}"
        key = _text(envelope.members.get("writeKey")) or key
        return Decoded(clean, key, len(envelope.elements), refusals, problems)

    def _lenient_event(self, body: bytes, call: str) -> Decoded:
        result = self._one(body)
        if isinstance(result, Problem):
            raise BadRequest(*result)
        text, event = result
        problem = problem_of(event, call, self._limits)
        return Decoded(text, event.writeKey, 1, [], [(0, problem)] if problem else [])

    def _one(self, element: bytes) -> tuple[bytes, WireEvent] | Problem:
        """One event read alone: strict JSON and what it says, or why it cannot be read."""
        most = self._settings.event_bytes_max
        if len(element) > most:
            return Problem("event_too_large", f"an event may have {most} bytes, not {len(element)}")
        depth = self._settings.depth_max
        try:
            if not doubtful(element, depth_max=depth):
                return element, _decode_event(element)
        except _REFUSED:
            pass
        try:
            element = repair(element, depth_max=depth)
        except Unreadable as exc:
            return Problem(exc.code, exc.detail)
        try:
            return element, _decode_event(element)
        except _REFUSED:
            pass
        coerced = coerce(element)
        if isinstance(coerced, Problem):
            return coerced
        return coerced, _decode_event(coerced)

    def _member(self, value: bytes, name: str) -> bytes | None:
        """A member beside the batch, if it can be used: an object, or text for sentAt."""
        try:
            value = repair(value, depth_max=self._settings.depth_max)
        except Unreadable:
            return None
        if name == "sentAt":
            value = bytes(coerce_time(Raw(value)))
        return value if value[:1] == (b'"' if name == "sentAt" else b"{") else None


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=str)
    except _REFUSED:
        return None
