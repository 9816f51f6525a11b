"""What Postgres will never take is found and kept aside; what it cannot take now is not blamed."""

import asyncio
import base64
import json
import os
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from collector.event import BATCH, Envelope, encode_envelope
from collector.journal.base import Frame
from collector.refine import Limits
from collector.store import store as store_module
from tests.conftest import PostgresServer
from tests.disks import mounted
from tests.proxy import Link, Proxy
from tests.store import road as road_module
from tests.store.road import Road, ask, assert_exactly_once, connected, frame_of, track, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon, and let ids be as long as they like, as if ingest had missed something."""
    monkeypatch.setattr(store_module, "PAUSE_SECONDS_MIN", 0.01)
    monkeypatch.setattr(road_module, "LIMITS", Limits(100_000, 100_000))


def unique() -> str:
    return str(uuid.uuid4())


def superuser(dsn: str) -> str:
    return dsn.replace("collector@", "postgres@")


async def as_superuser(dsn: str, sql: str) -> None:
    async with connected(superuser(dsn)) as connection:
        await connection.execute(sql)


async def end_connections(dsn: str) -> None:
    """End every connection of the collector to this database."""
    await as_superuser(
        dsn,
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()",
    )


async def rejected(dsn: str) -> list[asyncpg.Record]:
    async with connected(dsn) as connection:
        found: list[asyncpg.Record] = await connection.fetch(
            "select * from collector.rejected_events order by id"
        )
        return found


def incompressible(length: int) -> str:
    return random.Random(length).randbytes(length // 2).hex()


def poison() -> list[dict[str, Any]]:
    """Events that ingest would not have let through, one for each way."""
    return [
        track("nul-in-json", properties={"a": "\0"}),
        track("nul-in-text", event="a\0b"),
        track("nul-in-id", userId="a\0b"),
        {"type": "identify", "userId": incompressible(9_000), "messageId": "long",
         "traits": {"a": 1}},
    ]  # fmt: skip


async def test_poison_is_kept_aside_and_its_neighbours_are_stored(dsn: str, tmp_path: Path) -> None:
    bad = poison()
    good = [track(f"good-{number}") for number in range(400)]
    events = list(good)
    for event in bad:
        events.insert(random.Random(event["messageId"]).randrange(len(events)), event)
    async with Road(tmp_path, dsn) as road:
        await road.send(*events)
        await road.stored()
        road.assert_books_close()
        assert (road.books["stored"], road.books["rejected"]) == (400, len(bad))
        assert road.store.books.rejected() == {("default", "poison"): len(bad)}
        kept = await rejected(dsn)
        assert {row["reason"] for row in kept} == {"poison"}
        for event in bad:
            (row,) = [row for row in kept if f'"{event["messageId"]}"' in row["payload"]]
            assert row["detail"].startswith("Postgres will never take it: ")
            assert row["detail"].split()[5][:2] in {"22", "54"}
            assert row["accepted"]
            assert row["source"] == "default"
            assert "type" in row["payload"]
        # Nothing of it is known as stored: mended, it may come again.
        await road.send(track("nul-in-json", properties={"a": ""}))
        await road.stored()
    await assert_exactly_once(dsn, [*(event["messageId"] for event in good), "nul-in-json"])


async def test_a_batch_of_nothing_but_poison_holds_up_no_other_collector(
    dsn: str, tmp_path: Path
) -> None:
    bad = [track(f"bad-{number}", properties={"a": "\0"}) for number in range(1_000)]
    async with Road(tmp_path / "a", dsn) as a, Road(tmp_path / "b", dsn) as b:
        await a.send(*bad)
        slowest, count = 0.0, 0
        while a.store.position < a.journal.end:
            began = time.monotonic()
            await b.send(track(f"good-{count}"))
            await b.stored()
            slowest = max(slowest, time.monotonic() - began)
            count += 1
        assert count > 3
        assert slowest < 1.0
        assert a.books["rejected"] == 1_000
        a.assert_books_close()
        b.assert_books_close()
    await assert_exactly_once(dsn, [f"good-{number}" for number in range(count)])
    assert len(await rejected(dsn)) == 1_000


async def test_batches_without_a_new_event_move_the_cursor(dsn: str, tmp_path: Path) -> None:
    async with Road(tmp_path, dsn) as road:
        await road.send(track("same"))
        await road.stored()
        await road.send(track("same"), track("same"))  # duplicates alone
        await road.stored()
        await road.send({"type": "nothing"}, track("x", event=""))  # rejections alone
        await road.stored()
        await road.journal.append(Frame(b"no envelope", "default", 3))
        await road.stored()
        # A request that was turned down as a whole: kept, and in no sum.
        refused = Envelope("", BATCH, 1, bytes(16), b"", refusals=[])
        await road.journal.append(Frame(encode_envelope(refused), "", 0))
        await road.stored()
        road.assert_books_close()
        assert road.books == {
            "accepted": 8, "stored": 1, "duplicate": 2, "rejected": 5, "lost": 0, "waiting": 0,
            "missing": 0,
        }  # fmt: skip
        reasons = [row["reason"] for row in await rejected(dsn)]
        assert sorted(reasons) == ["missing_event", "undecodable", "unknown_type"]
    async with Road(tmp_path, dsn) as road:
        await road.stored()
        road.assert_books_close()
        assert road.books["accepted"] == 8
        assert await ask(dsn, "select position from collector.journals") == road.journal.end == 5
    await assert_exactly_once(dsn, ["same"])


async def test_a_frame_that_cannot_be_decoded_is_kept_whole_and_holds_up_nobody(
    dsn: str, tmp_path: Path
) -> None:
    """As one of a newer collector would be, or one that meets a defect of ours."""
    half = frame_of([track("half-a-pair", properties={"a": "\ud83d", "long": "x" * 200_000})])
    async with Road(tmp_path, dsn) as road:
        await road.send(track("before"))
        await road.journal.append(half)
        await road.send(track("after"))
        await road.stored()
        road.assert_books_close()
        assert road.books["rejected"] == 1
    (row,) = await rejected(dsn)
    assert row["reason"] == "undecodable"
    assert json.loads(row["payload"])["batch"][0]["messageId"] == "half-a-pair"
    await assert_exactly_once(dsn, ["before", "after"])


async def test_frames_of_a_source_that_was_removed_are_stored(dsn: str, tmp_path: Path) -> None:
    async with Road(tmp_path, dsn) as road:
        await road.send(track("a"), source="gone")
        await road.stored()
        (row,) = road.store.books.table()
        assert (row["source"], row["stored"], row["missing"]) == ("gone", 1, 0)
    await assert_exactly_once(dsn, ["a"])


async def test_batches_are_bounded_by_bytes_as_well_as_by_events(dsn: str, tmp_path: Path) -> None:
    """The largest requests that ingest takes: 10 MiB, or 10,000 events."""
    large = [track(unique(), properties={"text": "x" * 200_000}) for _ in range(40)]
    small = [track(unique()) for _ in range(10_000)]
    lag = 0.0

    async def watch() -> None:
        nonlocal lag
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            lag = max(lag, time.monotonic() - due)

    # A journal that is full when the store comes to it.
    async with Road(tmp_path, "postgresql://nobody@127.0.0.1:1/none") as road:
        for at in range(0, 40, 4):
            await road.send(*large[at : at + 4])
        await road.send(*large[:2])
        await road.send(*small)
    async with Road(tmp_path, dsn, batch_bytes_max=4_000_000) as road:
        watching = asyncio.create_task(watch())
        await road.stored(60)
        watching.cancel()
        road.assert_books_close()
        assert road.books["duplicate"] == 2
    sizes = await ask(
        dsn, "select max(n) from (select sum(octet_length(properties::text)) n from "
        "collector.events e join collector.seen s on e.seq between s.first_seq and "
        "s.first_seq + s.events - 1 group by s.first_seq) b",
    )  # fmt: skip
    assert sizes < 4_000_000
    assert lag < 0.5, lag  # the machine may be busy; it was seconds
    await assert_exactly_once(dsn, [event["messageId"] for event in large + small])


# --- events that end the connection ----------------------------------------------------------


async def test_an_event_that_ends_its_connection_again_and_again_is_isolated(
    dsn: str, tmp_path: Path
) -> None:
    good = [track(f"good-{number}") for number in range(60)]
    bad = [track(f"bad-{number}", event="KILLER") for number in range(2)]
    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn) as road:
        proxy.marker = b"KILLER"
        await road.send(*good[:20], bad[0], *good[20:50], bad[1], *good[50:])
        await road.stored()
        assert proxy.marked >= 3
        road.assert_books_close()
        assert road.books["rejected"] == 2
        await road.send(track("after"))
        await road.stored()
    kept = await rejected(dsn)
    assert {row["reason"] for row in kept} == {"poison"}
    assert all("it ends the connection" in row["detail"] for row in kept)
    assert all(b"KILLER" in base64.b64decode(row["payload"]) for row in kept)
    await assert_exactly_once(dsn, [*(event["messageId"] for event in good), "after"])


async def test_poison_and_killers_in_one_batch_are_told_apart(dsn: str, tmp_path: Path) -> None:
    events = [track(f"good-{number}") for number in range(30)]
    killer, nul = track("killer", event="KILLER"), track("nul", properties={"a": "\0"})
    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn) as road:
        proxy.marker = b"KILLER"
        await road.send(*events[:10], killer, *events[10:20], nul, *events[20:])
        await road.stored()
        road.assert_books_close()
    details = {row["detail"] for row in await rejected(dsn)}
    assert len(details) == 2
    assert sum("ends the connection" in detail for detail in details) == 1
    await assert_exactly_once(dsn, [event["messageId"] for event in events])


async def test_a_postgres_that_restarts_in_the_middle_of_a_batch_gets_nothing_rejected(
    dsn: str, tmp_path: Path
) -> None:
    """Again and again at the same batch, as if it were the batch's fault."""
    events = [track(f"good-{number}") for number in range(50)]
    pick = random.Random(5)
    restarts = 0

    async def restart(proxy: Proxy) -> None:
        proxy.refusing = True
        proxy.reset()
        await asyncio.sleep(pick.uniform(0, 0.3))
        proxy.refusing = False

    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn) as road:
        tasks = []

        def listen(_: Link, data: bytes) -> None:
            nonlocal restarts
            if b"FROM STDIN" in data and restarts < 8 and not proxy.refusing:
                restarts += 1
                tasks.append(asyncio.create_task(restart(proxy)))

        proxy.on_client = listen
        await road.send(*events)
        await road.stored()
        assert restarts == 8
        assert road.books["rejected"] == 0
        road.assert_books_close()
        await asyncio.gather(*tasks)
    await assert_exactly_once(dsn, [event["messageId"] for event in events])


