"""Stored events for tests: one with what is named, and any that Postgres could give back."""

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from collector.event import EVENT_TYPES
from collector.refine.clock import EARLIEST, LATEST
from collector.store.stored import StoredEvent
from tests.strategies import contexts, objects, valid

AT = 1_790_000_000_123_456  # in September 2026
JSON_COLUMNS = ("context", "properties", "traits", "integrations", "extra")


def stored(**columns: Any) -> StoredEvent:
    """A track event; JSON columns as dicts, or as the text that they are."""
    row: dict[str, Any] = {
        "seq": 1,
        "received_at": AT,
        "timestamp": AT,
        "original_timestamp": None,
        "sent_at": None,
        "message_id": "m-1",
        "type": "track",
        "event": "Order Completed",
    } | columns
    for name in JSON_COLUMNS:
        if isinstance(row.get(name), dict):
            row[name] = json.dumps(row[name], ensure_ascii=False).encode()
    return StoredEvent(**row)


ids = st.text(min_size=1, max_size=20) | st.sampled_from(["a\r\nX-Evil: 1", " m ", "%41", "é" * 90])
times = st.integers(AT - 10**12, AT + 10**12) | st.integers(EARLIEST, LATEST)


def column(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes | None]:
    return st.none() | st.just(b"{}") | text.map(stored_text)


def stored_text(text: bytes) -> bytes:
    """*text*, unless it has a number beyond a float's, which is rejected before it is stored."""
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return b"{}"
    return text


odd_events: st.SearchStrategy[StoredEvent] = st.builds(
    StoredEvent,
    seq=st.integers(1, 2**62),
    received_at=times,
    timestamp=times,
    original_timestamp=st.none() | times,
    sent_at=st.none() | times,
    message_id=ids,
    type=st.sampled_from(sorted(EVENT_TYPES)),
    event=st.none() | st.text(max_size=20) | st.just("Order Completed"),
    name=st.none() | st.text(max_size=20),
    category=st.none() | st.text(max_size=20),
    user_id=st.none() | ids,
    anonymous_id=st.none() | ids,
    group_id=st.none() | ids,
    previous_id=st.none() | ids,
    context=column(contexts(valid)),
    properties=column(objects(valid)),
    traits=column(objects(valid)),
    integrations=column(objects(valid)),
    extra=column(objects(valid)),
)
