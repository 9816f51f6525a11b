"""Rows as the writer and the engine leave them, put into the tables by hand."""

from datetime import UTC, datetime
from typing import Any

from collector.store.postgres import Connection

RECEIVED = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


async def add_event(connection: Connection, seq: int, **members: Any) -> None:
    """One stored event, `m<seq>` unless told otherwise."""
    row: dict[str, Any] = {
        "seq": seq,
        "received_at": RECEIVED,
        "timestamp": RECEIVED,
        "message_id": f"m{seq}",
        "type": "track",
        "event": "Order Completed",
        "source": "shop",
        **members,
    }
    arguments = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await connection.execute(
        f"insert into collector.events ({', '.join(row)}) values ({arguments})", *row.values()
    )
    await connection.execute("update collector.sequence set last = greatest(last, $1)", row["seq"])
