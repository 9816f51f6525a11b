"""
Run: one proof from start to verdict.

    start (or look at) a collector ─▶ send, and break it ─▶ what is under way is acknowledged
        ─▶ everything is stored ─▶ reconcile ─▶ verdict

Units    seconds, events a second.
Errors   ConfigError if this proof cannot be made at all; CollectorError if Postgres cannot be asked
         in the end. All else that goes wrong is a problem that the verdict names.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from collector.cli.progress import Progress
from collector.errors import CollectorError, ConfigError
from collector.prove.database import Database
from collector.prove.faults import FAULTS, Breaker
from collector.prove.instance import Instance
from collector.prove.ledger import Ledger
from collector.prove.sender import Pace, Sender
from collector.prove.verdict import Verdict, judge

TICK_SECONDS = 0.1
OURS_ANSWER_SECONDS = 3.0  # shorter than the longest pause: some requests are sent again meanwhile
THEIRS_ANSWER_SECONDS = 15.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is proved, and how. Without *url* a collector is started in *directory*."""

    run: str
    url: str = ""
    key: str = ""
    dsn: str = ""
    directory: Path | None = None
    config: Path | None = None
    used_database: bool = False  # the database may hold events
    seconds: float = 60.0
    rate: float = 1000.0  # 0 is as fast as it goes
    connections: int = 8
    batch: int = 20
    resend: float = 0.05
    faults: Sequence[str] = FAULTS
    every_seconds: float = 8.0
    wait_seconds: float = 120.0
    seed: int = 0


