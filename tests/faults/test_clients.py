"""Clients that idle, dawdle, vanish or never listen; all others are served meanwhile."""

import asyncio
import contextlib
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import pytest

from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.processes import memory_bytes
from tests.faults.trial import Form, Trial
from tests.process import CollectorProcess
from tests.rawhttp import Wire, basic, encode

OWN_FILES = 500  # what this process needs beside the connections
MEMORY_BYTES_MAX = 250_000_000
HEALTH = encode("GET", "/health")


@pytest.fixture
def files() -> Iterator[Callable[[int], None]]:
    """Asks for so many open files, for us and the processes that we start; skips without."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def ask(count: int) -> None:
        wanted = count + OWN_FILES
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
        except (ValueError, PermissionError):
            pytest.skip(f"this user may have {hard} open files, and {wanted} are needed")

    yield ask
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def wires(port: int, count: int) -> AsyncIterator[list[Wire]]:
    """So many connections, which end with a reset."""
    opened: list[Wire] = []
    try:
        for at in range(0, count, 100):
            more = (Wire.open(port) for _ in range(min(100, count - at)))
            opened += await asyncio.gather(*more)
        yield opened
    finally:
        for wire in opened:
            vanish(wire)


def vanish(wire: Wire) -> None:
    """End without a word."""
    with contextlib.suppress(OSError):
        raw: socket.socket | None = wire.writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


async def gone(process: CollectorProcess) -> None:
    """Wait until the collector holds nothing for anybody but the load."""

    async def free() -> bool:
        found = await asyncio.to_thread(process.metrics)
        open_now = found["collector_ingest_connections"]
        return found["collector_ingest_in_flight_bytes"] < 100_000 and open_now < 20

    await until(free)


def assert_served(trial: Trial, process: CollectorProcess) -> None:
    """Nobody else was refused or hung up on, and memory is what it should be."""
    assert trial.ledger.refusals == {}
    assert trial.ledger.breaks == 0
    assert memory_bytes(process.pid, "VmHWM") < MEMORY_BYTES_MAX
    memory = memory_bytes(process.pid, "VmHWM") / 1e6
    trial.note = f"slowest answer {trial.ledger.slowest:.2f} s, at most {memory:.0f} MB of memory"


async def test_thousands_of_idle_connections_hold_up_nobody(
    collectors: MakeProcess,
    trials: Trials,
    empty_dsn: str,
    form: Form,
    files: Callable[[int], None],
) -> None:
    count = 10_000 if form.long else 1_000
    files(count)
    process = collectors(empty_dsn, INGEST_HEADER_SECONDS="30", INGEST_IDLE_SECONDS="30")
    await asyncio.to_thread(process.start)
    async with trials(f"{count:,} idle connections", process) as trial:
        async with wires(process.port, count) as idle:
            for wire in idle[::2]:  # half of them have sent something before
                await wire.send(HEALTH)
                assert (await wire.answer()).status == 200
            for _ in trial.rounds(1, 5):
                found = await asyncio.to_thread(process.metrics)
                assert found["collector_ingest_connections"] >= count
                await trial.load(1.0, 2.0)
                await trial.ledger.probe()
        assert_served(trial, process)
        await gone(process)


@pytest.mark.long
async def test_connections_that_idle_too_long_are_closed(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn, INGEST_HEADER_SECONDS="1", INGEST_IDLE_SECONDS="1")
    await asyncio.to_thread(process.start)
    async with trials("200 connections idle for too long", process) as trial:
        async with wires(process.port, 200) as idle:
            for wire in idle[::2]:
                await wire.send(HEALTH)
                assert (await wire.answer()).status == 200
            await asyncio.gather(*(wire.closed() for wire in idle))
        await gone(process)
        assert_served(trial, process)


HEAD = (
    b"POST /v1/track HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Authorization: " + basic("demo").encode() + b"\r\n"
)


async def drip_headers(wire: Wire) -> None:
    """A header that never ends."""
    await wire.send(HEAD + b"X-A: ")
    with contextlib.suppress(OSError):
        while not wire.reader.at_eof():
            await wire.send(b"a")
            await asyncio.sleep(0.1)


async def drip_body(wire: Wire) -> None:
    """A body that never ends."""
    await wire.send(HEAD + b"Content-Length: 100000\r\n\r\n")
    with contextlib.suppress(OSError):
        while not wire.reader.at_eof():
            await wire.send(b" ")
            await asyncio.sleep(0.1)


async def drip_chunks(wire: Wire) -> None:
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with contextlib.suppress(OSError):
        while not wire.reader.at_eof():
            await wire.send(b"1\r\n \r\n")
            await asyncio.sleep(0.1)


async def never_listen(wire: Wire) -> None:
    """Requests one behind the other, and no answer is ever read."""
    wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(3):
            while True:
                await wire.send(HEALTH * 1000)


async def talk_nonsense(wire: Wire) -> None:
    await wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 100)


@pytest.mark.parametrize(
    "abuse",
    [
        pytest.param(drip_headers, marks=pytest.mark.long),
        drip_body,
        pytest.param(drip_chunks, marks=pytest.mark.long),
        never_listen,
        pytest.param(talk_nonsense, marks=pytest.mark.long),
    ],
)
async def test_slow_or_rude_clients_hold_up_nobody(
    collectors: MakeProcess,
    trials: Trials,
    empty_dsn: str,
    form: Form,
    abuse: Callable[[Wire], Coroutine[None, None, None]],
) -> None:
    count = 20 if abuse is never_listen else 100
    process = collectors(empty_dsn, INGEST_HEADER_SECONDS="1.5", INGEST_BODY_SECONDS="1.5")
    await asyncio.to_thread(process.start)
    async with trials(f"{count} clients that {abuse.__name__.replace('_', ' ')}", process) as trial:
        for _ in trial.rounds(1, 5):
            async with wires(process.port, count) as rude:
                tasks = [asyncio.create_task(abuse(wire)) for wire in rude]
                await trial.ledger.probe()
                await asyncio.sleep(0.5)
                if abuse is never_listen:
                    await asyncio.gather(*tasks)
                else:
                    answers = await asyncio.gather(*(wire.answer() for wire in rude))
                    expected = 400 if abuse is talk_nonsense else 408
                    assert {answer.status for answer in answers} == {expected}
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await gone(process)
        assert_served(trial, process)


async def test_clients_that_vanish_in_mid_body_leave_nothing_behind(
    collectors: MakeProcess, trials: Trials, empty_dsn: str
) -> None:
    process = collectors(empty_dsn)
    await asyncio.to_thread(process.start)
    async with trials("300 clients that vanish in mid-body", process) as trial:
        for _ in trial.rounds(1, 5):
            async with wires(process.port, 300) as opened:
                for wire in opened:
                    await wire.send(HEAD + b"Content-Length: 200000\r\n\r\n" + b" " * 100_000)
                await asyncio.sleep(0.3)
                await trial.ledger.probe()
            await gone(process)
        assert_served(trial, process)
