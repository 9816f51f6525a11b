"""
Faults: what is broken on purpose, on a collector of our own, and how long until it works again.

    kill             SIGKILL to the collector, and start it again
    pause            SIGSTOP to it for a while, then SIGCONT
    postgres-kill    SIGKILL to the embedded postmaster; its supervisor starts it again
    postgres-stop    SIGINT to it, a fast shutdown; the same
    postgres-pause   SIGSTOP to it and all its processes for a while: it hangs and says nothing

The next fault does not wait for Postgres to be back from the last one: faults may fall into each
other's recovery. Each kind comes once, in a random order, before any comes again.

Units    seconds on time.monotonic's clock.
Errors   CollectorError if the collector does not come back.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from collector.prove.database import Database
from collector.prove.instance import Instance
from collector.prove.ledger import Ledger
from collector.prove.processes import paused, postmaster, send

FAULTS = ("kill", "pause", "postgres-kill", "postgres-stop", "postgres-pause")
PAUSE_SECONDS = (0.5, 5.0)
LOOK_SECONDS = 0.05


class Fault:
    """One fault, and what was seen after it."""

    def __init__(self, kind: str, acknowledged: int) -> None:
        self.kind = kind
        self.ended = time.monotonic()  # nothing is broken any more from our side
        self.acknowledged_seconds: float | None = None  # until the next acknowledgement
        self.stored_seconds: float | None = None  # until more was stored
        self._acknowledged = acknowledged
        self._stored: int | None = None

    @property
    def over(self) -> bool:
        """Whether everything was seen to work again."""
        return self.acknowledged_seconds is not None and self.stored_seconds is not None

    def look(self, acknowledged: int, stored: int, asked_at: float) -> None:
        """Compare with what is so now; *stored* is of a question asked at *asked_at*."""
        now = time.monotonic()
        if self.acknowledged_seconds is None and acknowledged > self._acknowledged:
            self.acknowledged_seconds = now - self.ended
        if self.stored_seconds is not None or asked_at < self.ended:
            return
        if self._stored is None:
            self._stored = stored  # the first that is known since
        elif stored > self._stored:
            self.stored_seconds = now - self.ended


class Breaker:
    """Breaks *instance* about every so many seconds."""

    def __init__(
        self,
        instance: Instance,
        ledger: Ledger,
        database: Database,
        *,
        kinds: Sequence[str],
        every_seconds: float,
        chance: random.Random,
    ) -> None:
        self._instance = instance
        self._ledger = ledger
        self._database = database
        self._kinds = kinds
        self._every_seconds = every_seconds
        self._chance = chance
        self.faults: list[Fault] = []
        self._open: list[Fault] = []  # those after which not everything was seen to work again
        self.state = ""  # what is being broken now

    def counts(self) -> dict[str, int]:
        """Faults by kind, in the order of FAULTS."""
        counts = Counter(fault.kind for fault in self.faults)
        return {kind: counts[kind] for kind in FAULTS if counts[kind]}

    def acknowledged_again(self) -> dict[str, float]:
        """By kind, the longest time from a fault to the next acknowledgement."""
        return _longest((fault.kind, fault.acknowledged_seconds) for fault in self.faults)

    def stored_again(self) -> dict[str, float]:
        """By kind, the longest time from a fault until more was stored."""
        return _longest((fault.kind, fault.stored_seconds) for fault in self.faults)

    async def watch(self) -> None:
        """Look all the time what works again; CollectorError if the collector ended by itself."""
        while True:
            if self.state != "kill":
                self._instance.check()
            database, ledger = self._database, self._ledger
            for fault in self._open:
                fault.look(ledger.acknowledged, database.stored, database.asked_at)
            self._open = [fault for fault in self._open if not fault.over]
            await asyncio.sleep(LOOK_SECONDS)

    async def run(self, ends: Callable[[], bool]) -> None:
        """Break one thing after the other until *ends* says so."""
        turns: list[str] = []
        while True:
            until = time.monotonic() + self._chance.uniform(0.5, 1.5) * self._every_seconds
            while (left := until - time.monotonic()) > 0:
                if ends():
                    return
                await asyncio.sleep(min(left, LOOK_SECONDS))
            if not turns:
                turns = self._chance.sample(self._kinds, len(self._kinds))
            self.state = kind = turns.pop()
            try:
                if not await self._break(kind):
                    turns.insert(0, kind)  # Postgres is away just now: at another turn
            finally:
                self.state = ""

    async def _break(self, kind: str) -> bool:
        instance = self._instance
        if kind == "kill":
            await instance.kill()
            self._over(kind)
            await instance.start()
            return True
        if kind == "pause":
            os.kill(instance.pid, signal.SIGSTOP)
            try:
                await self._pause()
            finally:
                os.kill(instance.pid, signal.SIGCONT)
            self._over(kind)
            return True
        pid = postmaster(instance.postgres)
        if pid is None:
            return False
        if kind == "postgres-pause":
            with paused(pid, instance.postgres):
                await self._pause()
        else:
            send(
                pid, signal.SIGKILL if kind == "postgres-kill" else signal.SIGINT, instance.postgres
            )
        self._over(kind)
        return True

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))

    def _over(self, kind: str) -> None:
        fault = Fault(kind, self._ledger.acknowledged)
        self.faults.append(fault)
        self._open.append(fault)


def _longest(times: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, seconds in times:
        if seconds is not None:
            found[kind] = max(found.get(kind, 0.0), seconds)
    return {kind: found[kind] for kind in FAULTS if kind in found}
