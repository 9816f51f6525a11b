"""
Trial: one fault, again and again under load, and a line in the table that `make faults` prints.

    async with trials("kill -9 of the collector", process) as trial:     the load begins
        for _ in trial.rounds(5, 200):
            <the fault>
            await trial.recovers(process, since)                         200 again, stored again
    <the load ends, everything is stored, the books close, nothing is lost or there twice>

Units    seconds, from the moment when what was wrong is not any more: the process was started
         again, Postgres is back, the disk has room.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from tests.faults.ledger import (
    Count,
    Ledger,
    assert_books_close,
    compare,
    stored_ids,
)
from tests.process import CollectorProcess

ANSWERS_SECONDS_MAX = 60.0  # until a 200 is given again; what is promised, on a slow machine
STORES_SECONDS_MAX = 120.0  # until what was sent then is a row


class Result(NamedTuple):
    """One line of the table."""

    fault: str
    rounds: int
    found: Count
    answers: float | None  # the longest of all rounds
    stores: float | None
    note: str


class Form(NamedTuple):
    """How thoroughly the suite runs."""

    long: bool
    rounds: int | None  # instead of what the tests ask for

    def __call__(self, short: int, long: int) -> int:
        """How often a fault happens."""
        return self.rounds or (long if self.long else short)


class Trial:
    """What is done to one or several collectors, and what it comes to."""

    def __init__(
        self,
        fault: str,
        processes: list[CollectorProcess],
        form: Form,
        seed: int,
        results: list[Result],
        **load: Any,
    ) -> None:
        self.fault = fault
        self.processes = processes
        self.form = form
        self.dice = random.Random(seed)
        self.ledger = Ledger(*(process.port for process in processes), seed=seed, **load)
        self.done = 0
        self.loses = False  # whether the fault takes acknowledged events away, which is counted
        self.anomalies: dict[str, int] | None = {}  # that are to be counted; None for whatever
        self.ordered = len(processes) == 1
        self.defects = False  # whether the log may show what looks like a defect
        self.note = ""  # what else was measured
        self._answers: list[float] = []
        self._stores: list[float] = []
        self._results = results

    async def __aenter__(self) -> Self:
        self.ledger.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.settle()
        else:
            await self.ledger.abandon()

    def rounds(self, short: int, long: int) -> Iterator[int]:
        """The numbers of the rounds."""
        for number in range(self.form(short, long)):
            self.done += 1
            yield number

    async def load(self, least: float, most: float) -> None:
        """Let the load go on for a time between these."""
        await asyncio.sleep(self.dice.uniform(least, most))

    async def recovers(self, process: CollectorProcess, since: float) -> None:
        """It gives 200 again, and what it gave it for is stored; counted from *since*."""
        async with asyncio.timeout(ANSWERS_SECONDS_MAX):
            await self.ledger.probe()
            self._answers.append(time.monotonic() - since)
        async with asyncio.timeout(STORES_SECONDS_MAX):
            await stored_up_to_now(process)
            self._stores.append(time.monotonic() - since)

    async def settle(self) -> Count:
        """End the load and compare."""
        await self.ledger.finish()
        facts = [
            await asyncio.to_thread(process.wait_until_stored, STORES_SECONDS_MAX)
            for process in self.processes
        ]
        process = self.processes[0]
        stored = await stored_ids(process.dsn or await asyncio.to_thread(process.embedded_dsn))
        count = compare(stored, self.ledger)
        self._results.append(
            Result(
                self.fault,
                max(1, self.done),
                count,
                max(self._answers, default=None),
                max(self._stores, default=None),
                self.note,
            )
        )
        said = "".join(process.output()[-4000:] for process in self.processes)
        assert count.duplicated == 0, f"{count}\n{said}"
        assert (count.lost > 0) == self.loses, f"{count}\n{said}"
        assert count.acknowledged > 0
        if self.ordered:
            self.ledger.assert_in_order(stored)
        for process, status in zip(self.processes, facts, strict=True):
            assert_books_close(status, lost=count.lost)
            if self.anomalies is not None:
                assert status["anomalies"] == self.anomalies, process.output()[-3000:]
            said, _, traceback = process.output().partition("Traceback")
            assert not traceback or self.defects, said[-500:] + traceback[:4000]
        if self.anomalies is not None:  # else the journal is another one, with books of its own
            accepted = sum(row["accepted"] for s in facts for row in s["store"]["sources"])
            assert accepted >= self.ledger.answered
        return count


async def stored_up_to_now(process: CollectorProcess) -> None:
    """Return when all that the collector has acknowledged by now is in Postgres."""
    end: int | None = None
    while True:
        try:
            facts = await asyncio.to_thread(process.status)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        if end is None:
            end = facts["journal"]["end"]
        if facts["store"]["position"] >= end:
            return
        await asyncio.sleep(0.02)


def table(results: list[Result]) -> list[str]:
    """The lines that `make faults` prints, as Markdown."""
    head = (
        "fault", "rounds", "acknowledged", "stored", "lost", "duplicated",
        "200 again, s", "stored again, s",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for result in results:
        numbers = (
            result.rounds, result.found.acknowledged, result.found.stored,
            result.found.lost, result.found.duplicated,
        )  # fmt: skip
        times = ("–" if time is None else f"{time:.1f}" for time in (result.answers, result.stores))
        rows.append((result.fault, *(f"{number:,}" for number in numbers), *times))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    ruler = "".join(
        "| " + "-" * (width - 1) + ("- " if not column else ": ")
        for column, width in enumerate(widths)
    )
    notes = [f"{result.fault}: {result.note}" for result in results if result.note]
    return [lines[0], ruler + "|", *lines[1:], *notes]