# --- what is Postgres' state, and not the data's fault ---------------------------------------


async def test_a_read_only_postgres_is_waited_for(
    postgres: PostgresServer, dsn: str, tmp_path: Path
) -> None:
    async with Road(tmp_path, dsn) as road:
        await road.send(track("before"))
        await road.stored()
        name = await ask(dsn, "select current_database()")
        await as_superuser(dsn, f"alter database {name} set default_transaction_read_only = on")
        await end_connections(dsn)
        await road.send(track("during"))
        await until(lambda: "25006" in (road.store.trouble or ""))
        await postgres.execute(f"alter database {name} reset default_transaction_read_only")
        await road.stored()
        assert road.books["rejected"] == 0
        road.assert_books_close()
    await assert_exactly_once(dsn, ["before", "during"])


async def test_a_postgres_without_a_free_connection_is_waited_for(dsn: str, tmp_path: Path) -> None:
    async with Road(tmp_path, dsn) as road:
        await road.send(track("before"))
        await road.stored()
        name = await ask(dsn, "select current_database()")
        await as_superuser(dsn, f"alter database {name} connection limit 0")
        await end_connections(dsn)
        await road.send(track("during"))
        await until(lambda: "too many connections" in (road.store.trouble or ""))
        await as_superuser(dsn, f"alter database {name} connection limit -1")
        await road.stored()
        assert road.books["rejected"] == 0
    await assert_exactly_once(dsn, ["before", "during"])


