"""
Growth: what the whole road stores a second on top of many rows, beside what it stores at first.

    python -m benchmarks.growth --millions 20

Two embedded Postgres: one is empty, the other is filled by SQL with rows of eight days, closed days
indexed as maintenance does it, and with the ids of all of them in `seen`, so that the dedupe index
holds them too. Then the real collector drains the same backlogs into both, in turn, round after
round; the figure is the median of the rounds' ratios. What is filled in has short rows (some 600
bytes with their indexes), which bounds the disk it takes; what is measured is of 1.2 KB.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import asyncpg

from benchmarks.harness import NOWHERE, collector, family_cpu_seconds, load, median
from benchmarks.road import stored, wait_for
from collector.store import partitions
from collector.store.seen import ID_BYTES, history_of, id_of

Row = dict[str, object]

MILLION = 1_000_000
DAYS = 8  # one more than the dedupe window: the last one is today, and open
SEEN_ROWS = 2_500  # ids in one row of `seen`, as the writer's batches have
BYTES_PER_ROW = 900  # of disk, WAL included; no more than half of what is free is taken
FILL_ROWS = 250_000  # in one statement
CONNECTIONS = 2
PREFIX = "ajs-next-1763769756007-"

_FILL = f"""
insert into collector.events (seq, received_at, timestamp, original_timestamp, sent_at, message_id,
    type, event, source, user_id, anonymous_id, context, properties)
select n, at, at, at - interval '2 s', at, '{PREFIX}' || md5(n::text), 'track', 'Event ' || n % 20,
    'default', 'user-' || n % 1000003, md5((n % 3000017)::text)::uuid::text,
    '{{"page":{{"path":"/products"}},"locale":"en-US","library":{{"name":"analytics.js"}}}}',
    jsonb_build_object('value', n % 100, 'currency', 'EUR')
from generate_series($1::bigint, $2::bigint) n,
    lateral (select $3::timestamptz + (n - $1) * $4::interval as at) t
"""


def ids_of(first: int, last: int) -> bytes:
    """The ids of the rows that are filled in as these."""
    return b"".join(
        id_of((PREFIX + hashlib.md5(str(n).encode()).hexdigest()).encode())
        for n in range(first, last + 1)
    )


async def fill(dsn: str, rows: int) -> None:
    """Rows 1 to *rows*, over the days up to now, as if they had come by the road."""
    pool = await asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS)
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
    per_day = rows // DAYS
    for table in partitions.TABLES:
        for day in days:
            async with pool.acquire() as connection:
                if partitions.name_of(table, day) not in await partitions.names(connection, table):
                    await partitions._make(connection, table, day)
                if table == "events" and day != today:
                    # Those of an open day, which go when it is over: they would only cost time.
                    for index, _ in partitions.OPEN_DAY:
                        name = f"{partitions.name_of(table, day)}_{index}"
                        await connection.execute(f"drop index collector.{name}")

    async def put(day: date, first: int, last: int) -> None:
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        async with pool.acquire() as connection:
            await connection.execute(_FILL, first, last, midnight, timedelta(microseconds=1))

    def parts() -> list[tuple[date, int, int]]:
        found = []
        for number, day in enumerate(days):
            begin, end = number * per_day + 1, (number + 1) * per_day
            found += [
                (day, first, min(first + FILL_ROWS - 1, end))
                for first in range(begin, end + 1, FILL_ROWS)
            ]
        return found

    waiting = iter(parts())

    async def work() -> None:
        for part in waiting:
            await put(*part)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    async with pool.acquire() as connection:
        await remember(connection, days, per_day)
        await partitions.index_closed_days(connection)
        await connection.execute("vacuum analyze collector.events")
    await pool.close()


async def remember(connection: asyncpg.Connection, days: list[date], per_day: int) -> None:
    """The ids of all rows in `seen`, and the counter behind them."""
    row = await connection.fetchrow("select last, history from collector.sequence")
    assert row["last"] == 0
    history, last = row["history"], 0
    for number, day in enumerate(days):
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        found = []
        for first in range(number * per_day + 1, (number + 1) * per_day + 1, SEEN_ROWS):
            ids = ids_of(first, min(first + SEEN_ROWS - 1, (number + 1) * per_day))
            history = history_of(history, ids)
            last = first + len(ids) // ID_BYTES - 1
            found.append((first, len(ids) // ID_BYTES, at, history, ids))
        await connection.copy_records_to_table(
            "seen",
            schema_name="collector",
            records=found,
            columns=("first_seq", "events", "stored_at", "history", "ids"),
        )
    await connection.execute("update collector.sequence set last = $1, history = $2", last, history)


def backlogs(directory: Path, rounds: int, seconds: float) -> list[tuple[Path, int]]:
    """Journals that nobody has stored, and how many events each holds."""
    found = []
    for number in range(rounds):
        data = directory / f"backlog{number}"
        with collector(data, NOWHERE, STORE_DRAIN_SECONDS="0") as process:
            events = load(process.port, "batch", connections=8, seconds=seconds)["events"]
        found.append((data / "journal", events))
    return found


def drained(data: Path, journal: Path, events: int) -> tuple[float, float]:
    """Events a second that the collector of *data* stores of this backlog, and µs of processors
    that each takes, Postgres' included.
    """
    shutil.rmtree(data / "journal")
    (data / "cursor.json").unlink(missing_ok=True)  # it was that of another journal
    shutil.copytree(journal, data / "journal")
    os.sync()
    with collector(data) as process:
        began = wait_for(process, 1)
        first, used = stored(process), family_cpu_seconds(process.pid)
        rate = (events - first) / (wait_for(process, events) - began)
        return rate, (family_cpu_seconds(process.pid) - used) / (events - first) * 1e6


def measure(millions: float, rounds: int, seconds: float) -> Row:
    """The road's rate on top of so many rows against that of the first ones."""
    with tempfile.TemporaryDirectory(prefix="cb") as name:
        directory = Path(name)
        rows = min(int(millions * MILLION), shutil.disk_usage(directory).free // 2 // BYTES_PER_ROW)
        waiting = backlogs(directory, rounds, seconds)
        small, large = directory / "small", directory / "large"
        with collector(small) as process:
            process.wait_until_stored()
        with collector(large) as process:
            process.wait_until_stored()
            began = time.perf_counter()
            asyncio.run(fill(process.embedded_dsn(), rows))
            took = time.perf_counter() - began
        at_first, on_top, cpu = [], [], []
        for number, (journal, events) in enumerate(waiting):
            here = {}
            for data in (small, large) if number % 2 == 0 else (large, small):
                here[data] = drained(data, journal, events)
            at_first.append(here[small][0])
            on_top.append(here[large][0])
            cpu.append(here[large][1] / here[small][1])
            print(json.dumps([here[small], here[large]]), file=sys.stderr, flush=True)
    return {
        "what": f"draining on top of {rows / MILLION:g} million rows of {DAYS} days, events/s",
        "limit": "the same into an empty Postgres",
        "ours": median(on_top),
        "bare": median(at_first),
        "ratio": median([top / first for top, first in zip(on_top, at_first, strict=True)]),
        "rows": rows,
        "fill_seconds": took,
        "events_per_round": sum(events for _, events in waiting) / rounds,
        "processor_time_of_an_event": median(cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load for each backlog")
    given = parser.parse_args()
    print(json.dumps(measure(given.millions, given.rounds, given.seconds)))


if __name__ == "__main__":
    main()
