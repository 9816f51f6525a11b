"""
Events: single stored events, looked up by number or by message id.

A closed day finds an id by its B-tree; of the open day the Bloom filters leave a few blocks to be
read, and of the default partition everything is.

Errors   none of its own.
"""

from collections.abc import Sequence

from collector.store import rows
from collector.store.postgres import Connection
from collector.store.stored import StoredEvent

FOUND_MAX = 20  # events with one id: it is unique within the dedupe window only

# Microseconds and text, whatever codecs the connection has.
_TIMES = frozenset(rows.COLUMNS[1:5])
_JSON = frozenset(rows.COLUMNS[15:])
_COLUMNS = ", ".join(
    f"(extract(epoch from e.{name}) * 1000000)::bigint"
    if name in _TIMES
    else f"convert_to(e.{name}::text, 'UTF8')"
    if name in _JSON
    else f"e.{name}"
    for name in rows.COLUMNS
)


async def event_at(connection: Connection, seq: int) -> StoredEvent | None:
    """The event with this number, unless its day is past the retention."""
    row = await connection.fetchrow(
        f"select {_COLUMNS} from collector.events e where e.seq = $1", seq
    )
    return StoredEvent(*row) if row is not None else None


async def events_with(connection: Connection, message_id: str) -> Sequence[StoredEvent]:
    """The events with this id, oldest first."""
    found = await connection.fetch(
        f"select {_COLUMNS} from collector.events e where e.message_id = $1 "
        f"order by e.seq limit {FOUND_MAX}",
        message_id,
    )
    return [StoredEvent(*row) for row in found]


async def newest_of(
    connection: Connection, type_: str, event: str | None = None
) -> StoredEvent | None:
    """The newest event of a type, or None if there is none among the newest of all."""
    row = await connection.fetchrow(
        f"select {_COLUMNS} from (select * from collector.events order by seq desc limit 20000) e "
        "where e.type = $1 and ($2::text is null or e.event = $2) order by e.seq desc limit 1",
        type_,
        event,
    )
    return StoredEvent(*row) if row is not None else None
