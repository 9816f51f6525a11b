"""
Where were we? Postgres restored or replaced, journals copied, replaced or deleted.

Each time: it is said and counted, the road goes on, what was acknowledged and still is on the disk
is in Postgres, and the books close.
"""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from collector.journal import JournalSettings
from collector.store import store as store_module
from tests.conftest import PostgresServer
from tests.store.road import Anomalies, Road, ask, assert_exactly_once, connected, track, until

_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSE_SECONDS_MIN", 0.01)


class Database:
    """A database of which backups are made and restored."""

    def __init__(self, postgres: PostgresServer, dsn: str) -> None:
        self._postgres = postgres
        self.dsn = dsn
        self.name = dsn.partition("@/")[2].partition("?")[0]
        self._backups: list[str] = []

    async def _copy(self, source: str, target: str) -> None:
        # Connections keep a database from being copied: none may come, and those there are ended.
        await self._postgres.execute(f"alter database {source} allow_connections false")
        await self._postgres.execute(
            f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{source}'"
        )
        await self._postgres.execute(f"create database {target} template {source} owner collector")
        await self._postgres.execute(f"alter database {source} allow_connections true")

    async def back_up(self) -> None:
        self._backups.append(f"{self.name}_backup{len(self._backups)}")
        await self._copy(self.name, self._backups[-1])

    async def restore(self) -> None:
        await self._postgres.execute(f"drop database {self.name} with (force)")
        await self._copy(self._backups[-1], self.name)

    async def replace_by_empty(self) -> None:
        await self._postgres.execute(f"drop database {self.name} with (force)")
        await self._postgres.execute(f"create database {self.name} owner collector")

    async def remove(self) -> None:
        for name in self._backups:
            await self._postgres.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
async def database(postgres: PostgresServer, dsn: str) -> AsyncIterator[Database]:
    made = Database(postgres, dsn)
    yield made
    await made.remove()


