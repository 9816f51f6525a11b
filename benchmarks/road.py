"""
Road: from the first byte sent to the last row stored, beside a bare COPY of the same rows.

Load generator, collector and Postgres share the machine. Bare COPY has it alone, afterwards: the
same rows in binary into a table with the same columns, partitions and indexes, over one connection,
with a commit for as many rows as a batch has.
"""

import asyncio
import tempfile
import time
from pathlib import Path

import asyncpg

from benchmarks.bare_copy import bare_copy
from benchmarks.edge import Row
from benchmarks.harness import NOWHERE, collector, cpu_seconds, load, rss_bytes
from tests.process import CollectorProcess

POLL_SECONDS = 0.2  # each costs the collector a few milliseconds


def stored(process: CollectorProcess) -> int:
    try:
        return int(process.metrics()["collector_store_copied_events_total"])
    except OSError:
        return 0


def wait_for(process: CollectorProcess, events: int) -> float:
    """When so many were stored, on time.perf_counter's clock."""
    while stored(process) < events:
        time.sleep(POLL_SECONDS)
    return time.perf_counter()


def copy_rate(process: CollectorProcess, rows: int) -> float:
    async def measure() -> float:
        connection = await asyncpg.connect(process.embedded_dsn())
        try:
            return await bare_copy(connection, rows)
        finally:
            await connection.close()

    return asyncio.run(measure())


def end_to_end(seconds: float) -> Row:
    """Batches of 100 for so long as fast as they are taken, until every event is stored."""
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data") as process,
    ):
        process.wait_until_stored()
        began = time.perf_counter()
        sent = load(process.port, "batch", connections=8, seconds=seconds, core=None)
        under_load = stored(process) / (time.perf_counter() - began)
        ours = sent["events"] / (wait_for(process, sent["events"]) - began)
        bare = copy_rate(process, sent["events"])
    return {
        "what": "end to end: sent, acknowledged and stored, events/s",
        "limit": "COPY of the same rows, alone on the machine",
        "ours": ours,
        "bare": bare,
        "ratio": ours / bare,
        "acknowledged_per_second": sent["per_second"],
        "stored_beside_the_load_per_second": under_load,
    }


def idle(seconds: float) -> Row:
    """What the collector process takes while nothing comes in; it is Postgres that costs more."""
    with (
        tempfile.TemporaryDirectory(prefix="cb") as directory,
        collector(Path(directory) / "data") as process,
    ):
        process.wait_until_stored()
        time.sleep(3.0)
        before = cpu_seconds(process.pid)
        time.sleep(seconds)
        share = (cpu_seconds(process.pid) - before) / seconds
        megabytes = rss_bytes(process.pid) / 1e6
    return {
        "what": "idle: memory of the collector process, MB",
        "limit": "80 MB, the aim",
        "ours": megabytes,
        "bare": 80.0,
        "ratio": megabytes / 80.0,
        "lower_is_better": True,
        "cpu_percent": 100 * share,
    }


def drain(seconds: float) -> Row:
    """A backlog that grew for so long while Postgres was away."""
    with tempfile.TemporaryDirectory(prefix="cb") as directory:
        data = Path(directory) / "data"
        with collector(data, NOWHERE, STORE_DRAIN_SECONDS="0") as process:
            events = load(process.port, "batch", connections=8, seconds=seconds)["events"]
        with collector(data) as process:
            # From the first batch on: a server that starts is not what is measured.
            began = wait_for(process, 1)
            first = stored(process)
            ours = (events - first) / (wait_for(process, events) - began)
            bare = copy_rate(process, events)
    return {
        "what": "draining a backlog, no load, events/s",
        "limit": "COPY of the same rows, alone on the machine",
        "ours": ours,
        "bare": bare,
        "ratio": ours / bare,
    }
