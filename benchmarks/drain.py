"""
Drain: a backlog from the journal into Postgres, beside a bare COPY of the same rows.

    python -m benchmarks.drain --events 200000

The journal is filled while Postgres is away; then a collector starts on it and nothing else runs.
Bare COPY writes the same rows in binary into a table with the same columns, partitions and
indexes, from a file, over one connection, and commits once for as many rows as a batch has.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from benchmarks.bare_copy import bare_copy
from tests.process import CollectorProcess


def fill(collector: CollectorProcess, events: int) -> int:
    """Send at least so many events in batches of 100, and return how many were accepted."""
    sent = 0
    while sent < events:
        shown = subprocess.run(
            [
                sys.executable, "-m", "benchmarks.load", "--port", str(collector.port),
                "--kind", "batch", "--connections", "8", "--seconds", "2",
            ],
            capture_output=True, check=True, text=True,
        )  # fmt: skip
        sent += json.loads(shown.stdout)["events"]
    return sent


async def drain(events: int, directory: Path) -> dict[str, float]:
    """Measure both, and return events a second."""
    data = directory / "data"
    collector = CollectorProcess(data, "postgresql://nobody@127.0.0.1:1/none").start()
    sent = fill(collector, events)
    collector.stop()
    collector = CollectorProcess(data, STORE_DRAIN_SECONDS="1")
    collector.start()
    stored, first, began = 0, 0, 0.0
    while stored < sent:
        await asyncio.sleep(0.05)
        try:
            stored = int(collector.metrics()["collector_store_copied_events_total"])
        except OSError:
            continue
        if stored and not began:
            began, first = time.perf_counter(), stored
    ours = (stored - first) / (time.perf_counter() - began)
    connection = await asyncpg.connect(collector.embedded_dsn())
    bare = await bare_copy(connection, rows_max=sent)
    await connection.close()
    collector.stop()
    return {"ours": ours, "bare_copy": bare, "ratio": ours / bare, "events": sent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cb") as directory:
        print(json.dumps(asyncio.run(drain(given.events, Path(directory)))))


if __name__ == "__main__":
    main()
