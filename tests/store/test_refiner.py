"""The refiner's process: it gives what the feeder would make, and nothing depends on it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from collector.event import BATCH, Envelope, Refusal, encode_envelope
from collector.journal import Record
from collector.store import portions, refiner
from collector.store.portions import Portion
from collector.store.refiner import Refiner
from collector.store.refining import answer, decode_portion, encode_task
from tests.store.road import LIMITS, Road, assert_exactly_once, connected, frame_of, track, until


def records(*batches: list[dict[str, object]], first: int = 1) -> list[Record]:
    """These batches as the journal gives them back."""
    found = []
    for position, events in enumerate(batches, first):
        data, source, count = frame_of(events)  # type: ignore[arg-type]
        found.append(Record(position, 1_700_000_000_000_000 + position, source, count, data))
    return found


def here(given: list[Record]) -> Portion:
    """What they come to in this process."""
    portion = Portion()
    for record in given:
        for _ in portions.fill(portion, LIMITS, *record):
            pass
    return portion


MANY = [track(f"m{number}", properties={"n": number, "text": "ä" * 50}) for number in range(300)]


@pytest.fixture
async def busy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Refiner]:
    """A refiner to which any load is a heavy one, started."""
    monkeypatch.setattr(refiner, "BUSY_EVENTS", 1)
    made = Refiner(LIMITS)
    await up(made)
    yield made
    await made.close()


async def up(made: Refiner) -> None:
    """Ask until the process does it."""
    end = time.monotonic() + 20.0
    while await made.portion(records([track("first")])) is None:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# --- what it makes ------------------------------------------------------------------------------


def test_it_makes_what_the_feeder_would_make() -> None:
    odd = Envelope(
        "other",
        BATCH,
        1_700_000_000_000_000,
        uuid.uuid4().bytes,
        b'{"batch":[{"type":"identify","userId":"u","traits":{"a":1}},{"type":"unknown"},'
        b'{"type":"track","event":"E","timestamp":"yesterday","odd":[1]}]}',
        refusals=[Refusal(3, "bad_json", "it cannot be read", b"\xff{")],
    )
    refused = Envelope(
        "", "", 1_700_000_000_000_000, uuid.uuid4().bytes, b"", refusals=odd.refusals
    )
    given = [
        *records(MANY, [track("m1")], []),
        Record(4, 5, "other", 4, encode_envelope(odd)),
        Record(5, 6, "other", 7, encode_envelope(odd)),  # counted with more than it holds
        Record(6, 7, "", 0, encode_envelope(refused)),
    ]
    mine = here(given)
    theirs = decode_portion(answer(encode_task((LIMITS, given))))
    assert theirs == mine
    assert mine.last == 6
    assert mine.totals == {"default": 301, "other": 11, "": 0}
    assert mine.lost == {"other": 3}
    assert mine.rejected == {("other", "unknown_type"): 2, ("other", "bad_json"): 2}


def test_what_needs_a_closer_look_is_left_to_the_feeder() -> None:
    given = [*records([track("a")]), Record(2, 3, "default", 5, b"\xc1 no envelope")]
    assert answer(encode_task((LIMITS, given))) == b""
    assert answer(b"no task") == b""


# --- the process --------------------------------------------------------------------------------


async def test_under_a_heavy_load_it_is_done_by_the_process(busy: Refiner) -> None:
    given = records(MANY, MANY)
    assert busy.pid is not None
    assert await busy.portion(given) == here(given)


async def test_one_record_that_cannot_be_read_does_not_end_it(busy: Refiner) -> None:
    pid = busy.pid
    assert await busy.portion([Record(1, 2, "default", 5, b"\xc1")]) is None
    given = records(MANY)
    assert await busy.portion(given) == here(given)
    assert busy.pid == pid


async def test_under_a_light_load_there_is_no_process() -> None:
    made = Refiner(LIMITS)
    for _ in range(20):
        assert await made.portion(records([track("a")])) is None
    await asyncio.sleep(0.1)
    assert made.pid is None
    await made.close()


async def test_it_ends_when_the_load_has_gone(
    busy: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = busy.pid
    assert pid is not None
    monkeypatch.setattr(refiner, "WINDOW_SECONDS", 0.02)
    monkeypatch.setattr(refiner, "CALM_SECONDS", 0.1)
    await until(lambda: busy.pid is None)
    await until(lambda: is_gone(pid))
    monkeypatch.setattr(refiner, "CALM_SECONDS", 30.0)
    await up(busy)  # and comes again with it


async def test_it_holds_no_file_and_no_secret_of_ours(
    busy: Refiner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_ADMIN_TOKEN", "secret")
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        os.kill(busy.pid or 0, signal.SIGKILL)
        monkeypatch.setattr(refiner, "RETRY_SECONDS", 0.0)
        await up(busy)
        process = Path(f"/proc/{busy.pid}")
        assert {int(entry.name) for entry in (process / "fd").iterdir()} == {0, 1, 2}
    assert b"COLLECTOR" not in (process / "environ").read_bytes()


# --- what may happen to it ----------------------------------------------------------------------


async def test_killed_it_is_done_without_and_begun_again(
    busy: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = busy.pid or 0
    os.kill(pid, signal.SIGKILL)
    assert await busy.portion(records(MANY)) is None
    assert busy.pid is None
    assert await busy.portion(records(MANY)) is None  # for a while it is not even tried
    assert busy.pid is None
    monkeypatch.setattr(busy, "_retry_at", 0.0)
    await up(busy)
    assert busy.pid not in {None, pid}


async def test_one_that_hangs_is_ended(busy: Refiner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refiner, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(refiner, "RETRY_SECONDS", 0.0)
    os.kill(busy.pid or 0, signal.SIGKILL)
    await busy.portion(records(MANY))
    await up(busy)
    pid = busy.pid or 0
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    assert await busy.portion(records(MANY)) is None
    assert time.monotonic() - began < 5.0
    assert is_gone(pid)


async def test_a_late_answer_is_never_taken_for_another(busy: Refiner) -> None:
    os.kill(busy.pid or 0, signal.SIGSTOP)
    asked = asyncio.create_task(busy.portion(records(MANY)))
    await asyncio.sleep(0.1)
    asked.cancel()  # as the feeder does when Postgres went away
    with contextlib.suppress(asyncio.CancelledError):
        await asked
    again = asyncio.create_task(busy.portion(records([track("other")], first=7)))
    await asyncio.sleep(0.1)
    os.kill(busy.pid or 0, signal.SIGCONT)
    portion = await again
    assert portion is not None
    assert portion.last == 7
    assert len(portion.events) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["/nowhere/python"],
        [sys.executable, "-c", "raise SystemExit(1)"],
        [sys.executable, "-c", "import os; os.write(0, b'x' * 100)"],
    ],
)
async def test_one_that_cannot_be_started_is_not_missed(
    command: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(refiner, "COMMAND", command)
    monkeypatch.setattr(refiner, "BUSY_EVENTS", 1)
    made = Refiner(LIMITS)
    for _ in range(50):
        assert await made.portion(records([track("a")])) is None
        await asyncio.sleep(0.02)
    assert made.pid is None
    assert len([one for one in caplog.records if "refining process" in one.message]) == 1
    await made.close()


@pytest.mark.parametrize("order", [signal.SIGSTOP, None], ids=["stopped", "waiting"])
def test_it_ends_with_its_parent(order: signal.Signals | None) -> None:
    text = """
