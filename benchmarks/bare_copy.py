"""Bare COPY: what Postgres alone can do with the rows that the collector stored."""

import io
import time

import asyncpg

from collector.store.partitions import OPEN_DAY, names
from collector.store.rows import COLUMNS, HEADER, TRAILER

BATCH_ROWS = 2_500


async def bare_copy(connection: asyncpg.Connection, rows_max: int) -> float:
    """Rows a second of COPY in transactions of BATCH_ROWS rows, into a copy of `events`."""
    await connection.execute("drop schema if exists bare cascade; create schema bare")
    await connection.execute(
        "create table bare.events (like collector.events) partition by range (received_at)"
    )
    await connection.execute("create index on bare.events (seq)")
    await connection.execute("create table bare.events_default partition of bare.events default")
    for name in await names(connection, "events"):
        day = f"{name[-8:-4]}-{name[-4:-2]}-{name[-2:]}"
        await connection.execute(
            f"create table bare.{name} partition of bare.events "
            f"for values from ('{day} 00:00+00') to ('{day} 24:00+00')"
        )
        for index, definition in OPEN_DAY:
            await connection.execute(f"create index {name}_{index} on bare.{name} {definition}")
    columns = ", ".join(COLUMNS)
    batches = []
    rows = 0
    while rows < rows_max:
        file = io.BytesIO()
        done = await connection.copy_from_query(
            f"select {columns} from collector.events where seq > $1 order by seq limit $2",
            rows,
            BATCH_ROWS,
            output=file,
            format="binary",
        )
        count = int(done.split()[1])
        if not count:
            break
        rows += count
        batches.append(file.getvalue())
        assert batches[-1].startswith(HEADER[:11])
        assert batches[-1].endswith(TRAILER)
    began = time.perf_counter()
    for batch in batches:
        async with connection.transaction():
            await connection.copy_to_table(
                "events",
                schema_name="bare",
                columns=COLUMNS,
                source=io.BytesIO(batch),
                format="binary",
            )
    took = time.perf_counter() - began
    await connection.execute("drop schema bare cascade")
    return rows / took
