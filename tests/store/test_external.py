"""A Postgres that somebody else runs, over TCP, through a pooler, or cut off."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from collector.store import store as store_module
from collector.store.dedupe import SeenIndex
from collector.store.maintenance import Maintenance
from collector.store.postgres import Postgres
from collector.store.settings import StoreSettings
from tests.store.road import Road, ask, assert_exactly_once, frame_of, track
from tests.store.servers import Network, PgBouncer, Server, directory

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAUSE_SECONDS_MIN", 0.01)


def unique() -> str:
    return str(uuid.uuid4())


async def walk(roads: list[Road], dsn: str, tmp_path: Path) -> None:
    """All that the road does, once."""
    ids = [unique() for _ in range(600)]
    for at in range(0, 600, 20):
        events = [track(id_) for id_ in ids[at : at + 20]]
        await asyncio.gather(*(road.send(*events) for road in roads))
    identify = {"type": "identify", "userId": "u", "messageId": "i", "traits": {"a": 1}}
    await roads[0].send(identify, track("bad", properties={"a": "\0"}), {"type": "nothing"})
    await roads[0].journal.append(frame_of([track("old")], at=time.time() - 3 * 86_400))
    for road in roads:
        await road.stored()
        road.assert_books_close()
        assert road.store.trouble is None
    assert roads[0].books["rejected"] == 2
    assert sum(road.books["duplicate"] for road in roads) == 600 * (len(roads) - 1)
    index = SeenIndex(tmp_path / "index", StoreSettings().dedupe)
    postgres = Postgres(roads[0].dsn)
    connection = await postgres.connect()
    maintenance = Maintenance(postgres, StoreSettings(), index)
    await maintenance.round(connection)
    await maintenance.round(connection)
    await connection.close()
    assert await ask(dsn, "select count(*) from collector.events_default") == 0
    old = await ask(
        dsn,
        "select count(*) from pg_indexes where schemaname = 'collector' and tablename = "
        "'events_p' || to_char(now() at time zone 'UTC' - interval '3 days', 'YYYYMMDD')",
    )
    assert old == 5
    await assert_exactly_once(dsn, [*ids, "i", "old"])


async def test_the_road_leads_to_the_postgres_of_the_distribution(
    external: Server, external_database: str, tmp_path: Path
) -> None:
    dsn = external.dsn(external_database)
    async with Road(tmp_path / "a", dsn) as a, Road(tmp_path / "b", dsn) as b:
        await walk([a, b], dsn, tmp_path)
        assert not a.store.facts()["pooled"]


IGNORED = (
    "extra_float_digits,timezone,synchronous_commit,idle_in_transaction_session_timeout,"
    "statement_timeout,lock_timeout,tcp_keepalives_idle,tcp_keepalives_interval,"
    "tcp_keepalives_count"
)


@pytest.fixture(params=["", IGNORED], ids=["refuses settings", "ignores settings"])
def pooler(request: pytest.FixtureRequest, external: Server) -> Iterator[PgBouncer]:
    with directory("cb") as place:
        bouncer = PgBouncer(place, external, ignore_startup_parameters=request.param)
        bouncer.start()
        yield bouncer
        bouncer.stop()


async def test_the_road_leads_through_a_transaction_pooler(
    external: Server, external_database: str, pooler: PgBouncer, tmp_path: Path
) -> None:
    dsn, pooled = external.dsn(external_database), pooler.dsn(external_database)
    async with Road(tmp_path / "a", pooled) as a, Road(tmp_path / "b", pooled) as b:
        # Others use the pool, so that a session's statements do not stay on one connection.
        busy = [asyncio.create_task(disturb(pooled)) for _ in range(4)]
        await walk([a, b], dsn, tmp_path)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert a.store.facts()["pooled"]
        assert b.store.facts()["pooled"]
    found = subprocess.run(
        [sys.executable, "-m", "collector", "check"],
        env={**os.environ, "COLLECTOR_STORE_DSN": pooled, "COLLECTOR_DATA_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "behind a transaction pooler: set tcp_keepalives_idle" in found.stdout, found


async def disturb(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        while True:
            await connection.fetchval("select $1::int", 1)
            async with connection.transaction():
                await connection.execute("set local lock_timeout = 1000")
                await connection.fetchval("select pg_sleep(0.001)")
    finally:
        connection.terminate()


# --- cut off ---------------------------------------------------------------------------------

# A collector that has the lock and is in the middle of COPY.
HOLDER = """
import asyncio, sys
from collector.store.postgres import Postgres

