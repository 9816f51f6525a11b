"""
Edge: requests a second that are answered after fsync, beside servers that do nothing.

The store is away, so ingest and journal are measured alone. Server on one core, load on another,
the two servers in turn, round after round; the ratio is the median of the rounds' ratios.
"""

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.harness import NOWHERE, bare_server, collector, fsyncs, load, median, nginx, pin

Row = dict[str, object]


def compare(kind: str, connections: int, rounds: int, seconds: float) -> Row:
    """Ours against an aiohttp `web.Application` handler, which reads the body if there is one."""
    ratios, ours, bare = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data", NOWHERE) as process,
        bare_server() as bare_port,
    ):
        pin(process.pid, 0)
        for _ in range(rounds):
            there = load(bare_port, kind, connections=connections, seconds=seconds)
            here = load(process.port, kind, connections=connections, seconds=seconds)
            assert not here["errors"]
            bare.append(there["per_second"])
            ours.append(here["per_second"])
            ratios.append(here["per_second"] / there["per_second"])
    return {
        "what": f"{kind}, {connections} connections",
        "limit": "web.Application handler that does nothing",
        "ours": median(ours),
        "bare": median(bare),
        "ratio": median(ratios),
    }


def batches(rounds: int, seconds: float) -> Row:
    """Batches of 100 events acknowledged, against writing the same bytes and fdatasync alone."""
    ratios, ours, bare = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data", NOWHERE) as process,
    ):
        pin(process.pid, 0)
        for _ in range(rounds):
            before = process.status()["journal"]
            commits = process.metrics()["collector_journal_commits"]
            here = load(process.port, "batch", connections=8, seconds=seconds)
            grown = process.status()["journal"]["bytes"] - before["bytes"]
            # The gauge is a second old at most; a group's size is an average all the same.
            commits = max(1.0, process.metrics()["collector_journal_commits"] - commits)
            per_group = int(grown / commits)
            per_event = grown / max(1, here["events"])
            rate, _ = fsyncs(Path(directory), per_group, seconds / 2)
            there = rate * per_group / per_event
            ours.append(here["per_second"])
            bare.append(there)
            ratios.append(here["per_second"] / there)
    return {
        "what": "batches of 100, 8 connections, events/s",
        "limit": "write and fdatasync of the same bytes in the same groups",
        "ours": median(ours),
        "bare": median(bare),
        "ratio": median(ratios),
    }


def far_limit(rounds: int, seconds: float) -> Row:
    """Our pixel against nginx's `empty_gif` with its access log on: C, and nothing decoded."""
    if shutil.which("nginx") is None:
        return skipped("pixel, beside nginx", "nginx is not installed")
    ratios, ours, bare = [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data", NOWHERE) as process,
        nginx(Path(directory)) as port,
    ):
        pin(process.pid, 0)
        for _ in range(rounds):
            there = load(port, "pixel", connections=64, seconds=seconds)
            here = load(process.port, "pixel", connections=64, seconds=seconds)
            bare.append(there["per_second"])
            ours.append(here["per_second"])
            ratios.append(here["per_second"] / there["per_second"])
    return {
        "what": "pixel, 64 connections",
        "limit": "nginx with empty_gif and its access log on: the far limit",
        "ours": median(ours),
        "bare": median(bare),
        "ratio": median(ratios),
    }


def acknowledgements(seconds: float) -> Row:
    """How long senders wait at half of the rate that is sustained, while the store runs."""
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data") as process,
    ):
        process.wait_until_stored()
        most = load(process.port, "batch", connections=8, seconds=seconds, core=None)
        began = time.perf_counter()
        process.wait_until_stored(300)
        sustained = most["requests"] / (most["seconds"] + time.perf_counter() - began)
        half = load(
            process.port, "batch", connections=8, seconds=seconds, rate=sustained / 2, core=None
        )
        process.wait_until_stored()
        _, bare = fsyncs(Path(directory), 128 << 10, seconds / 2)
    return {
        "what": "p99 of acknowledging a batch of 100 at half of the sustained rate, ms",
        "limit": "p99 of one write and fdatasync of 128 KB, ms",
        "ours": half["p99_ms"],
        "bare": bare * 1e3,
        "ratio": half["p99_ms"] / (bare * 1e3),
        "lower_is_better": True,
        "p50_ms": half["p50_ms"],
        "events_per_second": half["per_second"],
    }


def skipped(what: str, why: str) -> Row:
    return {"what": what, "limit": why, "ours": 0.0, "bare": 0.0, "ratio": 0.0, "skipped": True}
