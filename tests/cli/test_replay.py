"""`collector replay`: counted, started, watched, ended."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest

from collector.cli import watch
from collector.store import reader
from collector.store.postgres import Connection
from tests.cli.conftest import Shell
from tests.store.desk import RECEIVED, add_counts, add_courier, add_event


async def fill(connection: Connection) -> None:
    await reader.admit(connection)
    for seq in range(1, 31):
        await add_event(
            connection,
            seq,
            received_at=RECEIVED + timedelta(minutes=seq),
            type="identify" if seq > 20 else "track",
            source="app" if seq % 2 else "shop",
            properties='{"currency": "EUR"}' if seq <= 5 else "{}",
        )
    await add_courier(connection, "hook", position=30)


@pytest.fixture
def full(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell.sql(fill)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.05)
    return shell


TO_HOOK = ("replay", "--destination", "hook")


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ((), 20),
        (("--type", "identify"), 10),
        (("--type", "identify", "--type", "track"), 30),
        (("--event", "Order*", "--source", "app"), 10),
        (("--event", "order*"), 0),
        (("--since", "2026-06-01T12:05:00", "--until", "2026-06-01T12:10Z"), 5),
        (("--since", "2026-06-01", "--until", "2026-06-02"), 20),
        (("--since", "2027-01-01"), 0),
        (("--since", "0s"), 0),
        (("--message-id", "m3", "--message-id", "m25"), 2),
        (("--where", "e.properties->>'currency' = 'EUR'"), 5),
        (("--where", "e.seq > 1", "--source", "shop"), 10),
    ],
)
def test_a_dry_run_counts_and_starts_nothing(
    full: Shell, words: tuple[str, ...], events: int
) -> None:
    ended = full(*TO_HOOK, "--dry-run", "--json", *words)
    assert (ended.status, ended.json) == (0, {"events": events})
    assert full("replay", "list").out == "There is no replay.\n"


def test_a_dry_run_says_it_in_words(full: Shell) -> None:
    assert full(*TO_HOOK, "--dry-run").out == "20 events would go to hook.\n"


def test_a_replay_is_started_and_left_alone(full: Shell) -> None:
    ended = full(*TO_HOOK, "--source", "app", "--detach")
    assert ended.status == 0
    assert "Replay 1: 10 events to hook." in ended.err
    assert "collector replay list --destination hook" in ended.out
    started = full(*TO_HOOK, "--detach", "--json").json
    assert (started["id"], started["total"], started["state"]) == (2, 20, "running")
    rows = full("replay", "list").rows()
    assert rows[0][:3] == ["replay", "destination", "state"]
    assert [row[:3] for row in rows[1:]] == [["2", "hook", "running"], ["1", "hook", "running"]]
    assert rows[2][-1] == "from app"


def test_a_replay_of_nothing_is_not_started(full: Shell) -> None:
    ended = full(*TO_HOOK, "--event", "nothing")
    assert (ended.status, ended.out) == (2, "")
    assert "nothing was started" in ended.err
    assert full("replay", "list", "--json").json == []


def act_later(full: Shell, sql: str, after: float = 0.4) -> threading.Thread:
    """What a courier or an operator does meanwhile."""

    def act() -> None:
        time.sleep(after)
        while not full.sql("select count(*) from collector.couriers where replay > 0"):
            time.sleep(0.05)
        full.sql(sql)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_replay_is_watched_until_it_is_done(full: Shell) -> None:
    async def deliver(connection: Connection) -> None:
        await add_counts(connection, "hook", 1, delivered=18, skipped__consent=1, refused__bad=1)

    full.sql(deliver)
    thread = act_later(
        full,
        "update collector.couriers set state = 'done', position = last_seq where replay > 0",
    )
    ended = full(*TO_HOOK)
    thread.join()
    assert ended.status == 0
    assert ended.err.rstrip().endswith(
        "Replay 1 done: 100.0 %, 18 of 20 delivered, skipped 1 consent, refused 1 bad"
    )


def test_a_replay_that_is_cancelled_meanwhile_ends_the_watching(full: Shell) -> None:
    thread = act_later(full, "update collector.couriers set state = 'cancelled' where replay > 0")
    ended = full(*TO_HOOK, "--json")
    thread.join()
    assert (ended.status, ended.json["state"], ended.err) == (1, "cancelled", "")


def test_a_replay_that_nobody_takes_up_says_so(
    full: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "UNTAKEN_SECONDS", 0.1)
    thread = act_later(
        full, "update collector.couriers set state = 'cancelled' where replay > 0", 1
    )
    ended = full(*TO_HOOK)
    thread.join()
    assert "No collector has taken it up yet" in ended.err


async def test_ctrl_c_leaves_it_running(full_process: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "collector", *TO_HOOK),
        env=os.environ | {"COLLECTOR_CONFIG": str(full_process.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = b""
    while b"running" not in said:
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, rest = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert b"Replay 1 goes on without us. To end it: collector replay cancel 1" in rest
    states = await asyncio.to_thread(
        full_process.sql, "select state from collector.couriers where replay = 1"
    )
    assert states == "running"


@pytest.fixture
async def full_process(shell: Shell) -> Shell:
    await asyncio.to_thread(shell.sql, fill)
    return shell


def test_those_there_are_can_be_paused_resumed_and_cancelled(full: Shell) -> None:
    full(*TO_HOOK, "--detach")
    assert "Replay 1 is paused." in full("replay", "pause", "1", "--because", "later").out
    out = full("replay", "list").out
    assert "replay 1: by_hand: later" in out
    assert full("replay", "pause", "1").out == "Replay 1 was paused before.\n"
    assert full("replay", "resume", "1").out == "Replay 1 goes on.\n"
    assert full("replay", "resume", "1", "--json").json == {"changed": False}
    assert full("replay", "cancel", "1").out == "Replay 1 is cancelled.\n"
    ended = full("replay", "resume", "1")
    assert (ended.status, ended.err) == (
        2, "collector: replay 1 is cancelled: start another one\n"
    )  # fmt: skip
    assert full("replay", "cancel", "9").status == 2


@pytest.mark.parametrize(
    "words",
    [
        ("replay",),
        ("replay", "--since", "1h"),
        ("replay", "--destination", "ga4"),
        (*TO_HOOK, "--since", "soon"),
        (*TO_HOOK, "--since", "1h", "--until", "2h"),
        (*TO_HOOK, "--type", "purchase"),
        (*TO_HOOK, "list"),
        (*TO_HOOK, "--event", ""),
        (*TO_HOOK, "--event", "x" * 2_000),
        (*TO_HOOK, "--where", "true) or (true"),
        (*TO_HOOK, "--where", "true; delete from collector.events"),
        (*TO_HOOK, "--where", "nextval('collector.replay_ids') > 0"),
        (*TO_HOOK, "--where", "e.nothing"),
        (*TO_HOOK, "--where", " "),
        (*TO_HOOK, "--source", "a\0b"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_starts_nothing(
    full: Shell, words: tuple[str, ...]
) -> None:
    ended = full(*words)
    assert ended.status == 2
    assert ended.err
    assert full("replay", "list", "--json").json == []
    assert full.sql("select count(*) from collector.events") == 30


def test_a_condition_that_takes_too_long_is_ended(
    full: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.try_out, "__defaults__", (0.3,))
    ended = full(*TO_HOOK, "--where", "(select pg_sleep(10)) is null")
    assert ended.status == 2
    assert "takes too long" in ended.err
