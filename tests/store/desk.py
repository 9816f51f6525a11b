"""Rows as the writer and the couriers leave them, put into the tables by hand."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from collector.store.postgres import Connection

RECEIVED = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


async def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    arguments = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await connection.execute(
        f"insert into collector.{table} ({', '.join(row)}) values ({arguments})", *row.values()
    )


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
    await insert(connection, "events", row)
    await connection.execute("update collector.sequence set last = greatest(last, $1)", seq)


async def add_courier(connection: Connection, destination: str, **members: Any) -> None:
    """A destination that has been running since the first event."""
    row = {"destination": destination, "type": "webhook", "first_seq": 1, "position": 0, **members}
    await insert(connection, "couriers", row)


async def add_counts(
    connection: Connection, destination: str, replay: int = 0, **counts: int
) -> None:
    """How many: `delivered=3, skipped__consent=2`."""
    for key, events in counts.items():
        outcome, _, reason = key.partition("__")
        row = {"destination": destination, "replay": replay, "outcome": outcome}
        await insert(connection, "delivery_counts", row | {"reason": reason, "events": events})


async def add_log(
    connection: Connection,
    destination: str,
    outcome: str,
    seqs: Iterable[int],
    *,
    replay: int = 0,
    reason: str = "",
    attempts: int = 1,
) -> None:
    """What became of *seqs*, in one row."""
    ranges = "{" + ",".join(f"[{seq},{seq}]" for seq in seqs) + "}"
    await connection.execute(
        "insert into collector.delivery_log "
        "(destination, replay, outcome, reason, attempts, span, seqs) values ($1, $2, $3, $4, $5, "
        "range_merge($6::text::int8multirange), $6::text::int8multirange)",
        *(destination, replay, outcome, reason, attempts, ranges),
    )


async def add_waiting(connection: Connection, destination: str, seq: int, **members: Any) -> None:
    """An event that was tried and waits."""
    row = {"destination": destination, "seq": seq, "last_seq": seq, "state": "waiting", **members}
    await insert(connection, "deliveries", row)


async def add_letter(connection: Connection, destination: str, seq: int, **members: Any) -> None:
    """A dead letter."""
    row = {
        "destination": destination,
        "seq": seq,
        "message_id": f"m{seq}",
        "type": "track",
        "event": "Order Completed",
        "source": "shop",
        "received_at": RECEIVED,
        "reason": "invalid_email",
        "detail": "the vendor says no",
        "attempts": 1,
        **members,
    }
    await insert(connection, "dead_letters", row)