class Proof:
    """One proof. `stop` may be called at any time: it ends the sending, not the reconciling."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self._progress = progress
        self._chance = random.Random(plan.seed)  # noqa: S311  to be repeated, not to be secret
        self._ledger = Ledger(plan.run, plan.connections)
        self._instance: Instance | None = None
        dsn, url, key = plan.dsn, plan.url, plan.key
        if plan.directory is not None:
            self._instance = Instance(plan.directory, plan.dsn, plan.config)
            dsn, url, key = self._instance.dsn, self._instance.url, self._instance.key
        self._url = url
        self._database = Database(dsn, self._ledger)
        self._breaker: Breaker | None = None
        if self._instance is not None:
            self._breaker = Breaker(
                self._instance,
                self._ledger,
                self._database,
                kinds=plan.faults,
                every_seconds=plan.every_seconds,
                chance=random.Random(self._chance.random()),  # noqa: S311
            )
        self._senders = [
            Sender(
                self._ledger,
                number,
                url=url,
                key=key,
                batch=plan.batch,
                resend=plan.resend,
                answer_seconds=OURS_ANSWER_SECONDS if self._instance else THEIRS_ANSWER_SECONDS,
                chance=random.Random(self._chance.random()),  # noqa: S311
            )
            for number in range(plan.connections)
        ]
        self._began = time.monotonic()
        self._until = 0.0
        self._stage = "starting"
        self.interrupted = False
        self._problems: list[str] = []

    def stop(self) -> None:
        """Break nothing any more, send nothing new; what was acknowledged is reconciled."""
        self.interrupted = True

    def _over(self) -> bool:
        return self.interrupted or time.monotonic() >= self._until

    async def run(self) -> Verdict:
        """Make the proof."""
        shown = asyncio.create_task(self._show())
        try:
            await self._begin()
            began = self._began = time.monotonic()
            self._until = began + self._plan.seconds
            watches = [self._database.watch()]
            if self._breaker is not None:
                watches.append(self._breaker.watch())
            async with beside(*watches) as watching:
                await self._send(watching)
                sent = time.monotonic()
                status = await self._settle(sent + self._plan.wait_seconds)
                settled = time.monotonic()
            self._stage = "reconciling"
            journal = status["journal"]["id"] if status is not None else None
            found = await self._database.reconcile(journal)
            self._database.stored = found.rows
            verdict = judge(
                self._ledger, found, self._breaker, status, problems_before=self._problems
            )
            verdict.url, verdict.seed = self._url, self._plan.seed
            verdict.interrupted = self.interrupted
            verdict.seconds, verdict.settle_seconds = sent - began, settled - sent
            if self._instance is not None:
                self._stage = "stopping"
                if ended := await self._instance.stop():
                    verdict.problems.append(f"stopped, the collector ended with status {ended}")
            return verdict
        finally:
            shown.cancel()
            self._progress.clear()
            if self._instance is not None:
                await asyncio.shield(asyncio.to_thread(self._instance.abandon))

    # --- stages ----------------------------------------------------------------------------

    async def _begin(self) -> None:
        """A collector that takes events, and a database that is right for this."""
        instance = self._instance
        if instance is None or not instance.embedded:
            try:
                events = await self._database.begin(needed=instance is None)
            except CollectorError as exc:
                raise ConfigError(f"{exc.detail}; the right one is named with --dsn") from exc
            if instance is not None and events and not self._plan.used_database:
                raise ConfigError(
                    f"the database of --dsn already holds {events:,} events: give the proof an "
                    "empty one of its own, or say --yes-really"
                )
        if instance is not None:
            await instance.start()
            self._stage = "starting its Postgres"
            await self._up(instance)

    async def _up(self, instance: Instance) -> None:
        """Return when it stores: what is broken before that would often not be there yet."""
        until = time.monotonic() + self._plan.wait_seconds
        while not self.interrupted:
            instance.check()
            status = await instance.status()
            if status is not None and status["store"]["up"]:
                return
            if time.monotonic() > until:
                why = status["store"]["trouble"] if status is not None else None
                raise CollectorError(
                    "postgres_away", f"Postgres does not store after {self._plan.wait_seconds:g} s "
                    f"({why or 'nothing is said'}); see {instance.log}"
                )  # fmt: skip
            await asyncio.sleep(TICK_SECONDS)

    async def _send(self, watching: Collection[asyncio.Task[None]]) -> None:
        """Send until it is time, and until what is under way then is acknowledged."""
        self._stage = "sending"
        pace = Pace(self._plan.rate, self._over)
        self._ledger.begin()
        connector = aiohttp.TCPConnector(limit=self._plan.connections)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            works = [sender.run(session, pace) for sender in self._senders]
            if self._breaker is not None and self._plan.faults:
                works.append(self._breaker.run(self._over))
            async with beside(*works) as working:
                try:
                    await self._until_done(working, watching)
                except CollectorError as exc:
                    if self._instance is None and not self._ledger.acknowledged:
                        raise ConfigError(exc.detail) from exc
                    self._problems.append(exc.detail)
                    self._until = 0.0

    async def _until_done(
        self,
        working: Collection[asyncio.Task[None]],
        watching: Collection[asyncio.Task[None]],
    ) -> None:
        deadline = None
        while not all(task.done() for task in working):
            await asyncio.wait(
                {*working, *watching}, timeout=TICK_SECONDS, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in (*working, *watching):
                if task.done():
                    task.result()
            if self._over():
                self._stage = "waiting for the last acknowledgements"
                deadline = deadline or time.monotonic() + self._plan.wait_seconds
                if time.monotonic() > deadline:
                    return

    async def _settle(self, until: float) -> dict[str, Any] | None:
        """Wait until everything is stored; then the status of our own collector."""
        self._stage = "waiting until everything is stored"
        instance, status = self._instance, None
        if instance is not None:
            if not instance.runs:
                await instance.start()
            await instance.serves()
        while True:
            if instance is None:
                if self._database.stored >= self._ledger.acknowledged:
                    return None
            else:
                instance.check()
                status = await instance.status() or status
                if status is not None and _stored_all(status):
                    return status
            if time.monotonic() > until:
                break
            await asyncio.sleep(TICK_SECONDS)
        if instance is not None:
            waits = status["store"]["trouble"] or "it is still storing" if status else "no answer"
            self._problems.append(
                f"after {self._plan.wait_seconds:g} s not everything was stored ({waits}): what "
                "is lost may still come; a longer --wait would tell"
            )
        return status

    # --- progress --------------------------------------------------------------------------

    async def _show(self) -> None:
        while True:
            self._progress.show(self._stage, self._line())
            await asyncio.sleep(TICK_SECONDS)

    def _line(self) -> str:
        ledger, breaker = self._ledger, self._breaker
        state = self._stage
        if breaker is not None and breaker.state:
            state = f"{state}, {breaker.state}"
        elif trouble := next((sender.trouble for sender in self._senders if sender.trouble), ""):
            state = f"{state}, {trouble}"
        faults = f"  faults {len(breaker.faults)}" if breaker is not None else ""
        return (
            f"{time.monotonic() - self._began:4.0f} s  sent {ledger.sent:,}  acknowledged "
            f"{ledger.acknowledged:,}  stored {self._database.stored:,}{faults}  {state}"
        )


def _stored_all(status: dict[str, Any]) -> bool:
    store = status["store"]
    return bool(store["up"] and store["position"] >= status["journal"]["end"])


@contextlib.asynccontextmanager
async def beside(
    *works: Coroutine[Any, Any, None],
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Do *works* meanwhile, and end them after."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