async def test_a_schema_that_was_dropped_is_made_again_and_what_is_kept_is_stored(
    dsn: str, tmp_path: Path
) -> None:
    async with Road(tmp_path, dsn) as road:
        await road.send(track("before"))
        await road.stored()
        await as_superuser(dsn, "drop schema collector cascade")
        await road.send(track("after"))
        await road.stored()
        road.assert_books_close()
        assert road.books["rejected"] == 0
    await assert_exactly_once(dsn, ["before", "after"])


async def test_a_table_that_somebody_locks_is_waited_for(dsn: str, tmp_path: Path) -> None:
    async with (
        Road(tmp_path, dsn, batch_seconds_max=0.5) as road,
        connected(dsn) as other,
    ):
        await road.send(track("before"))
        await road.stored()
        async with other.transaction():
            await other.execute("lock table collector.events in access exclusive mode")
            await road.send(track("during"))
            await until(lambda: "did not answer" in (road.store.trouble or ""))
        await road.stored()
        assert road.books["rejected"] == 0
        road.assert_books_close()
    await assert_exactly_once(dsn, ["before", "during"])


async def test_timeouts_for_people_do_not_apply_to_the_collector(dsn: str, tmp_path: Path) -> None:
    name = await ask(dsn, "select current_database()")
    await as_superuser(dsn, f"alter database {name} set statement_timeout = 1")
    await as_superuser(dsn, f"alter database {name} set lock_timeout = 1")
    async with Road(tmp_path, dsn) as road:
        await road.send(*[track(f"{number}") for number in range(3_000)])
        await road.stored()
        assert road.store.trouble is None
    await as_superuser(dsn, f"alter database {name} reset all")
    await assert_exactly_once(dsn, [f"{number}" for number in range(3_000)])


