"""
Edge: requests a second that are answered after fsync, beside servers that do nothing.

The store is away, so ingest and journal are measured alone. Server on one core, load on another,
the two servers in turn, round after round; the ratio is the median of the rounds' ratios.
"""

import tempfile
from pathlib import Path

from benchmarks.harness import NOWHERE, bare_server, collector, fsyncs, load, median, pin

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
