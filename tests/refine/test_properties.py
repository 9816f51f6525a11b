"""Properties of refining: pure, complete, and nothing that Postgres would not take."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import asyncpg
import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from collector.errors import BadRequest
from collector.event import BATCH, EVENT_TYPES, Envelope, Event, Rejection, WireEvent
from collector.ingest.decode import Decoder
from collector.refine import refine
from collector.refine.campaign import VALUE_CHARS, read
from collector.refine.clock import EARLIEST, LATEST, microseconds
from collector.store import rows
from tests.fuzz.targets import LIMITS, SETTINGS, check_event, finished
from tests.strategies import any_requests, quoted, urls, valid, valid_requests
from tests.strict import strictly

DECODER = Decoder(SETTINGS)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECEIVED_AT = 1_790_000_000_000_000
moments = st.integers(EARLIEST, LATEST)
header_texts = st.none() | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60
)
envelopes = st.builds(
    lambda request, **others: Envelope(call=request[0], body=request[1], **others),
    valid_requests,
    source=st.sampled_from(["shop", "backend"]),
    received_at=st.integers(0, LATEST),
    seed=st.binary(min_size=16, max_size=16),
    device=st.booleans(),
    address=st.none() | st.ip_addresses().map(str),
    user_agent=header_texts,
    referrer=header_texts | urls.map(json.loads),
    image=st.booleans(),
    gpc=st.booleans(),
)


def accepted(envelope: Envelope) -> bool:
    """Let *envelope* have the body that ingest would have given it, if it had taken it."""
    try:
        decoded = finished(DECODER.decode(envelope.body, envelope.call))
    except BadRequest:
        return False
    envelope.body, envelope.refusals = decoded.body, decoded.refusals
    return envelope.call == BATCH or not decoded.problems


def track(received_at: int = RECEIVED_AT, **members: Any) -> Envelope:
    body = json.dumps({"event": "E"} | members).encode()
    return Envelope("shop", "track", received_at, bytes(range(16)), body)


def one(envelope: Envelope) -> Event:
    (event,) = refine(envelope, LIMITS)
    assert isinstance(event, Event)
    return event


# --- all of it -----------------------------------------------------------------------------------


@given(envelopes)
def test_refining_again_gives_the_same_and_what_postgres_takes(envelope: Envelope) -> None:
    assume(accepted(envelope))
    results = list(refine(envelope, LIMITS))
    assert results == list(refine(envelope, LIMITS))
    if envelope.call == BATCH:
        count = len(json.loads(envelope.body)["batch"])
        assert len(results) == count + len(envelope.refusals)
    else:
        assert len(results) == 1
    for result in results:
        assert (result.source, result.received_at) == (envelope.source, envelope.received_at)
        if isinstance(result, Event):
            assert result.type in EVENT_TYPES
            check_event(result)
            times = (result.timestamp, result.original_timestamp, result.sent_at)
            assert all(at is None or EARLIEST <= at <= LATEST for at in times)
        else:
            assert isinstance(result, Rejection)


@settings(max_examples=25)
@given(envelopes, st.sampled_from([b"true", b"false"]))
def test_where_an_event_stands_in_its_batch_changes_nothing_but_its_made_up_ids(
    envelope: Envelope, more: bytes
) -> None:
    assume(envelope.call != BATCH)
    envelope.call = BATCH
    envelope.body = (
        b'{"batch":[' + envelope.body + b',{"type":"page","extra":' + more + b"}," + envelope.body
    ) + b"]}"
    assume(accepted(envelope))
    results = list(refine(envelope, LIMITS))
    events = [result for result in results if isinstance(result, Event)]
    assert len(results) == 3
    assert len(events) in {1, 3}
    assume(len(events) == 3)
    first, _, last = events
    if first.message_id.startswith("srv-"):
        assert first.message_id != last.message_id
        first.message_id = last.message_id
    if first.anonymous_id != last.anonymous_id:
        assert not envelope.device
        assert first.previous_id in {last.previous_id, first.anonymous_id}
        first.anonymous_id, first.previous_id = last.anonymous_id, last.previous_id
    assert first == last


# --- ids -----------------------------------------------------------------------------------------


@given(
    st.binary(min_size=16, max_size=16),
    st.booleans(),
    st.lists(st.sampled_from([None, "", "a", 5, 0, -1]), min_size=1, max_size=30),
)
def test_every_event_has_ids_and_each_its_own(
    seed: bytes, device: bool, ids: list[str | int | None]
) -> None:
    batch = [{"type": "page", "userId": user_id} for user_id in ids]
    body = json.dumps({"batch": batch}).encode()
    envelope = Envelope("shop", BATCH, RECEIVED_AT, seed, body, device=device)
    events = [event for event in refine(envelope, LIMITS) if isinstance(event, Event)]
    assert len({event.message_id for event in events}) == len(ids)
    nobody = [event.anonymous_id for event in events if event.user_id is None]
    assert len(nobody) == sum(user_id in {None, ""} for user_id in ids)
    assert len(set(nobody)) == (min(1, len(nobody)) if device else len(nobody))
    assert all(uuid.UUID(anonymous_id).version == 4 for anonymous_id in nobody if anonymous_id)
    known = [user_id for user_id in ids if user_id not in {None, ""}]
    assert [event.user_id for event in events if event.user_id] == [str(known_) for known_ in known]


# --- clock ---------------------------------------------------------------------------------------


def iso(at: int, minutes: int = 0) -> str:
    zone = timezone(timedelta(minutes=minutes))
    return (EPOCH + timedelta(microseconds=at)).astimezone(zone).isoformat()


# Far enough from the first and last year to be written in any zone.
inner = st.integers(EARLIEST + 10**12, LATEST - 10**12)
zones = st.integers(-14 * 60, 14 * 60)


@given(inner, zones)
def test_a_time_is_read_as_it_was_written(at: int, minutes: int) -> None:
    assert microseconds(iso(at, minutes)) == at
    assert microseconds(iso(at).replace("+00:00", "Z")) == at
    assert microseconds(iso(at).replace("+00:00", "")) == at


@given(st.integers(100_000_001, 9_000_000_000))
def test_a_number_is_a_time_in_seconds_or_milliseconds(seconds: int) -> None:
    assert microseconds(f"{seconds}") == seconds * 1_000_000
    assert microseconds(f"{seconds}.5") == seconds * 1_000_000 + 500_000
    assert microseconds(f"{seconds}001") == seconds * 1_000_000 + 1_000


@given(st.text(max_size=40) | st.from_regex(r"\A[0-9TZ:.+\-eE ]{1,40}\Z"))
def test_any_text_is_a_time_within_bounds_or_none(text: str) -> None:
    at = microseconds(text)
    assert at is None or EARLIEST <= at <= LATEST


@given(moments, inner, inner, st.sampled_from(["timestamp", "originalTimestamp"]))
def test_the_skew_of_the_device_is_removed(
    received_at: int, sent_at: int, happened: int, name: str
) -> None:
    event = one(track(received_at, sentAt=iso(sent_at), **{name: iso(happened)}))
    assert (event.sent_at, event.original_timestamp) == (sent_at, happened)
    assert event.timestamp == min(max(received_at - (sent_at - happened), EARLIEST), LATEST)
    assert event.extra is None


@given(inner, inner, st.none() | inner)
def test_who_names_two_times_means_the_second(
    original: int, explicit: int, sent_at: int | None
) -> None:
    more = {} if sent_at is None else {"sentAt": iso(sent_at)}
    event = one(track(originalTimestamp=iso(original), timestamp=iso(explicit), **more))
    assert (event.original_timestamp, event.timestamp) == (original, explicit)


@given(inner)
def test_without_a_time_of_sending_a_time_stands(happened: int) -> None:
    assert one(track(timestamp=iso(happened))).timestamp == happened


@given(st.text(min_size=1, max_size=200), st.sampled_from(["timestamp", "sentAt"]))
def test_a_time_that_cannot_be_read_is_kept_and_flagged(text: str, name: str) -> None:
    assume(text.isprintable() and microseconds(text) is None)
    event = one(track(**{name: text}))
    assert event.timestamp == RECEIVED_AT
    noted = json.loads(event.extra or b"")["collector"]
    assert noted == {"flags": ["clock_unusable"], "times": {name: text[:100]}}


# --- context -------------------------------------------------------------------------------------


def context(event: Event) -> Any:
    return None if event.context is None else json.loads(event.context)


@given(envelopes)
def test_what_was_filled_in_is_not_filled_in_again(envelope: Envelope) -> None:
    """Campaign, click ids, address, page: an event that comes back with them keeps them."""
    assume(envelope.call != BATCH and accepted(envelope))
    first = one(envelope)
    members = msgspec.json.decode(envelope.body, type=dict[str, msgspec.Raw])
    if first.context is not None:
        members["context"] = msgspec.Raw(msgspec.json.encode(json.loads(first.context)))
        assume(b"1e" not in first.context)  # a float is not written as it was read
    envelope.body = msgspec.json.encode(members)
    assert context(one(envelope)) == context(first)


@given(
    st.dictionaries(
        st.sampled_from(["utm_source", "utm_campaign", "UTM_Medium", "utm_x", "gclid", "FBCLID"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        min_size=1,
    )
)
def test_a_campaign_is_what_the_address_says(parameters: dict[str, str]) -> None:
    url = "https://shop.test/?" + urlencode(parameters)
    found = context(one(track(context={"page": {"url": url}})))
    assert found["page"] == {"url": url}
    texts = {k.lower(): v.replace("\0", "")[:VALUE_CHARS] for k, v in parameters.items()}
    utm = {
        "name" if name == "utm_campaign" else name[4:]: text
        for name, text in texts.items()
        if name.startswith("utm_") and text
    }
    clicks = {name: text for name, text in texts.items() if name.endswith("clid") and text}
    assert found.get("campaign", {}) == utm
    assert found.get("clickIds", {}) == clicks
    own = {"page": {"url": url}, "campaign": {"name": "own"}, "clickIds": {"x": "own"}}
    assert context(one(track(context=own))) == own


@given(st.text(max_size=100))
def test_any_query_has_a_campaign_of_bounded_texts(query: str) -> None:
    for found in read(query):
        for name, text in found.items():
            assert name
            assert 0 < len(text) <= VALUE_CHARS
            assert "\0" not in name + text


objects = st.dictionaries(st.sampled_from("abcd"), st.integers() | st.text("xy", max_size=3))


@given(st.none() | objects, st.none() | objects, st.sampled_from(["context", "integrations"]))
def test_what_an_event_says_wins_over_what_its_batch_says(
    outer: dict[str, Any] | None, own: dict[str, Any] | None, name: str
) -> None:
    event = {"type": "track", "event": "E"} | ({} if own is None else {name: own})
    body = {"batch": [event]} | ({} if outer is None else {name: outer})
    envelope = Envelope("shop", BATCH, RECEIVED_AT, bytes(16), json.dumps(body).encode())
    column = getattr(one(envelope), name)
    if outer is None and own is None:
        assert column is None
    else:
        assert json.loads(column) == (outer or {}) | (own or {})


@given(st.lists(st.tuples(quoted, valid), max_size=6))
def test_no_member_of_an_event_is_lost(pairs: list[tuple[bytes, bytes]]) -> None:
    """What has no column is kept in extra, but for the write key."""
    text = b",".join(name + b":" + value for name, value in pairs)
    body = b'{"event":"E","writeKey":"secret"' + (b"," if text else b"") + text + b"}"
    envelope = Envelope("shop", "track", RECEIVED_AT, bytes(16), body)
    assume(accepted(envelope))
    event = one(envelope)
    sent = strictly(envelope.body, SETTINGS.depth_max)
    known = {"batch", *(field.encode_name for field in msgspec.structs.fields(WireEvent))}
    unknown = {name: value for name, value in sent.items() if name not in known}
    kept = {} if event.extra is None else strictly(event.extra, SETTINGS.depth_max + 2)
    assert {k: v for k, v in kept.items() if k not in {*known, "collector"}} == unknown
    assert "writeKey" not in kept


# --- Postgres ------------------------------------------------------------------------------------


async def in_pieces(encoded: list[bytes]) -> AsyncIterator[bytes]:
    for piece in rows.chunks(encoded, 1):
        yield piece


async def test_postgres_takes_what_refine_makes_of_whatever_comes(dsn: str) -> None:
    """Hundreds of bodies, damaged and poisoned, in one COPY: one bad row would refuse all."""
    found: list[Event] = []

    @settings(max_examples=150, database=None)
    @given(any_requests)
    def collect(request: tuple[str, bytes]) -> None:
        call, body = request
        envelope = Envelope("shop", call, RECEIVED_AT, bytes(16), body, True, "203.0.113.7")
        if accepted(envelope):
            found.extend(r for r in refine(envelope, LIMITS) if isinstance(r, Event))

    collect()
    assert len(found) > 50
    connection = await asyncpg.connect(dsn)
    await connection.copy_to_table(
        "events",
        schema_name="collector",
        columns=rows.COLUMNS,
        format="binary",
        source=in_pieces([rows.encode(event, event.message_id.encode()) for event in found]),
    )
    read_back = await connection.fetch(
        "select e.*, to_jsonb(e)::text from collector.events e order by seq"
    )
    await connection.close()
    assert len(read_back) == len(found)
    for row, event in zip(read_back, found, strict=True):
        assert row["message_id"] == event.message_id
        for name in ("context", "properties", "traits", "integrations", "extra"):
            sent = getattr(event, name)
            assert (row[name] is None) == (sent is None)
            assert row[name] is None or json.loads(row[name]).keys() == json.loads(sent).keys()
