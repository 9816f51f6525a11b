"""Dead letters: looked at, tried again, dropped."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from collector.errors import BadRequest
from collector.store.desk.deadletters import (
    Letters,
    Retried,
    dead_letter,
    dead_letters,
    drop,
    retry,
)
from collector.store.postgres import Connection
from collector.store.selection import Selection, clause, decode
from tests.store.desk import RECEIVED, add_courier, add_event, add_letter


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """Two destinations with three dead letters, and one of them without an event any more."""
    connection = await asyncpg.connect(dsn)
    for seq in (1, 2, 3, 4):
        await add_event(connection, seq, type="identify" if seq == 3 else "track")
    await add_courier(connection, "ga4", type="ga4", position=4)
    await add_courier(connection, "hook", position=4)
    await add_letter(connection, "ga4", 1)
    await add_letter(connection, "ga4", 3, type="identify", event=None, reason="too_old")
    await add_letter(connection, "hook", 2, received_at=None)
    await add_letter(connection, "hook", 99, event="Order Refunded", reason="expired")
    yield connection
    await connection.close()


async def seqs(connection: Connection, **members: Any) -> list[int]:
    page = await dead_letters(connection, Letters(**members))
    return sorted(letter.seq for letter in page.dead_letters)


# --- to be looked at -------------------------------------------------------------------------


async def test_they_come_newest_first_with_what_there_is_of_each_reason(
    connection: Connection,
) -> None:
    await connection.execute(
        "update collector.dead_letters set failed_at = failed_at - interval '1 h' where seq = 2"
    )
    page = await dead_letters(connection, Letters(), limit=2)
    assert len(page.dead_letters) == 2
    assert 2 not in {letter.seq for letter in page.dead_letters}
    assert page.total == 4
    assert page.reasons == {
        "ga4": {"invalid_email": 1, "too_old": 1},
        "hook": {"expired": 1, "invalid_email": 1},
    }


async def test_each_filter_narrows(connection: Connection) -> None:
    assert await seqs(connection, destination="ga4") == [1, 3]
    assert await seqs(connection, reason="invalid_email") == [1, 2]
    assert await seqs(connection, reason="invalid_email", destination="hook") == [2]
    assert await seqs(connection, event="Order*") == [1, 2, 99]
    assert await seqs(connection, event="Order ?efunded") == [99]
    assert await seqs(connection, event="Order_Refunded") == []
    assert await seqs(connection, types=["identify"]) == [3]
    assert await seqs(connection, message_id="m2") == [2]
    number = await connection.fetchval("select id from collector.dead_letters where seq = 3")
    assert await seqs(connection, ids=[number, 10**18]) == [3]


async def test_they_are_found_by_when_they_failed(connection: Connection) -> None:
    await connection.execute(
        "update collector.dead_letters set failed_at = $1 where seq = 2", RECEIVED
    )
    assert await seqs(connection, until=RECEIVED + timedelta(seconds=1)) == [2]
    assert await seqs(connection, since=RECEIVED, until=RECEIVED) == []
    assert await seqs(connection, since=RECEIVED + timedelta(seconds=1)) == [1, 3, 99]


async def test_an_unknown_destination_is_no_empty_list(connection: Connection) -> None:
    for act in (dead_letters, retry, drop):
        with pytest.raises(BadRequest, match="name one of ga4, hook"):
            await act(connection, Letters(destination="ga5"))


async def test_one_is_shown_with_its_event(connection: Connection) -> None:
    number = await connection.fetchval("select id from collector.dead_letters where seq = 1")
    letter, event = await dead_letter(connection, number)
    assert (letter.destination, letter.reason, letter.retry) == ("ga4", "invalid_email", None)
    assert event is not None
    assert (event["messageId"], event["event"]) == ("m1", "Order Completed")
    assert event["receivedAt"] == "2026-06-01T12:00:00.000Z"


async def test_one_of_which_the_event_has_expired_is_shown_without_it(
    connection: Connection,
) -> None:
    number = await connection.fetchval("select id from collector.dead_letters where seq = 99")
    assert (await dead_letter(connection, number))[1] is None
    with pytest.raises(BadRequest) as refusal:
        await dead_letter(connection, 10**12)
    assert (refusal.value.code, refusal.value.status) == ("unknown_dead_letter", 404)


# --- to be tried again -----------------------------------------------------------------------


async def test_a_retry_is_a_replay_of_just_those(connection: Connection) -> None:
    result = await retry(connection, Letters())
    first, second = result.replays
    assert (first.destination, first.events) == ("ga4", 2)
    assert (second.destination, second.events) == ("hook", 1)
    assert (result.under_way, result.expired) == (0, 1)
    row = await connection.fetchrow(
        "select type, state, first_seq, last_seq, position, total, filter::text, epoch "
        "from collector.couriers where replay = $1",
        first.replay,
    )
    assert tuple(row)[:6] == ("ga4", "running", 1, 3, 0, 2)
    assert decode(row["filter"]) == Selection(dead_letters=True)
    condition, arguments = clause(decode(row["filter"]), 1, first.replay)
    found = await connection.fetch(
        f"select e.seq from collector.events e where {condition} order by 1", *arguments
    )
    assert [row["seq"] for row in found] == [1, 3]
    page = await dead_letters(connection, Letters(destination="ga4"))
    assert {letter.retry for letter in page.dead_letters} == {first.replay}


async def test_what_is_being_tried_is_not_tried_twice(connection: Connection) -> None:
    chosen = Letters(destination="ga4")
    (started,) = (await retry(connection, chosen)).replays
    again = await retry(connection, chosen)
    assert (again.replays, again.under_way) == ([], 2)
    await connection.execute(
        "update collector.couriers set state = 'done' where replay = $1", started.replay
    )
    assert [each.events for each in (await retry(connection, chosen)).replays] == [2]


async def test_two_who_retry_at_once_start_it_once(connection: Connection, dsn: str) -> None:
    other = await asyncpg.connect(dsn)
    results = await asyncio.gather(
        retry(connection, Letters(destination="ga4")), retry(other, Letters(destination="ga4"))
    )
    await other.close()
    started = [each.events for result in results for each in result.replays]
    assert started == [2]


async def test_a_retry_of_nothing_starts_nothing(connection: Connection) -> None:
    result = await retry(connection, Letters(message_id="nothing"))
    assert (result.replays, result.under_way, result.expired) == ([], 0, 0)
    assert await connection.fetchval("select max(replay) from collector.couriers") == 0


async def test_only_those_that_were_chosen_are_tried(connection: Connection) -> None:
    result = await retry(connection, Letters(message_id="m1"))
    assert result.replays == [Retried(destination="ga4", replay=1, events=1)]
    retried = await connection.fetch("select seq from collector.dead_letters where retry = 1")
    assert [row["seq"] for row in retried] == [1]


# --- to be dropped ---------------------------------------------------------------------------


async def test_those_that_were_chosen_are_dropped_and_no_event_is(connection: Connection) -> None:
    assert await drop(connection, Letters(destination="hook", reason="expired")) == 1
    assert await seqs(connection) == [1, 2, 3]
    assert await drop(connection, Letters(reason="expired")) == 0
    assert await connection.fetchval("select count(*) from collector.events") == 4
