"""
Portions: frames of the journal, refined and made into rows. Pure, so that it may run anywhere.

A portion is what some frames came to, with the accounts of it; portions of one batch are added up
by the feeder. Both the feeder and the refiner's process make them, in the same way.

Shapes   a record is given as the journal has it: position, time appended, source, events, data.
Errors   what decoding and refining raise passes through; the portion is then as it was before.
"""

import contextlib
from collections.abc import Iterator

import msgspec

from collector.event import Event, Rejection, decode_envelope
from collector.refine import Limits, refine
from collector.store import rows
from collector.store.seen import id_of

REJECTIONS_KEPT_MAX = 1_000  # of one batch; all are counted
UNDECODABLE = "undecodable"


class Prepared(msgspec.Struct, gc=False):
    """One event, ready to be stored."""

    id: bytes
    row: bytes
    source: str
    event: Event | None  # kept for identify, whose traits go to `users`


class Portion(msgspec.Struct, gc=False):
    """What became of some frames, in their order."""

    last: int = 0  # the position of the last of them
    oldest: int = 0  # when the first of them was appended, in microseconds since 1970
    events: list[Prepared] = []
    rejections: list[Rejection] = []
    rejected: dict[tuple[str, str], int] = {}  # by source and reason
    totals: dict[str, int] = {}  # accepted events, by source
    lost: dict[str, int] = {}  # events that are neither, by source


def fill(
    portion: Portion,
    limits: Limits,
    position: int,
    appended_at: int,
    source: str,
    count: int,
    data: bytes,
) -> Iterator[None]:
    """Add what one frame comes to; stops after each of its events, for others to have a turn."""
    events: list[Prepared] = []
    rejections: list[Rejection] = []
    for result in refine(decode_envelope(data), limits):
        if isinstance(result, Event):
            events.append(_prepared(result))
        else:
            rejections.append(result)
        yield
    _count(portion, position, appended_at, source, count)
    if count and (missing := count - len(events) - len(rejections)):
        # Every event of a frame is an event or a rejection; the books would not close else.
        portion.lost[source] = portion.lost.get(source, 0) + missing
    portion.events += events
    for rejection in rejections:
        if count:
            _reject(portion, rejection.source, rejection.code, 1)
        else:
            rejection.accepted = False  # a request that was turned down as a whole
        if len(portion.rejections) < REJECTIONS_KEPT_MAX:
            portion.rejections.append(rejection)


def undecodable(
    portion: Portion,
    error: Exception,
    position: int,
    appended_at: int,
    source: str,
    count: int,
    data: bytes,
) -> None:
    """Add a frame that raised *error*: one rejection, kept whole, that counts for its events."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        data = decode_envelope(data).body
    _count(portion, position, appended_at, source, count)
    _reject(portion, source, UNDECODABLE, count)
    portion.rejections.append(
        Rejection(
            source=source,
            received_at=appended_at,
            code=UNDECODABLE,
            detail=f"a request of {count} events: {type(error).__name__}",
            data=data,
            accepted=bool(count),
        )
    )


def _count(portion: Portion, position: int, appended_at: int, source: str, count: int) -> None:
    portion.last = position
    portion.oldest = portion.oldest or appended_at
    portion.totals[source] = portion.totals.get(source, 0) + count


def _reject(portion: Portion, source: str, code: str, count: int) -> None:
    portion.rejected[source, code] = portion.rejected.get((source, code), 0) + count


def _prepared(event: Event) -> Prepared:
    message_id = event.message_id.encode()
    return Prepared(
        id_of(message_id),
        rows.encode(event, message_id),
        event.source,
        event if event.type == "identify" else None,
    )
