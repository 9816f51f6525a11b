"""
Dedupe: what it costs to know every message id of millions, three ways, side by side.

    python -m benchmarks.dedupe --millions 20
    python -m benchmarks.dedupe --millions 200 --only index

    copy           ids into a table without any index: what writing them costs at the least
    unique_index   the same with a primary key on the id
    generations    a new table with a primary key for every million ids (without the look-ups in
                   the older ones, which come on top)
    index          ours: look-up in the collector's index, a row of `seen` in Postgres, and adding
                   to the index

Batches of 2,500 ids of analytics.js' form, a transaction each, on an embedded Postgres with nothing
else running. Rates are ids a second over single millions; `flat` is the last million to the first.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import uvloop

from collector.store.dedupe import DedupeSettings, SeenIndex
from collector.store.embedded import EmbeddedPostgres
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.seen import history_of, id_of
from collector.store.settings import StoreSettings

BATCH = 2_500
MILLION = 1_000_000

WAYS = ("copy", "unique_index", "generations", "index")

Take = Callable[[list[str]], Awaitable[None]]


def message_ids() -> list[str]:
    """One batch of ids that nobody has seen."""
    noise = os.urandom(16 * BATCH).hex()
    return [
        f"ajs-next-1763769756007-{noise[at : at + 8]}-{noise[at + 8 : at + 32]}"
        for at in range(0, 32 * BATCH, 32)
    ]


async def pace(take: Take, millions: int) -> list[float]:
    """Ids a second in each million."""
    rates = []
    for _ in range(millions):
        spent = 0.0
        for _ in range(MILLION // BATCH):
            ids = message_ids()
            began = time.perf_counter()
            await take(ids)
            spent += time.perf_counter() - began
        rates.append(MILLION / spent)
    return rates


async def copying(
    connection: asyncpg.Connection, table: str
) -> Callable[[list[str]], Awaitable[None]]:
    async def take(ids: list[str]) -> None:
        await connection.copy_records_to_table(table, records=[(id_,) for id_ in ids])

    return take


async def index(
    connection: asyncpg.Connection, directory: Path, millions: int
) -> dict[str, object]:
    """Ours, as the writer does it."""
    seen = SeenIndex(directory, DedupeSettings())
    seen.open()
    looking, candidates = 0.0, 0

    async def take(message_ids: list[str]) -> None:
        nonlocal looking, candidates
        began = time.perf_counter()
        ids = [id_of(message_id.encode()) for message_id in message_ids]
        candidates += len(seen.candidates(ids))
        looking += time.perf_counter() - began
        joined = b"".join(ids)
        async with connection.transaction():
            await connection.execute(
                "insert into collector.seen (first_seq, events, ids, history) "
                "values ($1, $2, $3, $4)",
                seen.last_seq + 1,
                len(ids),
                joined,
                history_of(seen.history, joined),
            )
        began = time.perf_counter()
        seen.add(seen.last_seq + 1, joined)
        looking += time.perf_counter() - began

    rates = await pace(take, millions)
    facts = {
        **summary(rates),
        "look_up_and_add_us": looking / (millions * MILLION) * 1e6,
        "false_candidates_per_id": candidates / (millions * MILLION),
        "memory_mb": seen.memory_bytes / 1e6,
    }
    seen.close()
    began = time.perf_counter()
    again = SeenIndex(directory, DedupeSettings())
    again.open()
    facts["reopen_seconds"] = time.perf_counter() - began
    facts["reopened_ids_millions"] = again.count / MILLION
    again.close()
    return facts


def summary(rates: list[float]) -> dict[str, object]:
    return {
        "first_million_per_second": rates[0],
        "last_million_per_second": rates[-1],
        "flat": rates[-1] / rates[0],
    }


async def generations(connection: asyncpg.Connection, millions: int) -> list[float]:
    rates = []
    for number in range(millions):
        await connection.execute(f"create table generation_{number} (id text primary key)")
        rates += await pace(await copying(connection, f"generation_{number}"), 1)
    return rates


async def connections(directory: Path) -> AsyncIterator[asyncpg.Connection]:
    """One connection to an embedded Postgres that lives as long."""
    server = EmbeddedPostgres(directory / "pg", StoreSettings().embedded)
    await server.start()
    await server.ready()
    connection = await asyncpg.connect(server.dsn)
    await migrate(connection)
    await make_ahead(connection)
    yield connection
    await connection.close()
    await server.stop()


async def measure(
    millions: int, directory: Path, only: str | None = None
) -> list[dict[str, object]]:
    """The figures of each way; *only* one of them if it is named."""
    results = []
    async for connection in connections(directory):
        for way in WAYS:
            if only not in {None, way}:
                continue
            if way == "copy":
                await connection.execute("create table plain (id text)")
                facts = summary(await pace(await copying(connection, "plain"), 1))
            elif way == "unique_index":
                await connection.execute("create table keyed (id text primary key)")
                facts = summary(await pace(await copying(connection, "keyed"), millions))
            elif way == "generations":
                facts = summary(await generations(connection, min(millions, 3)))
            else:
                facts = await index(connection, directory / "dedupe", millions)
            await connection.execute("drop table if exists plain, keyed")
            results.append({"way": way, "millions": millions, **facts})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=20)
    parser.add_argument("--only", choices=WAYS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cb") as directory:
        uvloop.run(measure(given.millions, Path(directory), given.only))


if __name__ == "__main__":
    main()