async def rows():
    yield b"x" * 1000
    print("holding", flush=True)
    await asyncio.sleep(3600)

async def main():
    connection = await Postgres(sys.argv[1]).connect()
    async with connection.transaction():
        await connection.fetch("select last, history from collector.sequence for update")
        await connection.copy_to_table("rejected_events", schema_name="collector", source=rows(),
                                       columns=["payload"])

asyncio.run(main())
"""


async def test_a_collector_that_is_cut_off_in_mid_copy_frees_the_others_soon(
    external: Server, external_database: str, network: Network | None, tmp_path: Path
) -> None:
    """Keep-alives on the server's side of its session do that; by default it takes two hours."""
    if network is None:
        pytest.skip("only root can make a network to cut off")
    dsn = external.dsn(external_database)
    async with Road(tmp_path, dsn) as road:
        await road.send(track("before"))
        await road.stored()
        holder = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", network.name, sys.executable, "-c", HOLDER,
            external.dsn(external_database, network.here),
            stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY,
        )  # fmt: skip
        try:
            assert holder.stdout is not None
            assert await asyncio.wait_for(holder.stdout.readline(), 20) == b"holding\n"
            await asyncio.sleep(0.2)
            network.pull()
            began = time.monotonic()
            await road.send(track("during"))
            await asyncio.sleep(2)
            assert road.store.position < road.journal.end  # it does hold us up
            await road.stored()
            assert time.monotonic() - began < 14
            road.assert_books_close()
        finally:
            network.plug_in()
            holder.kill()
            await holder.wait()
    await assert_exactly_once(dsn, ["before", "during"])


SEND = """
import sys, urllib.request
headers = {"Content-Type": "application/json", "Authorization": "Basic ZGVtbzo="}
track = "http://127.0.0.1:8080/v1/track"
urllib.request.urlopen(urllib.request.Request(track, sys.argv[1].encode(), headers))
"""


async def test_a_collector_that_was_cut_off_goes_on(
    external: Server, external_database: str, network: Network | None, tmp_path: Path
) -> None:
    """The real process, on the far side of a cable that is pulled out."""
    if network is None:
        pytest.skip("only root can make a network to cut off")
    far = external.dsn(external_database, network.here)
    log = (tmp_path / "log").open("wb")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("COLLECTOR_")},
        "COLLECTOR_DATA_DIR": str(tmp_path / "data"),
        "COLLECTOR_STORE_DSN": far,
        "COLLECTOR_INGEST_HOST": "127.0.0.1",
    }
    process = await asyncio.create_subprocess_exec(
        "ip", "netns", "exec", network.name, sys.executable, "-m", "collector", "run",
        env=environment, cwd=tmp_path, stdout=log, stderr=log,
    )  # fmt: skip
    dsn = external.dsn(external_database)

    async def send(message_id: str) -> None:
        sent = await asyncio.create_subprocess_exec(
            "ip", "netns", "exec", network.name, sys.executable, "-c", SEND,
            json.dumps(track(message_id)),
        )  # fmt: skip
        assert await sent.wait() == 0

    async def stored(message_id: str) -> bool:
        try:
            sql = "select count(*) from collector.events where message_id = $1"
            return bool(await ask(dsn, sql, message_id))
        except asyncpg.UndefinedTableError:
            return False

    async def wait_until_stored(message_id: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not await stored(message_id):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            await asyncio.sleep(0.1)

    try:
        for _ in range(200):
            if b"takes events" in (tmp_path / "log").read_bytes():
                break
            await asyncio.sleep(0.1)
        await send("before")
        await wait_until_stored("before", 20)
        network.pull()
        await asyncio.sleep(3)  # its question whether Postgres is there gets no answer
        await send("during")
        assert not await stored("during")
        network.plug_in()
        await wait_until_stored("during", 20)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 40) == 0
    finally:
        network.plug_in()
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.close()
    await assert_exactly_once(dsn, ["before", "during"])
