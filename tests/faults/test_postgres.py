"""Postgres restarted, away, hanging, read-only, full of others, or left in mid-migration."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.faults.conftest import MakeProcess, Trials, until
from tests.process import CollectorProcess
from tests.proxy import Link, Proxy
from tests.store.servers import Server


@pytest.fixture
async def proxy(empty_dsn: str) -> AsyncIterator[Proxy]:
    """In front of an empty database."""
    async with Proxy(empty_dsn) as made:
        yield made


@pytest.fixture
def dsn_there(server: Server, server_database: str) -> str:
    """An empty database of a Postgres of our own, to which anything may be done."""
    return server.dsn(server_database)


async def trouble(process: CollectorProcess, *words: str) -> None:
    """Wait until the collector says what is wrong, in one of these words."""

    text = ""

    async def said() -> bool:
        nonlocal text
        text = (await asyncio.to_thread(process.status))["store"]["trouble"] or ""
        return any(word in text for word in words)

    try:
        await until(said)
    except TimeoutError:
        raise AssertionError(f"it says {text!r}\n{process.output()[-3000:]}") from None


async def test_ingest_goes_on_while_postgres_is_restarted_or_stopped(
    collectors: MakeProcess, trials: Trials, server: Server, dsn_there: str
) -> None:
    process = collectors(dsn_there)
    await asyncio.to_thread(process.start)
    async with trials("Postgres stopped for a while", process) as trial:
        for number in trial.rounds(1, 20):
            await trial.load(0.2, 1.0)
            await asyncio.to_thread(server.stop)
            if number % 2 == 0:
                await trouble(
                    process, "cannot be reached", "shutting down", "terminating", "closed"
                )
                await trial.ledger.probe()
                await trial.load(0.0, 2.0)
            await asyncio.to_thread(server.start)
            await trial.recovers(process, time.monotonic())
    assert trial.ledger.refusals == {}
    assert trial.ledger.breaks == 0


async def test_ingest_goes_on_while_postgres_hangs(
    collectors: MakeProcess, trials: Trials, proxy: Proxy
) -> None:
    """It takes what it is sent and never answers."""
    process = collectors(proxy.dsn, STORE_BATCH_SECONDS_MAX="2")
    await asyncio.to_thread(process.start)
    # In a migration, which may take its time, hanging is not told from working.
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("Postgres hangs without answering", process) as trial:
        for number in trial.rounds(1, 20):
            await trial.load(0.2, 1.0)
            proxy.cut()
            if number % 2 == 0:
                await trouble(process, "did not answer", "cannot be reached", "connection ended")
            await trial.ledger.probe()
            proxy.heal()
            await trial.recovers(process, time.monotonic())
    assert trial.ledger.refusals == {}
    assert trial.ledger.breaks == 0


async def test_ingest_goes_on_while_postgres_is_read_only(
    collectors: MakeProcess, trials: Trials, dsn_there: str
) -> None:
    process = collectors(dsn_there)
    await asyncio.to_thread(process.start)
    boss = await asyncpg.connect(dsn_there)
    try:
        async with trials("Postgres read-only", process) as trial:
            for _ in trial.rounds(1, 20):
                await trial.load(0.2, 1.0)
                await boss.execute("alter system set default_transaction_read_only = on")
                await boss.execute("select pg_reload_conf()")
                await trouble(process, "read-only")
                await trial.ledger.probe()
                await boss.execute("set default_transaction_read_only = off")
                await boss.execute("alter system reset default_transaction_read_only")
                await boss.execute("select pg_reload_conf()")
                await trial.recovers(process, time.monotonic())
        assert trial.ledger.refusals == {}
    finally:
        await boss.execute("set default_transaction_read_only = off")
        await boss.execute("alter system reset default_transaction_read_only")
        await boss.execute("select pg_reload_conf()")
        await boss.close()


async def test_ingest_goes_on_while_others_have_all_connections(
    collectors: MakeProcess, trials: Trials, dsn_there: str
) -> None:
    process = collectors(dsn_there)
    await asyncio.to_thread(process.start)
    async with trials("Postgres out of connections", process) as trial:
        for _ in trial.rounds(1, 20):
            await trial.load(0.2, 1.0)
            others: list[asyncpg.Connection] = []
            try:
                others.append(await asyncpg.connect(dsn_there))
                await take_all(others, dsn_there)
                await trouble(process, "too many", "remaining connection slots")
                await trial.ledger.probe()
            finally:
                for other in others:
                    await other.close()
            await trial.recovers(process, time.monotonic())
    assert trial.ledger.refusals == {}


async def take_all(others: list[asyncpg.Connection], dsn: str) -> None:
    """Connect until nobody can, the collector included, which is thrown out."""
    ours = "select count(*) from pg_stat_activity where application_name = 'collector'"
    async with asyncio.timeout(30):
        while True:
            try:
                others.append(await asyncpg.connect(dsn))
            except asyncpg.PostgresError:
                if not await others[0].fetchval(ours):
                    return
                await others[0].execute(ours.replace("count(*)", "pg_terminate_backend(pid)"))


@pytest.mark.parametrize(
    "words", [pytest.param(b"create table", marks=pytest.mark.long), b"COMMIT"]
)
async def test_a_migration_that_is_killed_half_way_is_done_again(
    collectors: MakeProcess, trials: Trials, proxy: Proxy, empty_dsn: str, words: bytes
) -> None:
    """Its locks are held by a connection that nobody has closed yet; events are taken meanwhile."""
    halted = asyncio.Event()

    def listen(_: Link, data: bytes) -> None:
        if words in data and not halted.is_set():
            halted.set()
            proxy.cut()

    proxy.on_client = listen
    former = collectors(proxy.dsn)
    await asyncio.to_thread(former.start)
    await asyncio.wait_for(halted.wait(), 30)
    former.kill()
    process = CollectorProcess(former.data_dir, empty_dsn)
    try:
        await asyncio.to_thread(process.start)
        async with trials(f"kill -9 in mid-migration, at `{words.decode()}`", process) as trial:
            await trial.ledger.probe()
            await asyncio.sleep(1.0)
            assert not (await asyncio.to_thread(process.status))["store"]["up"]
            proxy.reset()  # Postgres is told that the former one has gone
            proxy.heal()
            await trial.recovers(process, time.monotonic())
    finally:
        process.kill()
