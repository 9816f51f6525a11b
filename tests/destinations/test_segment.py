"""Segment: what arrives there, when it happened for whom, and that it goes in no circle."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given

from collector.destinations import segment as module
from collector.destinations.base import TAKEN, Mail, Parcel, Refused, Skipped
from collector.destinations.segment import MARKS_MAX, Segment, SegmentSettings
from collector.errors import Denied
from collector.refine.clock import microseconds
from collector.store.stored import NOTHING, StoredEvent
from tests.destinations.contract import LOOPBACK, Case, Rig, outbound, segment
from tests.destinations.contract import rig as make_rig
from tests.destinations.events import AT, odd_events, stored
from tests.destinations.vendors import SegmentApi
from tests.process import CollectorProcess

NOW = 1_790_000_100_000_000
HOUR = 3_600_000_000


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    case = Case("segment", SegmentApi, lambda url: segment(url, **settings), ())
    async with make_rig(case) as made:
        yield made


def destination(endpoint: str = "https://events.test", **settings: Any) -> Segment:
    made = segment(endpoint, **settings)
    return made.build(outbound(made))


def sent(made: Segment, event: StoredEvent) -> dict[str, Any]:
    """What is sent for *event*, but for sentAt."""
    parcel = made.map(Mail(event, NOTHING, restricted=False))
    assert isinstance(parcel, Parcel), parcel
    message: dict[str, Any] = json.loads(parcel.payload.text + b"}")
    return message


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "time_ns", lambda: NOW * 1_000)


SKEWED = stored(  # by a device whose clock is an hour behind
    message_id="m-1",
    user_id="u1",
    timestamp=AT,
    original_timestamp=AT - HOUR,
    sent_at=AT - HOUR + 2_000_000,
    context=b'{"ip": "1.2.3.4", "consent": {"categoryPreferences": {"Ads": true}}}',
    properties=b'{"total": 20.10}',
    integrations=b'{"All": true, "Meta": false}',
    extra=b'{"channel": "web", "collector": {"flags": []}, "writeKey": "wk_of_ours"}',
)
HOME = stored(
    message_id="m-2", type="page", event=None, name="Home", anonymous_id="a1", timestamp=0
)


async def test_a_batch_is_what_segment_takes() -> None:
    async with rig() as made:
        assert await made.send([made.map(SKEWED), made.map(HOME)]) == [TAKEN, TAKEN]
        (request,) = made.vendor.requests
        assert isinstance(made.destination, Segment)
        mark = made.destination.mark
    assert request.body.decode() == (
        '{"batch":['
        '{"messageId":"m-1","type":"track","event":"Order Completed","userId":"u1",'
        '"timestamp":"2026-09-21T14:13:20.123456Z",'
        '"originalTimestamp":"2026-09-21T13:13:20.123456Z",'
        f'"context":{{"collectors":["{mark}"],'
        '"ip": "1.2.3.4", "consent": {"categoryPreferences": {"Ads": true}}},'
        '"properties":{"total": 20.10},"integrations":{"All": true, "Meta": false},'
        '"channel":"web","sentAt":"2026-09-21T13:15:00.000Z"},'
        '{"messageId":"m-2","type":"page","name":"Home","anonymousId":"a1",'
        '"timestamp":"1970-01-01T00:00:00.000Z","originalTimestamp":"1970-01-01T00:00:00.000Z",'
        f'"context":{{"collectors":["{mark}"]}},"sentAt":"2026-09-21T14:15:00.000Z"}}'
        "]}"
    )
    assert request.headers["Authorization"] == "Basic d2tfbGl2ZV81ZTltZW50Og=="
    assert request.headers["X-Collector-Forwarded"] == mark


async def test_a_wrong_key_is_nobodys_events_fault() -> None:
    async with rig(write_key="wrong") as made:
        with pytest.raises(Denied):
            await made.send([made.map(SKEWED)])


async def test_a_key_of_two_parts_is_user_and_password() -> None:
    async with rig(write_key="id:secret") as made:
        with pytest.raises(Denied):
            await made.send([made.map(SKEWED)])
        assert made.vendor.requests[0].headers["Authorization"] == "Basic aWQ6c2VjcmV0"


async def test_bodies_may_be_packed() -> None:
    async with rig(gzip=True) as made:
        await made.send([made.map(SKEWED)] * 50)
        (request,) = made.vendor.requests
        assert len(request.json()["batch"]) == 50
        assert request.wire_bytes < len(request.body) / 5
        assert gzip.compress(request.body, 1, mtime=0)  # it is the same each time
        assert request.headers["Content-Encoding"] == "gzip"


# --- times ----------------------------------------------------------------------------------------


async def times(event: StoredEvent, **settings: Any) -> tuple[int, int, int]:
    """Timestamp, original and time of sending, as they are sent."""
    async with rig(**settings) as made:
        await made.send([made.map(event)])
        (got,) = made.vendor.requests[0].json()["batch"]
    found = [microseconds(got[name]) for name in ("timestamp", "originalTimestamp", "sentAt")]
    assert None not in found
    return found[0] or 0, found[1] or 0, found[2] or 0


@pytest.mark.parametrize("original", [None, AT, AT - HOUR, AT + HOUR, AT - 40 * 365 * 24 * HOUR])
async def test_every_receiver_finds_when_it_happened(original: int | None) -> None:
    event = stored(timestamp=AT, original_timestamp=original)
    timestamp, before, at = await times(event)
    assert (timestamp, before) == (AT, AT if original is None else original)
    assert abs(NOW - (at - before) - AT) < 1_000  # who corrects with the original


@pytest.mark.parametrize("original", [None, AT - HOUR, AT + HOUR])
async def test_where_the_timestamp_is_taken_for_the_original_it_is(original: int | None) -> None:
    event = stored(timestamp=AT, original_timestamp=original)
    timestamp, before, at = await times(event, original_timestamp="replace")
    assert timestamp == before == AT
    assert at == NOW  # so that NOW - (NOW - AT) is AT, whichever of both is taken


def test_hosts_that_take_the_timestamp_for_the_original_are_known() -> None:
    def keeps(endpoint: str, how: str = "auto") -> bool:
        return SegmentSettings(
            name="a", write_key="k", endpoint=endpoint, original_timestamp=how
        ).keeps_original  # type: ignore[arg-type]

    assert SegmentSettings(name="a", write_key="k").endpoint == "https://api.segment.io/v1/batch"
    assert not SegmentSettings(name="a", write_key="k").keeps_original
    assert not keeps("https://events.eu1.segmentapis.com/v1/batch")
    assert not keeps("https://cdp.customer.io/v1/batch")
    assert keeps("https://rudder.example.org/v1/batch")
    assert keeps("https://notsegment.io/v1/batch")
    assert keeps("https://api.segment.io/v1/batch", "keep")
    assert not keeps("https://rudder.example.org/v1/batch", "replace")


@given(odd_events)
def test_times_are_kept_to_the_microsecond(event: StoredEvent) -> None:
    made = destination()
    message = sent(made, event)
    assert microseconds(message["timestamp"]) == event.timestamp
    expected = event.timestamp if event.original_timestamp is None else event.original_timestamp
    assert microseconds(message["originalTimestamp"]) == expected
    assert datetime.fromisoformat(message["timestamp"])


# --- loops ----------------------------------------------------------------------------------------


def through(made: Segment, event: StoredEvent) -> StoredEvent | None:
    """*event* as a receiver would store it that *made* sent it to; None if it did not."""
    mapped = made.map(Mail(event, NOTHING, restricted=False))
    if mapped == Skipped("loop"):
        return None
    context = sent(made, event)["context"]
    return stored(message_id=event.message_id, context=context)


def test_an_event_goes_through_the_same_way_once() -> None:
    first, second = destination("https://a.test"), destination("https://b.test")
    event: StoredEvent | None = stored(context={"ip": "1.2.3.4"})
    for made in (first, second):
        assert event is not None
        event = through(made, event)
    assert event is not None
    assert event.context == {"collectors": [first.mark, second.mark], "ip": "1.2.3.4"}
    assert through(first, event) is None
    assert through(second, event) is None


def test_a_way_is_an_endpoint_with_a_key() -> None:
    marks = {
        destination("https://a.test").mark,
        destination("https://a.test", name="other").mark,
        destination("https://b.test").mark,
        destination("https://a.test", write_key="other").mark,
    }
    assert len(marks) == 3


def test_an_event_does_not_go_on_for_ever() -> None:
    event: StoredEvent | None = stored()
    for hop in range(MARKS_MAX + 5):
        if event is None:
            break
        event = through(destination(f"https://{hop}.test"), event)
    assert event is None
    assert hop == MARKS_MAX + 1


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, {}),
        (b"{}", {}),
        (b"null", {}),
        (b'{"a": 1.10}', {"a": 1.1}),
        (b'{"collectors": "mine"}', {}),
        (b'{"collectors": [1]}', {}),
        (b'{"page": {"collectors": ["x"]}}', {"page": {"collectors": ["x"]}}),
    ],
)
def test_whatever_the_context_it_is_marked(context: bytes | None, expected: dict[str, Any]) -> None:
    made = destination()
    message = sent(made, stored(context=context))
    assert message["context"] == expected | {"collectors": [made.mark]}


@given(odd_events)
def test_what_is_sent_is_what_was_stored_and_a_mark(event: StoredEvent) -> None:
    message = sent(destination(), event)
    for name, text in (("properties", event.properties_text), ("traits", event.traits_text)):
        assert message.get(name) == (None if text is None else json.loads(text))
    context = json.loads(event.context_text or b"{}")
    assert {k: v for k, v in message["context"].items() if k != "collectors"} == context
    assert not {"writeKey", "receivedAt", "sentAt", "collector"} & message.keys()


# --- limits ---------------------------------------------------------------------------------------


async def test_an_event_that_segment_would_refuse_is_refused_before() -> None:
    def large(total: int) -> StoredEvent:
        return stored(properties={"x": "x" * (total - 400)})

    async with rig() as made:
        fits = large(32_768)
        parcel = made.map(fits)
        missing = 32_768 - parcel.size + 1
        parcel = made.map(large(32_768 + missing))
        assert await made.send([parcel]) == [TAKEN]
        refused = made.destination.map(Mail(large(32_769 + missing), NOTHING, restricted=False))
        assert isinstance(refused, Refused)
        assert refused.reason == "too_large"
        assert "event_bytes_max" in refused.detail


async def test_a_full_batch_is_within_segments_limits() -> None:
    async with rig(batch_events_max=2_500) as made:
        parcel = made.map(stored(properties={"x": "x" * 30_000}))
        most = made.destination.settings.batch_bytes_max // parcel.size
        assert await made.send([parcel] * most) == [TAKEN] * most
        small = made.map(stored(message_id="m"))
        many = min(2_500, made.destination.settings.batch_bytes_max // small.size)
        assert await made.send([small] * many) == [TAKEN] * many


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"endpoint": "api.segment.io"}, "http"),
        ({"write_key": ""}, "write_key"),
        ({"write_key": "ü"}, "ASCII"),
        ({"batch_events_max": 2_501}, "2500"),
        ({"event_bytes_max": 500_000}, "batch_bytes_max"),
        ({"original_timestamp": "maybe"}, "original_timestamp"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(
            {"type": "segment", "name": "a", "write_key": "k"} | fields, SegmentSettings
        )


# --- another collector ----------------------------------------------------------------------------


async def test_another_collector_stores_the_same_event_at_the_same_time(
    collector: CollectorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # its clock goes, and so does ours
    settings = segment(
        collector.url, write_key="demo", private_addresses=LOOPBACK, timeout_seconds=20.0
    )
    http = outbound(settings)
    made = settings.build(http)
    events = [
        SKEWED,
        HOME,
        stored(message_id="m-3", timestamp=AT + 1, original_timestamp=AT + HOUR + 7, user_id="u"),
        stored(message_id="m-4", type="identify", event=None, user_id="u", traits={"n": 2**60}),
        stored(message_id="m-5", timestamp=AT, original_timestamp=None, anonymous_id="a"),
    ]
    parcels = [made.map(Mail(event, NOTHING, restricted=False)) for event in events]
    assert await made.send(parcels) == [TAKEN] * len(events)  # type: ignore[arg-type]
    await http.close()
    await asyncio.to_thread(collector.wait_until_stored)
    rows = await collector.rows("select * from collector.events order by message_id")
    assert [row["message_id"] for row in rows] == [event.message_id for event in events]
    for row, event in zip(rows, events, strict=True):
        assert row["timestamp"].timestamp() * 1e6 == pytest.approx(event.timestamp, abs=0.5)
        original = event.timestamp if event.original_timestamp is None else event.original_timestamp
        assert row["original_timestamp"].timestamp() * 1e6 == pytest.approx(original, abs=0.5)
        assert (row["type"], row["event"], row["user_id"]) == (
            event.type,
            event.event,
            event.user_id,
        )
        assert (row["properties"] or {}) == event.properties
        assert (row["traits"] or {}) == event.traits
        assert row["context"]["collectors"] == [made.mark]
        assert not row["extra"] or set(row["extra"]) <= {"channel", "collector"}