class Sender:
    """Sends events and remembers which were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []

    async def send(self, road: Road, count: int = 20, each: int = 3) -> list[str]:
        sent = []
        for _ in range(count):
            ids = [f"id-{next(_numbers)}" for _ in range(each)]
            await road.send(*[track(id_) for id_ in ids])
            sent += ids
        self.acknowledged += sent
        return sent


@pytest.mark.parametrize("running", [True, False])
async def test_a_postgres_restored_from_a_backup_gets_again_what_the_journal_keeps(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    sender, counted = Sender(), Anomalies()
    road = await Road(tmp_path, database.dsn).open()
    await sender.send(road)
    await road.stored()
    await database.back_up()
    await sender.send(road)
    await road.stored()
    if not running:
        await road.close()
    await database.restore()
    if not running:
        road = await Road(tmp_path, database.dsn).open()
    await sender.send(road)
    await road.stored()
    road.assert_books_close()
    assert road.books["lost"] == road.books["duplicate"] == 0
    assert counted()["cursor_rewound"] == 1
    assert "The cursor went back" in caplog.text
    # Of a few ids none were written to a file: a restart does not know the former history.
    assert counted().get("history_changed", 0) == running
    await road.close()
    await assert_exactly_once(database.dsn, sender.acknowledged)


@pytest.mark.parametrize("running", [True, False])
async def test_a_backup_that_is_older_than_the_journal_leaves_a_gap_that_is_counted(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    sender, counted = Sender(), Anomalies()
    brief = JournalSettings(keep_seconds=0, file_bytes=2_000)

    async def forgotten(before: int) -> None:
        while road.journal.oldest <= before:
            await sender.send(road, 1)
            await road.stored()
            road.journal._space.has_room(1 << 40, road.journal.end)  # lets go of whatever may go

    road = await Road(tmp_path, database.dsn, journal=brief).open()
    await sender.send(road)
    await road.stored()
    await database.back_up()
    cursor = await ask(database.dsn, "select position from collector.journals")
    await sender.send(road, 60)
    await road.stored()
    await forgotten(cursor + 30)
    if not running:
        await road.close()
    await database.restore()
    if not running:
        road = await Road(tmp_path, database.dsn, journal=brief).open()
    await sender.send(road)
    await road.stored()
    road.assert_books_close()
    assert road.books["lost"] > 60
    assert counted()["cursor_before_oldest"] == 1
    assert "the gap is lost" in caplog.text
    stored = await ask(database.dsn, "select count(*) from collector.events")
    assert stored == len(sender.acknowledged) - road.books["lost"]
    await road.close()
    async with Road(tmp_path, database.dsn, journal=brief) as road:
        await sender.send(road)
        await road.stored()
        road.assert_books_close()
    async with connected(database.dsn) as connection:
        rows = await connection.fetch("select message_id from collector.events")
    missing = set(sender.acknowledged) - {row["message_id"] for row in rows}
    # One gap, and nothing else.
    at = [sender.acknowledged.index(id_) for id_ in missing]
    assert max(at) - min(at) + 1 == len(missing)


@pytest.mark.parametrize("running", [True, False])
async def test_an_empty_postgres_gets_what_the_journal_keeps(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    sender, counted = Sender(), Anomalies()
    road = await Road(tmp_path, database.dsn).open()
    await sender.send(road)
    await road.stored()
    if not running:
        await road.close()
    await database.replace_by_empty()
    if not running:
        road = await Road(tmp_path, database.dsn).open()
    await sender.send(road)
    await road.stored()
    road.assert_books_close()
    assert counted()["cursor_missing"] == 1
    assert "replaced by an empty one" in caplog.text
    await road.close()
    await assert_exactly_once(database.dsn, sender.acknowledged)


async def test_a_restart_is_no_anomaly(dsn: str, tmp_path: Path) -> None:
    sender, counted = Sender(), Anomalies()
    for _ in range(5):
        async with Road(tmp_path, dsn) as road:
            await sender.send(road, 2)
            await road.stored()
            road.assert_books_close()
    # Nor is one that is interrupted anywhere between the two places where the epoch stands.
    async with connected(dsn) as connection:
        await connection.execute("update collector.journals set epoch = epoch - 1")
    async with Road(tmp_path, dsn) as road:
        await sender.send(road, 2)
        await road.stored()
    assert counted() == {}
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_a_journal_replaced_by_an_older_copy_gets_a_new_identity(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sender, counted = Sender(), Anomalies()
    async with Road(tmp_path, dsn) as road:
        await sender.send(road)
        await road.stored()
    shutil.copytree(tmp_path / "journal", tmp_path / "older")
    async with Road(tmp_path, dsn) as road:
        await sender.send(road)
        await road.stored()
        identity = road.journal.id
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "older").rename(tmp_path / "journal")
    async with Road(tmp_path, dsn) as road:
        await sender.send(road, 30)
        await road.stored()
        assert road.journal.id != identity
        assert counted() == {"cursor_beyond_end": 1}
        assert "replaced by an older copy" in caplog.text
        road.assert_books_close()
        assert road.books["duplicate"] == 0
        await sender.send(road)
    async with Road(tmp_path, dsn) as road:
        await road.stored()
        road.assert_books_close()
    assert counted() == {"cursor_beyond_end": 1}
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_two_collectors_on_copies_of_one_journal_both_store_what_they_have(
    dsn: str, tmp_path: Path
) -> None:
    sender, counted = Sender(), Anomalies()
    async with Road(tmp_path / "a", dsn) as a:
        await sender.send(a)
        await a.stored()
        await sender.send(a, 5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    async with Road(tmp_path / "a", dsn) as a, Road(tmp_path / "b", dsn) as b:
        for _ in range(10):
            await asyncio.gather(sender.send(a, 5), sender.send(b, 5))
        await a.stored()
        await b.stored()
        assert a.journal.id != b.journal.id
        a.assert_books_close()
        b.assert_books_close()
        assert counted()["cursor_taken"] == 1
    async with Road(tmp_path / "b", dsn) as b, Road(tmp_path / "a", dsn) as a:
        await asyncio.gather(sender.send(a, 5), sender.send(b, 5))
        await a.stored()
        await b.stored()
        a.assert_books_close()
        b.assert_books_close()
    assert counted()["cursor_taken"] == 1
    await assert_exactly_once(dsn, sender.acknowledged)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ahead", ["copy", "original"])
async def test_a_collector_whose_copy_stored_meanwhile_loses_nothing_it_took_alone(
    dsn: str, tmp_path: Path, whole: bool, ahead: str
) -> None:
    """The positions that the copy moved the cursor past are other frames here."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    sender, counted = Sender(), Anomalies()
    async with Road(tmp_path / "a", dsn) as a:
        await sender.send(a)
        await a.stored()
    if whole:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    else:
        shutil.copytree(tmp_path / "a/journal", tmp_path / "b/journal")
    async with Road(tmp_path / "a", nowhere) as a:  # cut off from Postgres
        await sender.send(a, 30 if ahead == "original" else 10)
    async with Road(tmp_path / "b", dsn) as b:
        await sender.send(b, 20)
        await b.stored()
        b.assert_books_close()
    async with Road(tmp_path / "a", dsn) as a:
        await a.stored()
        a.assert_books_close()
        await sender.send(a)
        await a.stored()
        a.assert_books_close()
    assert sum(counted().values()) == 1
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_a_deleted_journal_is_begun_anew(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sender, counted = Sender(), Anomalies()
    async with Road(tmp_path, dsn) as road:
        await sender.send(road)
        await road.stored()
    shutil.rmtree(tmp_path / "journal")
    async with Road(tmp_path, dsn) as road:
        await sender.send(road)
        await road.stored()
        road.assert_books_close()
        assert road.books["accepted"] == 60
    assert counted() == {"journal_replaced": 1}
    assert "another one than last time" in caplog.text
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_a_deleted_data_directory_is_begun_anew(dsn: str, tmp_path: Path) -> None:
    sender, counted = Sender(), Anomalies()
    async with Road(tmp_path / "data", dsn) as road:
        sent = await sender.send(road)
        await road.stored()
    shutil.rmtree(tmp_path / "data")
    async with Road(tmp_path / "data", dsn) as road:
        await sender.send(road)
        await road.send(*[track(id_) for id_ in sent])  # retried by their senders
        await road.stored()
        road.assert_books_close()
        assert road.books["duplicate"] == len(sent)
    assert counted() == {}
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_the_end_of_a_journal_that_was_removed_does_not_hide_new_frames(
    dsn: str, tmp_path: Path
) -> None:
    sender, counted = Sender(), Anomalies()
    small = JournalSettings(file_bytes=2_000)
    async with Road(tmp_path, dsn, journal=small) as road:
        await sender.send(road, 40)
        await road.stored()
    *_, filled, empty = sorted((tmp_path / "journal").glob("*.journal"))
    filled.unlink()
    empty.unlink()  # a journal that is closed ends with an empty file
    async with Road(tmp_path, dsn, journal=small) as road:
        await sender.send(road, 40)
        await road.stored()
        road.assert_books_close()
    assert counted() == {"cursor_beyond_end": 1}
    await assert_exactly_once(dsn, sender.acknowledged)


async def test_the_position_of_a_rewound_cursor_is_kept_by_the_journal(
    database: Database, tmp_path: Path
) -> None:
    """A journal that runs full must not drop what a restored Postgres has yet to get."""
    sender = Sender()
    small = JournalSettings(file_bytes=2_000)
    road = await Road(tmp_path, database.dsn, journal=small).open()
    await sender.send(road)
    await road.stored()
    await database.back_up()
    cursor = road.store.position
    await sender.send(road, 5)
    await road.stored()
    await database.restore()
    seen: list[Any] = []
    original = road.store._catch_up

    async def catch_up(*arguments: Any) -> None:
        road.journal._space.has_room(1 << 40, road.journal.end)  # lets go of whatever may go
        seen.append(road.journal.oldest)
        await original(*arguments)

    road.store._catch_up = catch_up  # type: ignore[method-assign]
    await until(lambda: seen)
    await sender.send(road, 1)
    await road.stored()
    assert seen[0] <= cursor + 1
    road.assert_books_close()
    assert road.books["lost"] == 0
    await road.close()
    await assert_exactly_once(database.dsn, sender.acknowledged)
