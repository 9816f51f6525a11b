"""
Clock: when an event happened, seen through a device whose clock is wrong.

    timestamp = receivedAt - (sentAt - originalTimestamp)

Without a usable sentAt there is no skew to remove, and the sender's time stands. A sender that
gives originalTimestamp and timestamp both (RudderStack's SDKs) names with the latter the time it
means: that one stands as it is.

A key that everybody can read tells nothing of long ago: an earlier time than `Envelope.oldest` is
replaced by the time of receipt and flagged `timestamp_too_old`.

Shapes   times come as ISO 8601 with or without zone (then UTC), or as numbers in text.
Units    microseconds since 1970, UTC.
Errors   none: an unusable time falls back to receivedAt and is flagged `clock_unusable`. What was
         written stays in `extra.collector.times`.
Source   Segment, "Spec: Common Fields", section Timestamps
"""

from datetime import UTC, datetime

from collector.refine.draft import Draft

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000
EARLIEST = (datetime(1, 1, 2, tzinfo=UTC) - EPOCH).days * DAY
LATEST = (datetime(9999, 12, 30, tzinfo=UTC) - EPOCH).days * DAY
MILLISECONDS_FROM = 100_000_000_000  # as seconds that is the year 5138


def clock(draft: Draft) -> None:
    """Set timestamp, original_timestamp and sent_at."""
    _tell(draft)
    event, oldest = draft.event, draft.call.envelope.oldest
    if oldest is not None and event.timestamp < oldest:
        event.timestamp = event.received_at
        draft.flags = [*draft.flags, "timestamp_too_old"]


def _tell(draft: Draft) -> None:
    wire, event, call = draft.wire, draft.event, draft.call
    explicit = wire.timestamp
    if wire.sentAt:
        event.sent_at = _read(draft, wire.sentAt)
    elif call.sent_at:
        if call.sent is None:  # all events of a batch share it
            call.sent = _read(draft, call.sent_at)
        event.sent_at = call.sent
    if wire.originalTimestamp:
        event.original_timestamp = _read(draft, wire.originalTimestamp)
        if explicit and (at := _read(draft, explicit)) is not None:
            event.timestamp = at
            return
    elif explicit:
        event.original_timestamp = _read(draft, explicit)
    at = event.original_timestamp
    if at is None:
        event.timestamp = event.received_at
        return
    if event.sent_at is not None:
        at += event.received_at - event.sent_at
        if not EARLIEST <= at <= LATEST:
            at = EARLIEST if at < EARLIEST else LATEST
    event.timestamp = at


def _read(draft: Draft, text: str) -> int | None:
    at = microseconds(text)
    if at is None and "clock_unusable" not in draft.flags:
        draft.flags.append("clock_unusable")
    return at


def microseconds(text: str) -> int | None:
    """Microseconds since 1970 of *text*, or None if it is no time between the years 1 and 9999."""
    if text[4:5] != "-" and len(text) > 8 and text[:9].isdigit():
        return _number(text)  # fromisoformat takes some of these for a day in the year 1763
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _number(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - EPOCH
    at = since.days * DAY + since.seconds * 1_000_000 + since.microseconds
    return at if EARLIEST <= at <= LATEST else None


def _number(text: str) -> int | None:
    """Seconds, or milliseconds from the year 5138 on, as some senders write them."""
    try:
        value = float(text.strip())
        at = int(value * (1000 if abs(value) >= MILLISECONDS_FROM else 1_000_000))
    except (ValueError, OverflowError):
        return None
    return at if EARLIEST <= at <= LATEST else None
