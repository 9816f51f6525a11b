"""segment-analytics-python, unmodified: what it reports as sent is stored, once, as it was said."""

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.clients.proxy import LOSE_ANSWER, LOSE_REQUEST, Proxy, says
from tests.expected import kept, moment
from tests.process import CollectorProcess

DRIVER = Path(__file__).with_name("segment_python.py")
REPOSITORY = Path(__file__).parents[2]
COLUMNS = {
    "event": "event",
    "name": "name",
    "category": "category",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}


async def drive(host: str, output: Path, count: int, **options: object) -> dict[str, Any]:
    """Run the program, and return what the SDK told it."""
    arguments = [f"{name}={json.dumps(value)}" for name, value in options.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, DRIVER, host, output, str(count), *arguments, cwd=REPOSITORY
    )
    assert await process.wait() == 0
    told: dict[str, Any] = json.loads(output.read_text())
    return told


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["messageId"] for message in messages]


async def assert_stored(collector: CollectorProcess, sent: list[dict[str, Any]]) -> list[str]:
    """Check the row of each message, and return the ids of all rows in the order of seq."""
    facts = await asyncio.to_thread(collector.wait_until_stored)
    (books,) = facts["store"]["sources"]
    assert books["missing"] == 0
    assert books["rejected"] == 0
    rows = await collector.rows("select * from collector.events order by seq")
    found = {row["message_id"]: row for row in rows}
    assert len(found) == len(rows) == books["stored"]
    for message in sent:
        row = found[message["messageId"]]
        assert row["type"] == message["type"]
        for name, column in COLUMNS.items():
            value = message.get(name)
            assert row[column] == kept(str(value) if isinstance(value, int) else value), name
        assert row["properties"] == kept(message.get("properties"))
        assert row["traits"] == kept(message.get("traits"))
        # The source is of kind browser: what the server's request says is still not the visitor's.
        assert row["context"] == kept(message["context"])
        assert row["integrations"] == message["integrations"]
        assert row["extra"] is None
        assert row["original_timestamp"] == moment(message["timestamp"])
        assert abs(row["received_at"] - row["sent_at"]) < timedelta(seconds=60)
        skew = row["received_at"] - row["sent_at"]
        assert row["timestamp"] == row["original_timestamp"] + skew
        assert abs(row["received_at"] - datetime.now(UTC)) < timedelta(minutes=5)
    return list(found)


async def test_thousands_of_events_are_rows_in_their_order(
    collector: CollectorProcess, tmp_path: Path
) -> None:
    told = await drive(collector.url, tmp_path / "told", 3000)
    assert told["errors"] == []
    assert len(told["sent"]) == 3000
    assert await assert_stored(collector, told["sent"]) == ids(told["sent"])
    sql = "select user_id, traits from collector.users"
    users = {row["user_id"]: row["traits"] for row in await collector.rows(sql)}
    latest: dict[str, Any] = {}
    for message in told["sent"]:
        if message["type"] == "identify":
            latest[message["userId"]] = latest.get(message["userId"], {}) | message["traits"]
    assert users == latest


async def test_zipped_batches_are_rows_too(collector: CollectorProcess, tmp_path: Path) -> None:
    told = await drive(
        collector.url + "/", tmp_path / "told", 600, gzip=True, upload_size=250, upload_interval=0.1
    )
    assert told["errors"] == []
    assert await assert_stored(collector, told["sent"]) == ids(told["sent"])


async def test_calls_that_wait_are_rows_when_they_return(
    collector: CollectorProcess, tmp_path: Path
) -> None:
    """In sync mode nothing is tried again: what failed was raised, what returned is stored."""
    faults = {
        10: says(429, Retry_After="1"),
        20: says(503),
        30: LOSE_ANSWER,
        40: LOSE_REQUEST,
        50: says(500),
    }
    async with Proxy(collector.port, faults) as proxy:
        told = await drive(proxy.url, tmp_path / "told", 120, sync_mode=True)
    assert len(told["errors"]) == 5
    assert len(told["sent"]) == 115
    stored = await assert_stored(collector, told["sent"])
    assert len(stored) == 116  # that whose answer was lost
    assert [one for one in stored if one in ids(told["sent"])] == ids(told["sent"])


async def test_nothing_is_lost_and_nothing_twice_whatever_happens_on_the_way(
    collector: CollectorProcess, tmp_path: Path
) -> None:
    faults = {
        2: says(429, Retry_After="1"),
        4: says(503, Retry_After="1"),
        6: LOSE_ANSWER,
        9: LOSE_REQUEST,
        11: says(500),
        13: LOSE_ANSWER,
        14: LOSE_ANSWER,
        17: says(503),
        19: says(429, Retry_After="1"),
        21: LOSE_ANSWER,
    }
    async with Proxy(collector.port, faults) as proxy:
        drives = asyncio.create_task(
            drive(proxy.url, tmp_path / "told", 4000, gzip=True, upload_interval=0.1)
        )
        await proxy.passes(8)
        await asyncio.to_thread(collector.kill)
        await asyncio.to_thread(collector.start)
        await proxy.passes(20)
        assert await asyncio.to_thread(collector.stop) == 0
        await asyncio.to_thread(collector.start)
        told = await drives
    assert told["errors"] == []
    assert len(told["sent"]) == 4000
    assert proxy.broken > 5
    stored = await assert_stored(collector, told["sent"])
    assert sorted(stored) == sorted(ids(told["sent"]))
    (books,) = collector.status()["store"]["sources"]
    assert books["duplicate"] > 0  # the answers that were lost
