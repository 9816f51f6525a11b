"""`collector prove` from outside: what it proves, what it must find, and what it refuses to do."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from click.testing import CliRunner

from collector.__main__ import main
from tests.conftest import PostgresServer
from tests.process import CollectorProcess, free_port

SECONDS_MAX = 60.0


class Ended:
    """How a proof ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    @property
    def verdict(self) -> dict[str, Any]:
        """What --json printed, which is all that it printed."""
        verdict: dict[str, Any] = json.loads(self.out)
        return verdict


@pytest.fixture
def place() -> Iterator[Path]:
    """Where proofs make their directories: short, because sockets are in them, and left empty."""
    with tempfile.TemporaryDirectory(prefix="cp") as directory:
        yield Path(directory)


def begin(place: Path, *words: str, **environ: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR_")}
    return subprocess.Popen(
        [sys.executable, "-m", "collector", "prove", *words],
        env=clean | {"TMPDIR": str(place)} | environ,
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=SECONDS_MAX)
    return Ended(process.returncode, out, err)


def begin_sending(place: Path, dsn: str) -> subprocess.Popen[str]:
    """A proof that would take long, and sends by now."""
    process = begin(place, "--seconds", "600", "--no-faults", "--dsn", dsn)
    assert process.stderr is not None
    for line in process.stderr:
        if "sending" in line:
            break
    time.sleep(0.5)
    return process


def child_of(process: subprocess.Popen[str]) -> int:
    """The collector that it started."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(text.split()[0])


def prove(place: Path, *words: str, **environ: str) -> Ended:
    """Run it to its end."""
    return end(begin(place, *words, **environ))


def against(dsn: str, *more: str) -> list[str]:
    """Words for a short proof on a database of the tests, without faults."""
    return ["--json", "--no-faults", "--seconds", "0.8", "--rate", "800", "--batch", "10",
            "--wait", "5", "--dsn", dsn, *more]  # fmt: skip


async def execute(dsn: str, sql: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def sabotage(dsn: str, when: str, body: str) -> None:
    """Have Postgres itself do *body* to each row that is stored."""
    await execute(
        dsn,
        f"create function collector.sabotage() returns trigger language plpgsql as $$ "
        f"begin {body} end $$; "
        f"create trigger sabotage {when} insert on collector.events for each row "
        "when (pg_trigger_depth() = 0) execute function collector.sabotage()",
    )


# --- A collector of its own --------------------------------------------------------------------


def test_a_collector_that_is_broken_again_and_again_loses_nothing(place: Path) -> None:
    ended = prove(
        place, "--json", "--seconds", "8", "--every", "0.5", "--rate", "500", "--seed", "5"
    )
    verdict = ended.verdict
    assert (ended.status, verdict["proved"], verdict["problems"]) == (0, True, []), ended.err
    assert verdict["sent"] == verdict["acknowledged"] == verdict["stored"] > 1000
    assert verdict["lost"] == verdict["stored_twice"] == verdict["out_of_order"] == 0
    assert len(verdict["faults"]) >= 3
    assert verdict["duplicates_dropped"] >= verdict["resent"] > 0
    assert verdict["seq_dense"]
    assert verdict["books_close"]
    assert verdict["books"]["accepted"] == verdict["stored"] + verdict["duplicates_dropped"]
    assert verdict["acknowledged_again_seconds"].keys() <= verdict["faults"].keys()
    assert verdict["evidence"] == ""
    assert ended.err == "", "no progress with --json"
    assert list(place.iterdir()) == [], "nothing is left behind"


def test_people_see_progress_and_a_table(place: Path, dsn: str) -> None:
    ended = prove(
        place, "--seconds", "2", "--every", "0.5", "--fault", "kill", "--dsn", dsn, "--keep"
    )
    assert ended.status == 0, ended.err
    assert "acknowledged" in ended.err
    assert "starting" in ended.err.splitlines()[0]
    *table, last, kept = ended.out.strip().splitlines()
    assert last.startswith("PROVED: each of ")
    assert any(line.startswith("faults") and "kill" in line for line in table)
    (directory,) = place.iterdir()
    assert kept == f"Kept in {directory}"
    assert (directory / "collector.log").exists()
    assert json.loads((directory / "verdict.json").read_text())["proved"]


def test_ctrl_c_ends_the_sending_and_reconciles_all_the_same(place: Path, dsn: str) -> None:
    process = begin_sending(place, dsn)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert ended.status == 0, ended.err
    assert "Sending ends" in ended.err
    assert "until it was interrupted" in ended.out
    assert "PROVED" in ended.out
    assert list(place.iterdir()) == []


def test_twice_ctrl_c_gives_up_and_leaves_nothing_behind(place: Path, dsn: str) -> None:
    process = begin_sending(place, dsn)
    child = child_of(process)
    os.kill(child, signal.SIGSTOP)  # so that there is something to wait for
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    os.kill(child, signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert (ended.status, ended.out) == (1, "")
    assert "nothing is proved: it was interrupted twice" in ended.err
    assert not Path(f"/proc/{child}").exists()
    assert list(place.iterdir()) == []


def test_a_collector_that_ends_by_itself_is_a_failure(place: Path, dsn: str) -> None:
    process = begin_sending(place, dsn)
    os.kill(child_of(process), signal.SIGKILL)
    ended = end(process)
    assert ended.status == 1
    assert "FAILED: the collector ended by itself with status -9" in ended.out
    assert "FAILED: " not in ended.out.replace("FAILED: the collector ended", "")
    (directory,) = place.iterdir()
    assert ended.out.strip().endswith(f"The evidence stands in {directory}")
    assert (directory / "collector.log").exists()


def test_a_proof_that_is_killed_takes_its_collector_with_it(place: Path, dsn: str) -> None:
    process = begin_sending(place, dsn)
    child = child_of(process)
    process.kill()
    end(process)
    until = time.monotonic() + SECONDS_MAX
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    (directory,) = place.iterdir()
    assert "The collector stops" in (directory / "collector.log").read_text()
    assert not Path(f"/proc/{child}").exists()


# --- What must be found ------------------------------------------------------------------------


async def test_rows_that_vanish_are_lost(place: Path, dsn: str) -> None:
    await sabotage(dsn, "before", "if new.seq % 100 = 7 then return null; end if; return new;")
    ended = await asyncio.to_thread(prove, place, *against(dsn))
    verdict = ended.verdict
    assert (ended.status, verdict["proved"]) == (1, False)
    assert verdict["lost"] == len(range(7, verdict["acknowledged"] + 1, 100)) > 1
    assert verdict["stored"] == verdict["acknowledged"] - verdict["lost"]
    assert not verdict["seq_dense"]
    assert not verdict["books_close"]
    lost, *_ = verdict["problems"]
    assert f"prove-{verdict['run']}-" in lost
    assert "acknowledged and not in Postgres: " in lost
    assert Path(verdict["evidence"], "verdict.json").exists()


async def test_rows_that_are_there_twice_are_found(place: Path, dsn: str) -> None:
    await sabotage(
        dsn,
        "after",
        "if new.seq % 100 = 7 then insert into collector.events select (new).*; end if; "
        "return null;",
    )
    ended = await asyncio.to_thread(prove, place, *against(dsn))
    verdict = ended.verdict
    assert ended.status == 1
    assert verdict["stored_twice"] == len(range(7, verdict["acknowledged"] + 1, 100)) > 1
    assert verdict["lost"] == 0
    assert not verdict["seq_dense"]
    assert not verdict["books_close"]


async def test_a_collector_that_says_200_and_stores_nothing_is_found(place: Path, dsn: str) -> None:
    async def lie(request: web.Request) -> web.Response:
        return web.json_response({"success": True}, headers={"X-Collector": "stored"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", lie)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    words = ["--url", f"http://127.0.0.1:{port}", "--write-key", "k", "--dsn", dsn, "--json"]
    ended = await asyncio.to_thread(
        prove, place, *words, "--seconds", "1", "--rate", "100", "--wait", "1"
    )
    await runner.cleanup()
    assert ended.status == 1
    assert ended.verdict["lost"] == ended.verdict["acknowledged"] > 0
    assert "is this the Postgres that the collector stores in?" in ended.verdict["problems"][1]


# --- A collector that runs ---------------------------------------------------------------------


def theirs(collector: CollectorProcess) -> list[str]:
    return [
        "--url",
        collector.url,
        "--write-key",
        "demo",
        "--seconds",
        "1",
        "--rate",
        "1000",
        "--resend",
        "0.5",
    ]


def test_a_running_collector_is_only_sent_to(collector: CollectorProcess, place: Path) -> None:
    collector.post("/v1/track", {"userId": "u", "event": "Of somebody else"})
    pid = collector.pid
    for _ in range(2):
        ended = prove(place, *theirs(collector), "--json", PROVE_DSN=collector.dsn)
        assert (ended.status, ended.verdict["problems"]) == (0, []), ended.err
        assert ended.verdict["faults"] == {}
        assert ended.verdict["books"] is None
        assert ended.verdict["stored"] == ended.verdict["acknowledged"] > 500
    assert collector.pid == pid
    (books,) = collector.status()["store"]["sources"]
    assert books["stored"] > 2 * ended.verdict["stored"] * 0.5
    assert books["duplicate"] >= ended.verdict["resent"] > 0


def test_the_database_of_a_running_collector_is_found_in_its_settings(
    collector: CollectorProcess, place: Path
) -> None:
    config = place / "settings.toml"
    config.write_text(f'[store]\ndsn = "{collector.dsn}"\n')
    ended = prove(place, *theirs(collector), "--config", str(config))
    assert ended.status == 0, ended.err
    assert "only a collector of our own is asked" in ended.out


def test_a_write_key_that_is_refused_is_told(collector: CollectorProcess, place: Path) -> None:
    words = [*theirs(collector), "--write-key", "wrong", "--dsn", collector.dsn]
    ended = prove(place, *words)
    assert (ended.status, ended.out) == (2, "")
    assert "unknown_write_key" in ended.err


# --- Wrong use ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--url", "http://h", "--write-key", "k", "--fault", "kill"], "not broken by it"),
        (["--url", "http://h"], "needs the --write-key"),
        (["--url", "h", "--write-key", "k"], "write it as https://"),
        (["--url", "http://h", "--write-key", "k", "--keep"], "--keep is for a collector that is"),
        (["--write-key", "k"], "--write-key belongs to --url"),
        (["--dsn", "postgresql://h/d", "--fault", "postgres-kill"], "is not broken"),
        (["--no-faults", "--fault", "kill"], "contradict"),
        (["--fault", "earthquake"], "'earthquake' is not one of"),
        (["--rate", "-1"], "--rate"),
        (["--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--url", "http://h", "--write-key", "k", "--dsn", "mysql://h"], "--dsn"),
        (["--dsn", "host=there"], "--dsn"),
    ],
)
def test_wrong_use_ends_with_2_and_a_sentence(words: list[str], reason: str) -> None:
    ended = CliRunner().invoke(main, ["prove", *words])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert reason in ended.stderr


async def test_a_database_that_holds_events_is_not_taken(place: Path, dsn: str) -> None:
    await execute(dsn, "update collector.sequence set last = 5")
    ended = await asyncio.to_thread(prove, place, *against(dsn))
    assert ended.status == 2
    assert "already holds 5 events" in ended.err
    ended = await asyncio.to_thread(prove, place, *against(dsn, "--yes-really"))
    assert (ended.status, ended.verdict["problems"]) == (0, [])


async def test_a_role_that_may_only_read_is_enough(
    collector: CollectorProcess, postgres: PostgresServer, place: Path
) -> None:
    collector.post("/v1/track", {"userId": "u", "event": "First"})
    collector.wait_until_stored()
    await postgres.execute("create role reader login")
    await execute(
        collector.dsn,
        "grant usage on schema collector to reader; "
        "grant select on all tables in schema collector to reader",
    )
    dsn = collector.dsn.replace("collector@", "reader@")
    ended = await asyncio.to_thread(prove, place, *theirs(collector), "--json", "--dsn", dsn)
    await execute(
        collector.dsn,
        "revoke all on all tables in schema collector from reader; "
        "revoke all on schema collector from reader",
    )
    await postgres.execute("drop role reader")
    assert (ended.status, ended.verdict["problems"]) == (0, []), ended.err


def test_a_database_of_no_collector_is_told(place: Path, empty_dsn: str) -> None:
    words = ["--url", "http://127.0.0.1:9", "--write-key", "k", "--dsn", empty_dsn]
    ended = prove(place, *words)
    assert ended.status == 2
    assert "this database has no table collector.events" in ended.err
