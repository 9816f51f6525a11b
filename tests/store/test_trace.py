"""Trace: whatever became of an event, it can be told, or it is told that it cannot."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from collector.store import reader
from collector.store.desk import replays
from collector.store.desk.replays import Span
from collector.store.desk.trace import Fate, trace
from collector.store.partitions import CLOSED_DAY, make_ahead, name_of, today
from collector.store.postgres import Connection
from collector.store.selection import Selection
from tests.store.desk import (
    RECEIVED,
    add_courier,
    add_event,
    add_letter,
    add_log,
    add_waiting,
    insert,
)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """Events 1 to 9, and one destination that has settled some of them."""
    connection = await asyncpg.connect(dsn)
    await reader.admit(connection)
    for seq in range(1, 10):
        await add_event(connection, seq, user_id=f"u{seq}")
    await add_courier(connection, "hook", first_seq=2, position=6, settled_ahead=1)
    yield connection
    await connection.close()


async def fates(connection: Connection, message_id: str) -> list[Fate]:
    (stored,) = (await trace(connection, message_id)).stored
    return stored.fates


async def fate(connection: Connection, message_id: str) -> Fate:
    (found,) = await fates(connection, message_id)
    return found


# --- up to Postgres --------------------------------------------------------------------------


async def test_an_unknown_id_is_found_nowhere(connection: Connection) -> None:
    found = await trace(connection, "m10")
    assert (found.stored, found.rejected) == ([], [])


async def test_what_was_turned_down_says_why(connection: Connection) -> None:
    row = {
        "received_at": RECEIVED,
        "source": "shop",
        "accepted": True,
        "reason": "id_too_long",
        "detail": "shorten it",
        "message_id": "bad",
        "payload": "{}",
        "payload_bytes": 2,
    }
    await insert(connection, "rejected_events", row)
    await insert(connection, "rejected_events", row | {"message_id": "other"})
    found = await trace(connection, "bad")
    assert found.stored == []
    assert [(each.reason, each.detail) for each in found.rejected] == [
        ("id_too_long", "shorten it")
    ]


async def test_what_is_stored_says_who_what_and_when(connection: Connection) -> None:
    sent = RECEIVED - timedelta(microseconds=1)
    await add_event(connection, 10, message_id="x", sent_at=sent, type="page", event=None)
    (found,) = (await trace(connection, "x")).stored
    assert (found.seq, found.source, found.type, found.event) == (10, "shop", "page", None)
    assert (found.received_at, found.sent_at, found.original_timestamp) == (RECEIVED, sent, None)


async def test_an_id_that_came_again_after_the_window_is_found_twice(
    connection: Connection,
) -> None:
    await add_event(connection, 10, message_id="m2", received_at=RECEIVED + timedelta(days=30))
    assert [found.seq for found in (await trace(connection, "m2")).stored] == [2, 10]


async def test_it_is_found_on_an_open_and_a_closed_day(connection: Connection) -> None:
    await make_ahead(connection)
    day = await today(connection)
    for number, at in ((11, day), (12, day - timedelta(days=1))):
        moment = datetime(at.year, at.month, at.day, 12, tzinfo=UTC)
        await add_event(connection, number, received_at=moment)
    closed = name_of("events", day - timedelta(days=1))
    for index, definition in CLOSED_DAY:
        await connection.execute(
            f"create index {closed}_{index} on collector.{closed} {definition}"
        )
    for number in (11, 12):
        assert [found.seq for found in (await trace(connection, f"m{number}")).stored] == [number]


# --- live delivery ---------------------------------------------------------------------------


async def test_what_came_before_the_destination_began_is_not_its_business(
    connection: Connection,
) -> None:
    assert (await fate(connection, "m1")).outcome == "before_start"


@pytest.mark.parametrize("outcome", ["delivered", "skipped", "refused"])
async def test_what_is_settled_says_how_and_when(connection: Connection, outcome: str) -> None:
    reason = "" if outcome == "delivered" else "because"
    await add_log(connection, "hook", outcome, [2, 3, 5], reason=reason, attempts=4)
    await add_log(connection, "hook", "delivered", [4, 6])
    found = await fate(connection, "m5")
    assert (found.outcome, found.reason, found.attempts) == (outcome, reason or None, 4)
    assert found.at is not None


async def test_a_log_that_spans_the_event_need_not_be_about_it(connection: Connection) -> None:
    await add_log(connection, "hook", "delivered", [2, 3, 5])
    assert (await fate(connection, "m4")).outcome == "settled"


async def test_what_was_settled_before_the_log_was_pruned_says_that_no_more_is_known(
    connection: Connection,
) -> None:
    found = await fate(connection, "m6")
    assert (found.outcome, found.at, found.reason) == ("settled", None, None)


async def test_what_waits_says_why_and_until_when(connection: Connection) -> None:
    until = RECEIVED + timedelta(hours=1)
    await add_waiting(
        connection,
        "hook",
        7,
        attempts=3,
        reason="http_503",
        detail="Service Unavailable",
        not_before=until,
        message_id="m7",
    )
    found = await fate(connection, "m7")
    assert (found.outcome, found.attempts, found.reason) == ("waiting", 3, "http_503")
    assert (found.detail, found.not_before) == ("Service Unavailable", until)


async def test_what_is_done_ahead_of_the_position_is_settled(connection: Connection) -> None:
    await add_waiting(connection, "hook", 7, message_id="m7")
    await add_waiting(connection, "hook", 8, last_seq=8, state="done")
    assert (await fate(connection, "m8")).outcome == "settled"
    assert (await fate(connection, "m9")).outcome == "pending"


async def test_what_is_pending_says_what_holds_it_up(connection: Connection) -> None:
    assert (await fate(connection, "m9")).held_up_by is None
    await connection.execute("update collector.couriers set state = 'paused', reason = 'denied'")
    found = await fate(connection, "m9")
    assert (found.outcome, found.held_up_by) == ("pending", "denied")


async def test_what_is_a_dead_letter_says_which(connection: Connection) -> None:
    await add_log(connection, "hook", "refused", [3], reason="invalid_email")
    await add_letter(connection, "hook", 3)
    number = await connection.fetchval("select id from collector.dead_letters")
    found = await fate(connection, "m3")
    assert (found.outcome, found.dead_letter, found.detail) == (
        "refused", number, "the vendor says no"
    )  # fmt: skip


async def test_a_dead_letter_outlives_the_log(connection: Connection) -> None:
    await add_letter(connection, "hook", 3)
    found = await fate(connection, "m3")
    assert (found.outcome, found.reason) == ("refused", "invalid_email")


async def test_every_destination_is_told_of(connection: Connection) -> None:
    await add_courier(connection, "ga4", position=0)
    assert [(f.destination, f.outcome) for f in await fates(connection, "m3")] == [
        ("ga4", "pending"), ("hook", "settled")
    ]  # fmt: skip


# --- replays ---------------------------------------------------------------------------------


async def test_a_replay_is_told_of_if_the_event_is_its_business(connection: Connection) -> None:
    await replays.create(connection, "hook", Selection(), Span(1, 5))
    await replays.create(connection, "hook", Selection(types=["page"]), Span(1, 9))
    await replays.create(connection, "hook", Selection(where="1 / (e.seq - 3) > 0"), Span(1, 9))
    await replays.create(connection, "hook", Selection(where="e.seq = 3"), Span(1, 9))
    of = {f.replay: f.outcome for f in await fates(connection, "m3")}
    assert of == {0: "settled", 1: "pending", 3: "pending", 4: "pending"}
    assert {f.replay for f in await fates(connection, "m9")} == {0}


async def test_a_retry_that_was_delivered_is_told_of_after_the_letter_is_gone(
    connection: Connection,
) -> None:
    await add_log(connection, "hook", "refused", [3], reason="invalid_email")
    number = await replays.create(connection, "hook", Selection(dead_letters=True), Span(3, 3))
    await add_letter(connection, "hook", 3, retry=number)
    live, again = await fates(connection, "m3")
    assert (live.outcome, live.retry, again.outcome) == ("refused", number, "pending")
    await connection.execute("delete from collector.dead_letters")
    await connection.execute(
        "update collector.couriers set position = 3, state = 'done' where replay = $1", number
    )
    await add_log(connection, "hook", "delivered", [3], replay=number)
    live, again = await fates(connection, "m3")
    assert (live.outcome, live.dead_letter, again.outcome) == ("refused", None, "delivered")


async def test_what_a_cancelled_replay_did_not_reach_is_cancelled(connection: Connection) -> None:
    number = await replays.create(connection, "hook", Selection(), Span(1, 9))
    await connection.execute("update collector.couriers set position = 4 where replay = $1", number)
    await replays.cancel(connection, number)
    assert (await fates(connection, "m4"))[1].outcome == "settled"
    assert (await fates(connection, "m5"))[1].outcome == "cancelled"
