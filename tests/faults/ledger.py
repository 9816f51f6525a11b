"""
Ledger: a sender that remembers what was acknowledged, and compares it with what is stored.

    batches of 20, single events, pixels      over several connections, each one after the other
    200, or a pixel that says `stored`        acknowledged
    anything else, or no answer               sent again with the same ids, as an SDK does
    now and then, although acknowledged       sent again: its answer was lost on the way

Shapes   a message id is `<name>-<connection>-<request>-<event>`.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

import asyncpg

from tests.rawhttp import Answer, Wire, basic, encode

ANSWER_SECONDS = 20.0  # then the request is sent again over another connection
PAUSE_SECONDS = 0.05  # before it is
LAST_SECONDS = 90.0  # for what is still on the way when the load ends
BATCH_EVENTS = 20
AGAIN = 0.05  # the share of acknowledged requests that is sent once more


class Post(NamedTuple):
    """One request, and the events in it."""

    data: bytes
    ids: list[str]


class Count(NamedTuple):
    """What a reconciliation found; events by their message ids."""

    acknowledged: int
    stored: int
    lost: int  # acknowledged and not stored
    duplicated: int  # rows beyond the first of an id


class Ledger:
    """A load on one or several collectors from `async with` to its end."""

    def __init__(
        self,
        *ports: int,
        seed: int = 0,
        name: str = "e",
        connections: int = 6,
        pause_seconds: float = 0.01,
        event_bytes: int = 0,
        again: float = AGAIN,
        ahead_seconds: float | None = None,
    ) -> None:
        self.ports = list(ports)
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.answered = 0  # events in requests that were answered 200, each time counted
        self.refusals: Counter[str] = Counter()  # answers other than 200, by status and code
        self.breaks = 0  # requests that got no answer
        self.wrong: list[str] = []  # answers that nobody should ever get
        self.slowest = 0.0  # seconds that an acknowledgement took, without tries that broke off
        self._seed = seed
        self._name = name
        self._connections = connections
        self._pause = pause_seconds
        # Nothing that compresses: bytes of the journal are bytes of the disk.
        self._filling = random.Random(seed).randbytes(event_bytes // 2).hex()
        self._sent_at: dict[str, float] = {}
        self._acknowledged_at: dict[str, float] = {}
        self._again = again
        self._ahead = ahead_seconds  # of the senders' clock; None: events have no time
        self._counts: Counter[int] = Counter()  # requests of each connection
        self._probes = 0
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.finish()
        else:
            await self.abandon()

    def start(self) -> None:
        """Begin, or go on after `finish`."""
        if any(not task.done() for task in self._tasks):
            return
        self._ending = False
        self._tasks = [
            asyncio.create_task(self._work(number)) for number in range(self._connections)
        ]

    async def finish(self) -> None:
        """End the load; what was sent is sent again until it is acknowledged."""
        self._ending = True
        _, late = await asyncio.wait(self._tasks, timeout=LAST_SECONDS) if self._tasks else ((), ())
        if late:
            await self.abandon()
            raise AssertionError(f"not acknowledged within {LAST_SECONDS:g} s: {self.refusals}")
        for task in self._tasks:
            task.result()

    async def abandon(self) -> None:
        """End the load at once, with requests under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def assert_in_order(self, stored: Sequence[str]) -> None:
        """What was acknowledged before something else was sent is stored before it."""
        latest, whose = 0.0, ""
        for id_ in stored:
            if self._acknowledged_at.get(id_, float("inf")) < latest:
                raise AssertionError(f"{id_} is stored behind {whose}, which was sent later")
            if self._sent_at[id_] > latest:
                latest, whose = self._sent_at[id_], id_

    def _sends(self, post: Post) -> None:
        self.sent.update(post.ids)
        now = time.monotonic()
        for id_ in post.ids:
            self._sent_at.setdefault(id_, now)

    def _took(self, post: Post, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        self.answered += len(post.ids)
        self.acknowledged.update(post.ids)
        now = time.monotonic()
        for id_ in post.ids:
            self._acknowledged_at.setdefault(id_, now)

    # --- sending ---------------------------------------------------------------------------

    async def probe(self) -> str:
        """Send one event over a connection of its own until it is acknowledged; its id."""
        self._probes += 1
        id_ = f"{self._name}-probe-{self._probes}-0"
        async with Sender(self) as sender:
            post = Post(_single(self._event(id_, "probe", "")), [id_])
            await sender.deliver(post, random.Random(0))
        return id_

    async def _work(self, number: int) -> None:
        dice = random.Random(f"{self._seed} {number} {self._counts[number]}")
        async with Sender(self) as sender:
            while not self._ending:
                post = self._next(number, self._counts[number], dice)
                self._counts[number] += 1
                await sender.deliver(post, dice)
                if dice.random() < self._again:
                    sender.hang_up()  # with several collectors, another one may get it
                    await sender.deliver(post, dice)
                await asyncio.sleep(self._pause * dice.uniform(0.5, 1.5))

    def _next(self, number: int, count: int, dice: random.Random) -> Post:
        user = f"{self._name}{number}"
        first = f"{self._name}-{number}-{count}"
        choice = dice.random()
        if choice < 0.4:
            ids = [f"{first}-{index}" for index in range(BATCH_EVENTS)]
            events = [self._event(id_, user, self._filling) for id_ in ids]
            data = encode("POST", "/v1/batch", AUTHORIZED, json.dumps({"batch": events}).encode())
            return Post(data, ids)
        id_ = f"{first}-0"
        if choice < 0.8:
            return Post(_single(self._event(id_, user, self._filling)), [id_])
        return Post(encode("GET", f"/px.gif?wk=demo&e=Opened&uid={user}&mid={id_}"), [id_])

    def _event(self, id_: str, user: str, filling: str) -> dict[str, object]:
        found: dict[str, object] = {
            "type": "track", "event": "E", "userId": user, "messageId": id_,
            "properties": {"filling": filling} if filling else {},
        }  # fmt: skip
        if self._ahead is not None:
            now = datetime.now(UTC) + timedelta(seconds=self._ahead)
            happened = now - timedelta(seconds=len(id_))  # some time before it was sent
            found |= {"timestamp": happened.isoformat(), "sentAt": now.isoformat()}
        return found


AUTHORIZED = {"Authorization": basic("demo"), "Content-Type": "application/json"}


def _single(event: dict[str, object]) -> bytes:
    return encode("POST", "/v1/track", AUTHORIZED, json.dumps(event).encode())


class Sender:
    """One connection, made anew whenever it breaks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._wire: Wire | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.hang_up()

    async def deliver(self, post: Post, dice: random.Random) -> None:
        """Send until it is acknowledged."""
        ledger = self._ledger
        ledger._sends(post)
        while True:
            began = time.monotonic()
            try:
                if self._wire is None:
                    self._wire = await Wire.open(dice.choice(ledger.ports))
                await self._wire.send(post.data)
                answer = await self._wire.answer(seconds=ANSWER_SECONDS)
            except (OSError, EOFError, TimeoutError):
                ledger.breaks += 1
                self.hang_up()
            else:
                if self._takes(answer):
                    ledger._took(post, time.monotonic() - began)
                    return
            await asyncio.sleep(PAUSE_SECONDS * dice.uniform(0.5, 1.5))

    def _takes(self, answer: Answer) -> bool:
        """Whether *answer* acknowledges; what is wrong with it is noted."""
        ledger = self._ledger
        if answer.header("Connection") == "close":
            self.hang_up()
        outcome = answer.header("X-Collector")
        if answer.status == 200 and outcome in {None, "stored"}:
            if outcome is None and b"rejected" in answer.body:
                ledger.wrong.append(f"200 {answer.body!r}")
            return True
        if outcome is not None:
            ledger.refusals[f"pixel {outcome}"] += 1
            return False
        code = answer.json()["code"]
        ledger.refusals[f"{answer.status} {code}"] += 1
        if answer.status != 503 or not (answer.header("Retry-After") or "").isdigit():
            ledger.wrong.append(f"{answer.status} {answer.headers} {answer.body!r}")
        return False

    def hang_up(self) -> None:
        if self._wire is not None:
            with contextlib.suppress(RuntimeError):
                self._wire.writer.close()
            self._wire = None


# --- comparing -------------------------------------------------------------------------------


async def stored_ids(dsn: str) -> list[str]:
    """The message ids of all rows in the order of `seq`, which is dense."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("select seq, message_id from collector.events order by seq")
    finally:
        await connection.close()
    wrong = next((i for i, row in enumerate(rows, 1) if row["seq"] != i), None)
    assert wrong is None, f"seq is not dense: row {wrong} of {len(rows)} has another"
    return [row["message_id"] for row in rows]


@contextlib.asynccontextmanager
async def following(dsn: str) -> AsyncIterator[list[str]]:
    """What a reader finds who always asks for what is behind the last `seq` that it saw."""
    seen: list[str] = []
    connection = await asyncpg.connect(dsn)

    async def follow() -> None:
        sql = "select seq, message_id from collector.events where seq > $1 order by seq limit 1000"
        last = 0
        while True:
            for row in await connection.fetch(sql, last):
                seen.append(row["message_id"])
                last = row["seq"]
            await asyncio.sleep(0.01)

    task = asyncio.create_task(follow())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


def compare(stored: Sequence[str], *ledgers: Ledger) -> Count:
    """Count what is lost and what is there twice; nothing may be there that nobody sent."""
    acknowledged = set[str]().union(*(ledger.acknowledged for ledger in ledgers))
    sent = set[str]().union(*(ledger.sent for ledger in ledgers))
    once = set(stored)
    assert not once - sent, f"never sent: {sorted(once - sent)[:5]}"
    for ledger in ledgers:
        assert not ledger.wrong, f"answers that nobody should get: {ledger.wrong[:5]}"
    return Count(len(acknowledged), len(stored), len(acknowledged - once), len(stored) - len(once))


def assert_books_close(status: dict[str, Any], *, lost: int = 0) -> None:
    """accepted = stored + duplicates + rejected + lost + waiting, with nothing waiting."""
    books = status["store"]["sources"]
    for row in books:
        outcomes = sum(row[name] for name in ("stored", "duplicate", "rejected", "lost", "waiting"))
        assert row["accepted"] == outcomes, books
        assert row["missing"] == 0, books
        assert row["waiting"] == 0, books
        assert row["rejected"] == 0, books
    assert sum(row["lost"] for row in books) == lost, books
