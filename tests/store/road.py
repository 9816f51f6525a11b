"""The journal and the store in this process, as the app builds them, with events put in by hand."""

import asyncio
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from collector import metrics
from collector.event import BATCH, Envelope, encode_envelope
from collector.journal import FileJournal, JournalSettings
from collector.journal.base import Frame
from collector.refine import Limits
from collector.store import Store, StoreSettings

LIMITS = Limits(512, 1024)
_numbers = itertools.count(1)


def track(message_id: str | None = None, **members: Any) -> dict[str, Any]:
    """One track event."""
    event = {"type": "track", "event": "E", "userId": "u", **members}
    if message_id is not None:
        event["messageId"] = message_id
    return event


def frame_of(
    events: list[dict[str, Any]], source: str = "default", at: float | None = None
) -> Frame:
    """What ingest puts into the journal for a batch."""
    body = json.dumps({"batch": events}).encode()
    received_at = int((time.time() if at is None else at) * 1e6)
    envelope = Envelope(source, BATCH, received_at, uuid.uuid4().bytes, body)
    return Frame(encode_envelope(envelope), source, len(events))


class Road:
    """One collector without its ingest port."""

    def __init__(
        self,
        data_dir: Path,
        dsn: str,
        *,
        journal: JournalSettings | None = None,
        **settings: Any,
    ) -> None:
        self.data_dir = data_dir
        self.dsn = dsn
        self._journal_settings = journal or JournalSettings()
        self._settings = StoreSettings(**{"dsn": dsn, "linger_seconds": 0.0, **settings})
        self.journal: FileJournal
        self.store: Store

    async def open(self) -> "Road":
        self.journal = await FileJournal.open(self.data_dir / "journal", self._journal_settings)
        self.store = Store(self._settings, self.data_dir, self.journal, LIMITS)
        await self.store.start()
        return self

    async def close(self) -> None:
        await self.store.stop()
        await self.journal.close()

    async def __aenter__(self) -> "Road":
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, *events: dict[str, Any], source: str = "default") -> int:
        """Append one batch; it is acknowledged when this returns."""
        return await self.journal.append(frame_of(list(events), source))

    async def stored(self, seconds: float = 30.0) -> None:
        """Wait until everything is stored and the books say so."""
        if not await self.store.drain(seconds):
            raise AssertionError(f"not stored: {self.store.facts()}")

    @property
    def books(self) -> dict[str, Any]:
        """The sums over all sources."""
        table = self.store.books.table()
        names = ("accepted", "stored", "duplicate", "rejected", "lost", "waiting", "missing")
        return {name: sum(row[name] for row in table) for name in names}

    def assert_books_close(self) -> None:
        table = self.store.books.table()
        assert all(row["missing"] == 0 for row in table), table


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(dsn: str, sql: str, *arguments: Any) -> Any:
    """The first value that *sql* gives."""
    async with connected(dsn) as connection:
        return await connection.fetchval(sql, *arguments)


async def assert_exactly_once(dsn: str, message_ids: Iterable[str]) -> None:
    """Every one of *message_ids* is a row, once, and `seq` is dense from 1."""
    wanted = set(message_ids)
    async with connected(dsn) as connection:
        found = await connection.fetch("select seq, message_id from collector.events order by seq")
        last = await connection.fetchval("select last from collector.sequence")
        remembered = await connection.fetchval("select sum(events) from collector.seen")
    stored = [row["message_id"] for row in found]
    assert len(stored) == len(set(stored)), "stored twice"
    assert wanted == set(stored), (len(wanted - set(stored)), len(set(stored) - wanted))
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    assert last == len(found) == (remembered or 0)


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until *true* is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def anomalies() -> dict[str, int]:
    """How often each kind of anomaly was counted, so far in this process."""
    return {
        sample.labels["kind"]: int(sample.value)
        for family in metrics.journal_anomalies.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


class Anomalies:
    """Those that are counted from now on."""

    def __init__(self) -> None:
        self._before = anomalies()

    def __call__(self) -> dict[str, int]:
        return {
            kind: count - self._before.get(kind, 0)
            for kind, count in anomalies().items()
            if count != self._before.get(kind, 0)
        }
