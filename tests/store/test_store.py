"""The store as a whole: exactly once, through restarts, several collectors and broken networks."""

import asyncio
import json
import os
import random
import time
import uuid
from pathlib import Path

import pytest

from collector.store import postgres as postgres_module
from collector.store import store as store_module
from collector.store.dedupe import DedupeSettings
from tests.proxy import Link, Proxy
from tests.store.road import Road, assert_exactly_once, connected, frame_of, track, until

ROUNDS = int(
    os.environ.get("STORE_TEST_ROUNDS", "1")
)  # times as many of what is tried again and again


def unique() -> str:
    return str(uuid.uuid4())


async def ids_in(dsn: str) -> list[str]:
    async with connected(dsn) as connection:
        found = await connection.fetch("select message_id from collector.events")
    return [row["message_id"] for row in found]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry soon: tests have many troubles."""
    monkeypatch.setattr(store_module, "PAUSE_SECONDS_MIN", 0.01)


async def test_an_event_that_is_resent_a_hundred_times_at_once_is_one_row(
    dsn: str, tmp_path: Path
) -> None:
    async with Road(tmp_path, dsn) as road:
        await asyncio.gather(*(road.send(track("same")) for _ in range(100)))
        await road.send(*[track("same")] * 100)
        await road.stored()
        assert road.books["stored"] == 1
        assert road.books["duplicate"] == 199
        road.assert_books_close()
    async with Road(tmp_path, dsn) as road:
        await asyncio.gather(*(road.send(track("same")) for _ in range(100)))
        await road.stored()
        assert (road.books["stored"], road.books["duplicate"]) == (1, 299)
        road.assert_books_close()
    await assert_exactly_once(dsn, ["same"])


# --- several collectors on one Postgres ------------------------------------------------------


async def test_an_event_that_reaches_two_collectors_at_once_is_stored_once(
    dsn: str, tmp_path: Path
) -> None:
    """As when a balancer sends a retry to the other collector. Their indexes are warm."""
    chosen = {"dedupe": DedupeSettings(recent_ids=500)}
    async with Road(tmp_path / "a", dsn, **chosen) as a, Road(tmp_path / "b", dsn, **chosen) as b:
        for road in (a, b):
            for _ in range(10):
                await road.send(*[track(unique()) for _ in range(200)])
            await road.stored()
        known = await ids_in(dsn)
        sent: list[list[str]] = []
        for _ in range(150 * ROUNDS):
            ids = [unique() for _ in range(10)]
            sent.append(ids)
            events = [track(id_) for id_ in ids]
            await asyncio.gather(a.send(*events), b.send(*reversed(events)))
        await a.stored()
        await b.stored()
        a.assert_books_close()
        b.assert_books_close()
        assert a.books["duplicate"] + b.books["duplicate"] == 1_500 * ROUNDS
        # The races were real: each of them was first at times.
        assert min(a.books["stored"], b.books["stored"]) > 2_000
    await assert_exactly_once(dsn, [*known, *(id_ for ids in sent for id_ in ids)])


async def test_an_event_that_is_resent_to_another_collector_a_second_later_is_stored_once(
    dsn: str, tmp_path: Path
) -> None:
    chosen = {"dedupe": DedupeSettings(recent_ids=300)}
    async with Road(tmp_path / "a", dsn, **chosen) as a, Road(tmp_path / "b", dsn, **chosen) as b:
        sent: list[str] = []

        async def resend(first: Road, second: Road, number: int) -> None:
            await asyncio.sleep(number * 0.01)
            events = [track(unique()) for _ in range(10)]
            sent.extend(event["messageId"] for event in events)
            await first.send(*events)
            await asyncio.sleep(1.0)
            await second.send(*events)

        count = 200 * ROUNDS
        await asyncio.gather(
            *(resend(*((a, b) if number % 2 else (b, a)), number) for number in range(count))
        )
        await a.stored()
        await b.stored()
        assert a.books["duplicate"] == b.books["duplicate"] == 5 * count
        a.assert_books_close()
        b.assert_books_close()
    await assert_exactly_once(dsn, sent)


@pytest.mark.parametrize("writers", [2, 3])
async def test_the_order_of_seq_is_the_order_of_commits_for_several_collectors(
    dsn: str, tmp_path: Path, writers: int
) -> None:
    """A reader of `seq > cursor` never passes a number that is committed later."""
    roads = [await Road(tmp_path / str(n), dsn, batch_events_max=50).open() for n in range(writers)]
    sent: list[str] = []
    shared = [unique() for _ in range(500)]
    gaps: list[tuple[int, list[int]]] = []
    done = asyncio.Event()

    async def load(road: Road) -> None:
        pick = random.Random(len(sent))
        for _ in range(100):
            ids = [unique() for _ in range(10)] + pick.sample(shared, 3)
            sent.extend(ids)
            await road.send(*[track(id_) for id_ in ids])

    async def read() -> int:
        cursor = 0
        async with connected(dsn) as connection:
            while True:
                ended = done.is_set()
                found = await connection.fetch(
                    "select seq from collector.events where seq > $1 order by seq", cursor
                )
                seqs = [row["seq"] for row in found]
                if seqs != list(range(cursor + 1, cursor + 1 + len(seqs))):
                    gaps.append((cursor, seqs))
                cursor += len(seqs)
                if ended:
                    return cursor

    reader = asyncio.create_task(read())
    await asyncio.gather(*(load(road) for road in roads))
    for road in roads:
        await road.stored()
        road.assert_books_close()
    done.set()
    assert await reader == len(set(sent))
    assert not gaps
    for road in roads:
        await road.close()
    await assert_exactly_once(dsn, sent)


async def test_of_two_values_of_a_trait_the_one_that_came_in_later_wins(
    dsn: str, tmp_path: Path
) -> None:
    """Also if the collector that took the older one could not reach Postgres meanwhile."""
    old = {"type": "identify", "userId": "u", "traits": {"plan": "free", "old": 1}}
    new = {"type": "identify", "userId": "u", "traits": {"plan": "paid", "new": 1}}
    async with Road(tmp_path / "a", dsn) as a, Road(tmp_path / "b", dsn) as b:
        await b.journal.append(frame_of([new], at=2_000_000_000))
        await b.stored()
        await a.journal.append(frame_of([old], at=1_900_000_000))
        await a.stored()
    async with connected(dsn) as connection:
        row = await connection.fetchrow("select traits, received_at, seq from collector.users")
    assert json.loads(row["traits"]) == {"plan": "paid", "new": 1, "old": 1}
    assert row["received_at"].timestamp() == 2_000_000_000
    assert row["seq"] == 1


# --- a COMMIT in doubt -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["held back", "answer lost", "never arrived"])
async def test_a_commit_in_doubt_stores_nothing_twice_and_loses_nothing(
    dsn: str, tmp_path: Path, fault: str
) -> None:
    """Held back, it lands 2 to 12 ms after the next attempt began."""
    pick = random.Random(7)
    loop = asyncio.get_running_loop()
    doubtful: list[Link] = []
    landed: list[Link] = []
    armed = False
    sent: list[str] = []

    def commits(link: Link) -> bool:
        nonlocal armed
        if not armed or fault == "answer lost":
            return False
        armed = False
        doubtful.append(link)
        loop.call_soon(link.drop_client if fault == "held back" else link.reset)
        return True

    def answers(link: Link) -> bool:
        nonlocal armed
        if not armed or fault != "answer lost":
            return False
        armed = False
        doubtful.append(link)
        loop.call_soon(link.reset)
        return True

    def begins(link: Link, data: bytes) -> None:
        for old in doubtful if b"BEGIN" in data and fault == "held back" else []:
            if old.holding and old is not link and old not in landed:
                landed.append(old)
                loop.call_later(pick.uniform(0.002, 0.012), land, old)

    def land(link: Link) -> None:
        tasks.append(loop.create_task(link.release()))

    tasks: list[asyncio.Task[None]] = []
    rounds = 60 * ROUNDS
    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn) as road:
        proxy.on_commit, proxy.on_answer, proxy.on_client = commits, answers, begins
        for _ in range(rounds):
            armed = True
            for _ in range(pick.randint(1, 4)):
                ids = [unique() for _ in range(pick.randint(1, 20))]
                sent += ids
                await road.send(*[track(id_) for id_ in ids])
            await road.stored()
            road.assert_books_close()
            assert road.books["duplicate"] == 0
        assert len(doubtful) == rounds
        assert fault != "held back" or len(landed) == rounds
        assert road.books["stored"] == len(sent)
    await asyncio.gather(*tasks)
    await assert_exactly_once(dsn, sent)


async def test_connections_that_break_at_any_moment_lose_nothing(dsn: str, tmp_path: Path) -> None:
    pick = random.Random(3)
    sent: list[str] = []
    async with Proxy(dsn) as proxy, Proxy(dsn) as other:
        roads = [
            await Road(
                tmp_path / name, through.dsn, batch_events_max=40, batch_seconds_max=2
            ).open()
            for name, through in (("a", proxy), ("b", other))
        ]
        breaking = asyncio.create_task(break_now_and_then([proxy, other], pick))
        for _ in range(150):
            ids = [unique() for _ in range(12)]
            sent += ids
            events = [track(id_) for id_ in ids]
            # Half of all requests are retried at the other collector.
            await roads[0].send(*events)
            if pick.random() < 0.5:
                await roads[1].send(*events)
            await asyncio.sleep(0.02)
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        for through in (proxy, other):
            through.delay_seconds = 0
            through.heal()
        for road in roads:
            await road.stored(60)
            road.assert_books_close()
            await road.close()
    await assert_exactly_once(dsn, sent)


async def break_now_and_then(proxies: list[Proxy], pick: random.Random) -> None:
    while True:
        await asyncio.sleep(pick.uniform(0.01, 0.15))
        proxy = pick.choice(proxies)
        what = pick.random()
        if what < 0.6:
            proxy.reset()
        elif what < 0.8:
            proxy.cut()
            await asyncio.sleep(pick.uniform(0, 0.1))
            if what < 0.7:
                proxy.reset()
            proxy.heal()
        else:
            proxy.delay_seconds = pick.choice([0, 0.002, 0.02])


# --- Postgres that hangs ---------------------------------------------------------------------


async def test_a_network_that_is_cut_costs_the_batch_its_time_and_nothing_else(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "CONNECT_SECONDS", 0.5)
    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn, batch_seconds_max=1.0) as road:
        await road.send(track("before"))
        await road.stored()
        proxy.cut()
        await road.send(track("during"))
        await until(lambda: road.store.trouble)
        assert "did not answer within 1 seconds" in road.store.trouble
        assert not road.store.facts()["up"]
        assert road.store.oldest_seconds > 0.5
        await until(lambda: "cannot be reached" in road.store.trouble)
        proxy.heal()
        await road.stored()
        assert road.store.trouble is None
        road.assert_books_close()
    await assert_exactly_once(dsn, ["before", "during"])


def cut_at(proxy: Proxy, words: bytes) -> asyncio.Event:
    """Cut the network when a client says *words*; set when that has happened."""
    happened = asyncio.Event()

    def listen(_: Link, data: bytes) -> None:
        if words in data and not happened.is_set():
            happened.set()
            proxy.cut()

    proxy.on_client = listen
    return happened


async def test_a_connection_that_ends_while_its_socket_is_full_is_noticed_at_once(
    dsn: str, tmp_path: Path
) -> None:
    """asyncpg by itself waits for room in the socket for ever."""
    large = {"text": "x" * 250_000}
    ids = [unique() for _ in range(40)]
    async with Proxy(dsn) as proxy, Road(tmp_path, proxy.dsn, batch_bytes_max=64_000_000) as road:
        await road.send(track("before"))
        await road.stored()
        happened = cut_at(proxy, b"FROM STDIN")
        await road.send(*[track(id_, properties=large) for id_ in ids])
        await happened.wait()
        await asyncio.sleep(1.0)  # nobody reads: what the kernel takes is full by now
        began = time.monotonic()
        proxy.reset()
        proxy.heal()
        await road.stored()
        assert time.monotonic() - began < 8
    await assert_exactly_once(dsn, ["before", *ids])


# What the store says on its way, each once on a connection: asyncpg keeps prepared statements.
WORDS = [
    b"BEGIN",
    b"from collector.journals where id = $1 for update",
    b"from collector.accounting",
    b"sequence for update",
    b"FROM STDIN",
    b"insert into collector.seen",
    b"set position = $3",
    b"COMMIT",
]


@pytest.mark.parametrize("words", [b"", *WORDS])
async def test_stopping_does_not_wait_for_a_postgres_that_hangs(
    dsn: str, tmp_path: Path, words: bytes
) -> None:
    async with Proxy(dsn) as proxy:
        happened = cut_at(proxy, words)
        road = await Road(tmp_path, proxy.dsn).open()
        await road.send(track("during"))
        await happened.wait()
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await road.close()
        assert time.monotonic() - began < 5
        proxy.heal()
        async with Road(tmp_path, proxy.dsn) as road:
            await road.stored()
            road.assert_books_close()
    await assert_exactly_once(dsn, ["during"])


@pytest.mark.parametrize("words", WORDS)
async def test_a_postgres_that_hangs_costs_the_batch_its_time(
    dsn: str, tmp_path: Path, words: bytes
) -> None:
    async with Proxy(dsn) as proxy:
        happened = cut_at(proxy, words)
        async with Road(tmp_path, proxy.dsn, batch_seconds_max=0.5) as road:
            await road.send(track("during"))
            await happened.wait()
            await until(lambda: road.store.trouble, 3)
            proxy.heal()
            await road.stored()
            road.assert_books_close()
    await assert_exactly_once(dsn, ["during"])
