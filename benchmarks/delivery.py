"""
Delivery: what a webhook costs beside posting ready-made bytes, and what ten of them cost ingest.

The receiver is one process that answers 200 and does nothing else. Destinations are sent batches.
Nothing is kept on one core: besides the two that are compared, Postgres and the receiver need one.
"""

import contextlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import samples
from benchmarks.edge import Row
from benchmarks.harness import collector, cpu_seconds, load, median
from tests.process import CollectorProcess, free_port

BATCH = 100
PERSONS = 5_000  # whose events these are
DELIVERED_SECONDS_MAX = 120.0
RATE = 1_000  # events a second


class Receiver:
    """The process, and what it got."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.bodies = directory / "bodies"

    def url(self, name: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def stats(self) -> dict[str, Any]:
        """What came since this was asked last."""
        with urllib.request.urlopen(self.url("stats"), timeout=30) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found


@contextlib.contextmanager
def receiver(directory: Path) -> Iterator[Receiver]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.receiver", str(port), str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Receiver(port, directory)
        finally:
            process.terminate()


def destination(name: str, url: str, **settings: object) -> dict[str, object]:
    return {
        "type": "webhook", "name": name, "url": url, "private_addresses": ["127.0.0.0/8"],
        "batch": True, "once": {}, **settings,
    }  # fmt: skip


def destinations(*wanted: dict[str, object]) -> dict[str, str]:
    return {"DESTINATIONS": json.dumps(wanted)}


def fill(process: CollectorProcess, events: int) -> None:
    """Store so many events of 1.2 KB, of many persons."""
    dice = random.Random(1)
    for number in range(events // BATCH):
        batch = [samples.event(index, dice.randrange(PERSONS)) for index in range(BATCH)]
        body = json.dumps({"batch": batch}).encode()
        body = body.replace(samples.MARK, b"%012d" % number)
        status, _ = process.post("/v1/batch", body)
        assert status == 200
    process.wait_until_stored(120)


def until_delivered(process: CollectorProcess, name: str, events: int) -> None:
    until = time.monotonic() + DELIVERED_SECONDS_MAX
    while time.monotonic() < until:
        for one in process.status()["destinations"]:
            if one["name"] == name and one.get("delivered", 0) >= events:
                return
        time.sleep(0.1)
    raise AssertionError(f"not delivered: {process.status()['destinations']}")


def webhook(rounds: int, events: int, seconds: float) -> Row:
    """A backlog, delivered; against a bare client that posts the very same bodies one by one."""
    ratios, ours, bare, cpu, bare_cpu = [], [], [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        receiver(Path(directory)) as there,
    ):
        data = Path(directory) / "data"
        with collector(data) as process:
            fill(process, events)
        for number in range(rounds):
            name = f"round{number}"
            wanted = destination(name, there.url(name), batch_events_max=BATCH, start="beginning")
            there.stats()
            with collector(data, **destinations(wanted)) as process:
                until_delivered(process, name, 1)
                before = cpu_seconds(process.pid)
                until_delivered(process, name, events)
                cpu.append(1e6 * (cpu_seconds(process.pid) - before) / events)
            got = there.stats()
            # From the first request on: a server that starts is not what is measured.
            per_request = events / got["requests"]  # some batches are smaller
            here = (events - per_request) / (got["last"] - got["first"])
            before = children_seconds()
            limit = post(there, seconds) * per_request
            bare_cpu.append(1e6 * (children_seconds() - before) / (limit * seconds))
            ours.append(here)
            bare.append(limit)
            ratios.append(here / limit)
    return {
        "what": "webhook: a backlog in batches of 100, events/s",
        "limit": "a bare aiohttp client that posts the very same bodies one by one",
        "ours": median(ours),
        "bare": median(bare),
        "ratio": median(ratios),
        "cpu_us_per_event": median(cpu),  # of a machine that others use, too, this says more
        "cpu_us_per_event_bare": median(bare_cpu),
    }


def children_seconds() -> float:
    """Processor time of the programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def post(there: Receiver, seconds: float) -> float:
    """Bodies a second that the bare client posts."""
    command = [
        sys.executable, "-m", "benchmarks.bare_client", there.url("bare"), str(there.bodies),
        str(seconds),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        shown, _ = process.communicate(timeout=seconds + 60)
    assert process.returncode == 0
    return float(shown)


def ten(rounds: int, seconds: float) -> Row:
    """
    What ten webhooks cost those who send: two collectors in turn, one of them without any.

    At a steady RATE each event is acknowledged and goes to all ten; what is compared is how long
    senders wait. The most that ingest takes is shown as well: there couriers have to give way.
    """
    quiet: dict[str, list[float]] = {"p50_ms": [], "p99_ms": [], "most": [], "cpu": []}
    busy: dict[str, list[float]] = {name: [] for name in quiet}
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        receiver(Path(directory)) as there,
    ):
        wanted = destinations(*(destination(f"d{n}", there.url(f"d{n}")) for n in range(10)))
        with (
            collector(Path(directory) / "none") as without,
            collector(Path(directory) / "ten", **wanted) as with_ten,
        ):
            sides = ((without, quiet), (with_ten, busy))
            for process, _ in sides:
                process.wait_until_stored()
                load(process.port, "person", connections=8, seconds=2.0, rate=RATE, core=None)
            for _ in range(rounds):
                for process, found in sides:
                    before = cpu_seconds(process.pid)
                    got = load(
                        process.port, "person", connections=16, seconds=seconds, rate=RATE,
                        core=None,
                    )  # fmt: skip
                    assert not got["errors"]
                    found["p50_ms"].append(got["p50_ms"])
                    found["p99_ms"].append(got["p99_ms"])
                    found["cpu"].append(100 * (cpu_seconds(process.pid) - before) / got["seconds"])
                for process, found in sides:
                    got = load(process.port, "person", connections=64, seconds=2.0, core=None)
                    found["most"].append(got["per_second"])
                    until_caught_up(process)
    here, limit = median(busy["p50_ms"]), median(quiet["p50_ms"])
    return {
        "what": "p50 of acknowledging at 1,000 events/s that go to ten webhooks, ms",
        "limit": "the same without any destination",
        "ours": here,
        "bare": limit,
        "ratio": here / limit,
        "lower_is_better": True,
        "p99_ms": median(busy["p99_ms"]),
        "p99_ms_without": median(quiet["p99_ms"]),
        "cpu_percent": median(busy["cpu"]),
        "cpu_percent_without": median(quiet["cpu"]),
        "most_per_second": median(busy["most"]),
        "most_per_second_without": median(quiet["most"]),
    }


def until_caught_up(process: CollectorProcess) -> None:
    process.wait_until_stored(120)
    until = time.monotonic() + DELIVERED_SECONDS_MAX
    while any(one.get("pending", 1) for one in process.status()["destinations"]):
        assert time.monotonic() < until, process.status()["destinations"]
        time.sleep(0.1)