async def test_an_isolation_level_that_is_stricter_by_default_changes_nothing(
    dsn: str, tmp_path: Path
) -> None:
    name = await ask(dsn, "select current_database()")
    await as_superuser(
        dsn, f"alter database {name} set default_transaction_isolation = serializable"
    )
    async with Road(tmp_path / "a", dsn) as a, Road(tmp_path / "b", dsn) as b:
        ids = [unique() for _ in range(300)]
        for id_ in ids:
            await asyncio.gather(a.send(track(id_)), b.send(track(id_)))
        await a.stored()
        await b.stored()
        assert a.store.trouble is b.store.trouble is None
    await assert_exactly_once(dsn, ids)


async def test_statements_that_are_cancelled_are_repeated(dsn: str, tmp_path: Path) -> None:
    """As the administrator does it, or an error that comes and goes."""
    async with Road(tmp_path, dsn) as road, connected(dsn) as boss:
        ids: list[str] = []
        cancelled = 0
        for _ in range(60):
            ids += (fresh := [unique() for _ in range(50)])
            await road.send(*[track(id_) for id_ in fresh])
            await asyncio.sleep(0)
            cancelled += await boss.fetchval(
                "select count(pg_cancel_backend(pid)) from pg_stat_activity where state = 'active' "
                "and datname = current_database() and pid <> pg_backend_pid()"
            )
        await road.stored()
        assert cancelled
        assert road.books["rejected"] == 0
        road.assert_books_close()
    await assert_exactly_once(dsn, ids)


async def test_a_deadlock_with_somebody_else_is_survived(dsn: str, tmp_path: Path) -> None:
    identify = {"type": "identify", "userId": "u", "traits": {"a": 1}}
    async with Road(tmp_path, dsn) as road, connected(dsn) as other:
        await road.send({**identify, "messageId": "before"})
        await road.stored()
        with_user = other.transaction()
        await with_user.start()
        await other.execute("select * from collector.users for update")
        await road.send({**identify, "messageId": "during"})
        await asyncio.sleep(0.3)  # it has the counter and waits for the user
        try:
            await other.execute("select * from collector.sequence for update")
        except asyncpg.DeadlockDetectedError:
            pass
        else:
            await until(lambda: "40P01" in (road.store.trouble or ""), 5)
        await with_user.rollback()
        await road.stored()
        assert road.books["rejected"] == 0
        road.assert_books_close()
    await assert_exactly_once(dsn, ["before", "during"])


@pytest.fixture
def small_disk(postgres: PostgresServer) -> Iterator[Path]:
    """A disk of 12 MB that Postgres may write to."""
    place = Path(postgres.dsn("x").split("host=")[1].split("&")[0]).parent / "data"
    account = place.stat()
    with mounted(Path(f"/tmp/ct-disk-{os.getpid()}"), 12) as disk:
        os.chown(disk, account.st_uid, account.st_gid)
        yield disk
    disk.rmdir()


async def test_a_full_disk_is_waited_for(dsn: str, tmp_path: Path, small_disk: Path) -> None:
    await as_superuser(dsn, f"create tablespace small location '{small_disk}'")
    await as_superuser(dsn, "grant create on tablespace small to collector")
    try:
        async with connected(dsn) as connection:
            for row in await connection.fetch(
                "select c.relname from pg_class c join pg_namespace n on n.oid = relnamespace "
                "where nspname = 'collector' and relkind = 'r' and relname like 'events%'"
            ):
                await connection.execute(
                    f"alter table collector.{row['relname']} set tablespace small"
                )
        events = [track(unique(), properties={"t": incompressible(50_000)}) for _ in range(400)]
        async with Road(tmp_path, dsn) as road:
            for at in range(0, 400, 20):
                await road.send(*events[at : at + 20])
            await until(lambda: "53100" in (road.store.trouble or ""))
            assert road.books["rejected"] == 0
            subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
            await road.stored()
            assert road.books["rejected"] == 0
            road.assert_books_close()
        await assert_exactly_once(dsn, [event["messageId"] for event in events])
    finally:
        await as_superuser(dsn, "drop schema collector cascade")
        await as_superuser(dsn, "drop tablespace small")