import asyncio
from collector.store import refiner
from tests.store.test_refiner import LIMITS, up
async def main():
    refiner.BUSY_EVENTS = 1
    made = refiner.Refiner(LIMITS)
    await up(made)
    print(made.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if order is not None:
            os.kill(pid, order)
        parent.kill()
    end = time.monotonic() + 10.0
    while not is_gone(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


# --- the road -----------------------------------------------------------------------------------


async def test_killed_under_load_nothing_is_lost_doubled_or_out_of_order(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refiner, "BUSY_EVENTS", 1)
    monkeypatch.setattr(refiner, "RETRY_SECONDS", 0.05)
    killed = 0
    async with Road(tmp_path, dsn, batch_events_max=400) as road:
        made = road.store._refiner
        assert made is not None

        async def kill() -> None:
            nonlocal killed
            while True:
                if made.pid is not None:
                    await asyncio.sleep(0.2)
                    if (pid := made.pid) is not None:
                        order = signal.SIGKILL if killed % 3 else signal.SIGABRT
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, order)
                        killed += 1
                await asyncio.sleep(0.01)

        killing = asyncio.create_task(kill())
        sent = 0
        end = time.monotonic() + 20.0
        while killed < 6 and time.monotonic() < end:
            names = [f"m{number}" for number in range(sent, sent + 100)]
            await road.send(*[track(name, padding="x" * 200) for name in names])
            sent += 100
        killing.cancel()
        await road.stored()
        road.assert_books_close()
        assert road.books["stored"] == sent
    assert killed >= 6
    names = [f"m{number}" for number in range(sent)]
    await assert_exactly_once(dsn, names)
    async with connected(dsn) as connection:
        found = await connection.fetch("select message_id from collector.events order by seq")
    assert [row["message_id"] for row in found] == names


async def test_the_process_ends_with_the_store(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refiner, "BUSY_EVENTS", 1)
    async with Road(tmp_path, dsn) as road:
        made = road.store._refiner
        assert made is not None
        while made.pid is None:
            await road.send(track(uuid.uuid4().hex))
            await asyncio.sleep(0.01)
        pid = made.pid
        assert road.store.facts()["refiner_pid"] == pid
    assert is_gone(pid)


async def test_it_can_be_switched_off(tmp_path: Path, dsn: str) -> None:
    async with Road(tmp_path, dsn, refine_processes=0) as road:
        await road.send(*MANY)
        await road.stored()
        assert road.store.facts()["refiner_pid"] is None
        assert road.store._refiner is None
