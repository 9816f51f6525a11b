"""Limits of the operating system reached: open files, memory, connections."""

import asyncio
import contextlib
import resource
import time
from pathlib import Path

import pytest

from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.test_clients import gone, wires
from tests.rawhttp import Wire, basic, encode


async def test_a_collector_without_file_descriptors_goes_on_when_there_are_some(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    """The journal can begin no file then, and nobody new can connect."""
    process = collectors(
        empty_dsn,
        JOURNAL_FILE_BYTES="65536",
        INGEST_HEADER_SECONDS="300",
        INGEST_IDLE_SECONDS="300",
    )
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("out of file descriptors", process, event_bytes=1000) as trial:
        await trial.load(0.5, 0.5)
        opened = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (opened + 20, hard))
        for _ in trial.rounds(1, 10):
            before = trial.ledger.refusals.total()

            async def refused(before: int = before) -> bool:
                return trial.ledger.refusals.total() > before

            async with wires(process.port, 100):
                await until(refused)
                await trial.load(0.5, 1.5)
            await trial.recovers(process, time.monotonic())


async def test_a_collector_at_its_memory_limit_refuses_and_goes_on(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    """Large bodies, more of them at once than there is memory for."""
    process = collectors(empty_dsn)
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.wait_until_stored)
    async with trials("out of memory (address space)", process) as trial:
        trial.defects = True  # MemoryError, from wherever
        await trial.load(0.5, 0.5)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 48_000_000
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        headers = {"Authorization": basic("demo"), "Content-Type": "application/json"}
        body = b'{"batch":[' + b" " * 9_000_000 + b"]}"
        data = encode("POST", "/v1/batch", headers, body)
        answers: list[int] = []

        async def send(wire: Wire) -> None:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await wire.send(data)
                answers.append((await wire.answer()).status)

        for _ in trial.rounds(1, 10):
            async with wires(process.port, 16) as opened:
                await asyncio.gather(*(send(wire) for wire in opened))
            await trial.recovers(process, time.monotonic())
        assert set(answers) != {200}
        trial.note = f"answers to large bodies: {sorted(set(answers))}"


async def test_more_connections_than_are_allowed_are_refused_and_the_others_served(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn, INGEST_CONNECTIONS_MAX="50", INGEST_HEADER_SECONDS="60")
    await asyncio.to_thread(process.start)
    async with trials("more connections than allowed", process) as trial:
        for _ in trial.rounds(1, 10):
            async with wires(process.port, 60) as opened:
                answer = await opened[-1].answer()
                assert answer.status == 503
                assert answer.header("Retry-After")
                assert answer.json()["code"] == "too_many_connections"
                await trial.load(0.5, 1.0)
            await trial.recovers(process, time.monotonic())
        await gone(process)


pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux sets limits of another process"
)
