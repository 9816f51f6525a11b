"""Clock: when an event happened, whatever its sender's clock and format say."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.edge import FULL, Edge, read

SUCCESS = b'{"success":true}'
NOW = datetime(2026, 11, 21, 23, 57, 21, 653000, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


@pytest.mark.parametrize("skew", [-86_400.0, -1.25, 0.0, 3.5, 31_536_000.0])
async def test_a_clock_that_is_wrong_is_corrected(edge: Edge, skew: float) -> None:
    happened = datetime.now(UTC) - timedelta(seconds=7)
    wrong = timedelta(seconds=skew)
    sent = happened + timedelta(seconds=5)
    times = {
        "timestamp": (happened + wrong).isoformat(),
        "sentAt": (sent + wrong).isoformat().replace("+00:00", "Z"),
    }
    event = await edge.take(FULL | times)
    assert event.timestamp == event.received_at - 5_000_000
    assert event.original_timestamp == micros(happened + wrong)
    assert event.sent_at == micros(sent + wrong)
    assert event.extra is None
    # In a batch the time of sending stands outside, and an event's own wins.
    batch = {
        "sentAt": times["sentAt"],
        "batch": [
            {"type": "track", "event": "E", "timestamp": times["timestamp"]},
            {"type": "track", "event": "E", **times, "sentAt": times["timestamp"]},
        ],
    }
    await edge.post("/v1/batch", batch)
    outer, own = await edge.events()
    assert outer.timestamp == outer.received_at - 5_000_000
    assert own.timestamp == own.received_at


async def test_without_a_time_of_sending_the_time_stands(edge: Edge) -> None:
    event = await edge.take(FULL | {"timestamp": "2020-02-29T23:59:59.123+02:00"})
    assert event.timestamp == event.original_timestamp == 1583013599_123_000
    assert event.sent_at is None


async def test_a_time_that_was_named_beside_the_original_one_stands(edge: Edge) -> None:
    """RudderStack's SDKs send the time of the call, and the caller's own beside it."""
    times = {
        "timestamp": "2020-02-29T21:59:59.123Z",
        "originalTimestamp": "2026-11-21T23:58:35.288Z",
        "sentAt": "2026-11-21T23:58:35.589Z",
    }
    event = await edge.take(FULL | times)
    assert event.timestamp == 1583013599_123_000
    assert event.original_timestamp == 1795305515_288_000
    del times["timestamp"]
    event = await edge.take(FULL | times)
    assert event.timestamp == event.received_at - 301_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-21T23:57:21.653Z", NOW),
        ("2026-11-21T23:57:21.653+00:00", NOW),
        ("2026-11-22T01:57:21.653+02:00", NOW),
        ("2026-11-22T01:57:21.653+0200", NOW),
        ("2026-11-21T18:27:21.653-05:30", NOW),
        ("2026-11-21T23:57:21.653", NOW),
        ("2026-11-21 23:57:21.653", NOW),
        ("2026-11-21 23:57:21.653+00:00", NOW),
        ("2026-11-21T23:57:21.653000Z", NOW),
        ("2026-11-21T23:57:21.653000000Z", NOW),
        ("20261121T235721.653Z", NOW),
        ("2026-11-21T23:57:21Z", NOW.replace(microsecond=0)),
        ("2026-11-21T23:57Z", NOW.replace(second=0, microsecond=0)),
        ("2026-11-21", NOW.replace(hour=0, minute=0, second=0, microsecond=0)),
        ("2026-11-21T23:57:21.6530004Z", NOW),
        ("1795305441.653", NOW),
        ("1795305441653", NOW),
        (1795305441.653, NOW),
        (1795305441653, NOW),
        (1795305441653.0, NOW),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("0001-01-03T00:00:00Z", datetime(1, 1, 3, tzinfo=UTC)),
        ("9999-12-29T00:00:00Z", datetime(9999, 12, 29, tzinfo=UTC)),
        (
            "1969-12-31T23:59:59.999999Z",
            datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
        ),
    ],
)
async def test_times_are_read_as_they_are_written(
    edge: Edge, text: object, moment: datetime
) -> None:
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    event = await edge.take(FULL | {"timestamp": text})
    assert abs((event.original_timestamp or 0) - expected) <= 1
    assert event.timestamp == event.original_timestamp
    batch = {"batch": [FULL | {"type": "track", "timestamp": text}], "sentAt": text}
    assert (await edge.post("/v1/batch", batch)).status == 200
    event = await edge.event()
    assert event.timestamp == event.received_at


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-13-45T99:99:99Z",
        "+275760-09-13T00:00:00.000Z",
        "0000-01-01T00:00:00Z",
        "-000001-01-01T00:00:00Z",
        "Invalid Date",
        "nan",
        "inf",
        "1e400",
        "9" * 400,
        "x" * 5000,
        True,
        {"$date": 1},
        [2026, 11, 21],
        -1e300,
        1e300,
        10**30,
    ],
)
@pytest.mark.parametrize("field", ["timestamp", "originalTimestamp", "sentAt"])
async def test_a_time_that_cannot_be_read_is_noted_and_the_event_kept(
    edge: Edge, field: str, text: object
) -> None:
    event = await edge.take(FULL | {field: text})
    assert event.timestamp == event.received_at
    notes = read(event.extra)["collector"]
    assert notes["flags"] == ["clock_unusable"]
    assert len(notes["times"][field]) <= 100
    answer = await edge.post("/v1/batch", {"batch": [FULL | {"type": "track", field: text}]})
    assert answer.body == SUCCESS
    assert read((await edge.event()).extra)["collector"]["flags"] == ["clock_unusable"]


async def test_one_time_that_cannot_be_read_does_not_spoil_the_other(edge: Edge) -> None:
    event = await edge.take(FULL | {"timestamp": "2020-01-01T00:00:00Z", "sentAt": "soon"})
    assert event.timestamp == 1577836800_000_000
    assert event.sent_at is None


async def test_a_skew_that_leads_nowhere_keeps_a_time_that_postgres_has(edge: Edge) -> None:
    for times in (
        {"timestamp": "9999-12-29T00:00:00Z", "sentAt": "0001-01-03T00:00:00Z"},
        {"timestamp": "0001-01-03T00:00:00Z", "sentAt": "9999-12-29T00:00:00Z"},
    ):
        event = await edge.take(FULL | times)
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.timestamp)
        assert 1 <= at.year <= 9999
