"""@segment/analytics-node, unmodified: what it reports as sent is stored, once, as it was said."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clients.npm import installed
from tests.clients.proxy import LOSE_ANSWER, LOSE_REQUEST, Proxy, says
from tests.expected import kept, moment
from tests.process import CollectorProcess

SOURCE = Path(__file__).with_name("node")
COLUMNS = {
    "event": "event",
    "name": "name",
    "category": "category",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}
NO_EXTRA = {"type", "messageId", "timestamp", "context", "properties", "traits", "integrations"}


@pytest.fixture(scope="module")
def program(pytestconfig: pytest.Config) -> Path:
    """The program beside its packages."""
    return installed(pytestconfig, SOURCE, "node-clients") / "segment_node.mjs"


async def drive(program: Path, host: str, output: Path, count: int, pause_ms: int) -> Any:
    """Run the program, and return what the SDK told it."""
    process = await asyncio.create_subprocess_exec(
        "node", program, host, output, str(count), str(pause_ms), cwd=program.parent
    )
    assert await process.wait() == 0
    return json.loads(output.read_text())


async def assert_stored(collector: CollectorProcess, sent: list[dict[str, Any]]) -> None:
    """Check that there is one row for each event, and that it says what the event says."""
    facts = await asyncio.to_thread(collector.wait_until_stored)
    (books,) = facts["store"]["sources"]
    assert books["missing"] == 0
    assert books["rejected"] == 0
    rows = await collector.rows("select * from collector.events")
    found = {row["message_id"]: row for row in rows}
    assert sorted(found) == sorted(event["messageId"] for event in sent)
    assert len(rows) == len(found)
    for event in sent:
        row = found[event["messageId"]]
        assert row["type"] == event["type"]
        for name, column in COLUMNS.items():
            assert row[column] == kept(event.get(name)), name
        for name in ("properties", "traits", "context", "integrations"):
            assert row[name] == kept(event.get(name)), name
        extra = {name: value for name, value in event.items() if name not in NO_EXTRA}
        assert row["extra"] == {n: v for n, v in extra.items() if n not in COLUMNS}
        assert set(row["extra"]) == {"_metadata"}
        assert row["original_timestamp"] == moment(event["timestamp"])
        assert abs(row["received_at"] - row["sent_at"]) < timedelta(seconds=60)
        skew = row["received_at"] - row["sent_at"]
        assert row["timestamp"] == row["original_timestamp"] + skew
        assert abs(row["received_at"] - datetime.now(UTC)) < timedelta(minutes=5)


async def test_thousands_of_events_are_rows(
    program: Path, collector: CollectorProcess, tmp_path: Path
) -> None:
    told = await drive(program, collector.url, tmp_path / "told", 3000, 0)
    assert told["failed"] == []
    assert len(told["sent"]) == 3000
    await assert_stored(collector, told["sent"])


async def test_nothing_is_lost_and_nothing_twice_whatever_happens_on_the_way(
    program: Path, collector: CollectorProcess, tmp_path: Path
) -> None:
    faults = {
        2: LOSE_ANSWER,
        5: says(503),
        8: LOSE_REQUEST,
        12: says(429, Retry_After="1"),
        30: says(500),
        40: LOSE_ANSWER,
        41: LOSE_ANSWER,
    }
    async with Proxy(collector.port, faults) as proxy:
        drives = asyncio.create_task(drive(program, proxy.url, tmp_path / "told", 1500, 60))
        await proxy.passes(25)
        await asyncio.to_thread(collector.kill)
        await asyncio.to_thread(collector.start)
        await proxy.passes(60)
        assert await asyncio.to_thread(collector.stop) == 0
        await asyncio.to_thread(collector.start)
        told = await drives
    assert told["failed"] == []
    assert len(told["sent"]) == 1500
    assert proxy.broken > 4
    await assert_stored(collector, told["sent"])
    (books,) = collector.status()["store"]["sources"]
    assert books["duplicate"] > 0  # the answers that were lost
