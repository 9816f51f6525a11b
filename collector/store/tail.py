"""
Tail: reads events back, in the order of seq, for those that send them on.

Couriers that are caught up share one read: the newest events are kept for a moment, so that ten of
them cost Postgres what one does. A courier that is behind reads for itself, and so does a replay.
What Postgres cannot give back (a page that is damaged) is told apart from its neighbours.

Units    bytes of rows as Postgres sent them; seconds.
Errors   Unreachable while Postgres is away; the caller waits and asks again.
"""

import asyncio
import bisect
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from collector.store import rows
from collector.store.line import Line
from collector.store.postgres import Connection, Postgres, says
from collector.store.selection import Selection, clause
from collector.store.stored import EPOCH, StoredEvent

RECENT_EVENTS = 10_000  # kept for those who are caught up
RECENT_BYTES = 8_000_000
THESE_DAYS = timedelta(days=1)
ODD_SECONDS = 60.0  # for which newest events are looked for everywhere
READ_BYTES = 4_000_000
PIECE_EVENTS = 100
SPAN = 50_000  # of seq that one query of a replay looks at
WHERE_SECONDS = 30.0  # for an operator's condition on such a span
READER = "collector_reader"
EPOCH_2000 = 946_684_800_000_000

_COLUMNS = ", ".join(f"e.{name}" for name in rows.COLUMNS)
# SQLSTATE classes of data that cannot be given back: data exception, limits, damage.
_UNREADABLE = {"22", "54", "XX"}


class Unreadable(NamedTuple):
    """An event that Postgres has and cannot give back."""

    seq: int
    detail: str


class Chunk(NamedTuple):
    """What lies between two numbers: every event up to *read_to* that was asked for."""

    events: Sequence[StoredEvent]
    read_to: int
    unreadable: Sequence[Unreadable] = ()


async def set_codecs(connection: Connection) -> None:
    """Have times as microseconds since 1970 and JSON as its text in bytes."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        format="tuple",
        encoder=lambda at: (_microseconds(at) - EPOCH_2000,),
        decoder=lambda value: value[0] + EPOCH_2000,
    )
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda text: b"\1" + text,
        decoder=lambda value: value[1:],
    )


def _microseconds(at: datetime | int) -> int:
    return at if isinstance(at, int) else (at - EPOCH) // timedelta(microseconds=1)


class Tail:
    """Reads what was stored."""

    def __init__(self, postgres: Postgres) -> None:
        self._line = Line(postgres, prepare=set_codecs)
        self.last_seq = 0  # the newest event that we know of
        self._grown = asyncio.Event()
        self._recent: list[StoredEvent] = []
        self._numbers: list[int] = []  # their seq
        self._from = 0  # what is recent lies beyond this
        self._to = 0  # and up to this
        self._reading = asyncio.Lock()
        self._clock_is_odd_until = 0.0  # events are stored that were received days ago

    async def close(self) -> None:
        """Let go of the connection."""
        await self._line.close()

    def stored(self, last_seq: int) -> None:
        """Events up to *last_seq* are in Postgres."""
        if last_seq > self.last_seq:
            self.last_seq = last_seq
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()

    async def grown(self, after: int) -> None:
        """Wait until there is an event beyond *after*."""
        while self.last_seq <= after:
            await self._grown.wait()

    # --- live --------------------------------------------------------------------------------

    async def read(self, after: int, events_max: int) -> Chunk:
        """The next events beyond *after*, as soon as there are any."""
        await self.grown(after)
        if self.last_seq - after > RECENT_EVENTS:
            return await self._line.do(self._fetch, after, self.last_seq, events_max)
        while not self._from <= after < self._to:
            async with self._reading:
                if self._from <= after < self._to:
                    break  # another courier has read it meanwhile
                if after < self._from:
                    return await self._line.do(self._fetch, after, self.last_seq, events_max)
                chunk = await self._line.do(self._newest, after, self.last_seq)
                if chunk.unreadable:
                    return chunk
                self._keep(after, chunk)
        start = bisect.bisect_right(self._numbers, after)
        events = self._recent[start : start + events_max]
        whole = start + len(events) == len(self._recent)
        return Chunk(events, self._to if whole else events[-1].seq)

    async def _newest(self, connection: Connection, after: int, until: int) -> Chunk:
        """
        The newest events beyond *after*; as a rule they are of these days.

        To look only there saves Postgres from opening a year of partitions for each read. Numbers
        are dense, so one that is missing tells that it has to look everywhere.
        """
        if self._clock_is_odd_until < time.monotonic():
            these_days = (datetime.now(UTC) - THESE_DAYS,)
            chunk = await self._fetch(
                connection, after, until, RECENT_EVENTS, ("e.received_at > $3", these_days)
            )
            if len(chunk.events) + len(chunk.unreadable) == chunk.read_to - after:
                return chunk
            self._clock_is_odd_until = time.monotonic() + ODD_SECONDS
        return await self._fetch(connection, after, until, RECENT_EVENTS)

    def _keep(self, after: int, chunk: Chunk) -> None:
        if after != self._to:
            self._recent, self._numbers, self._from = [], [], after
        self._recent += chunk.events
        self._numbers += [event.seq for event in chunk.events]
        self._to = chunk.read_to
        size = 0
        for index in range(len(self._recent) - 1, -1, -1):
            size += self._recent[index].size
            if size > RECENT_BYTES or len(self._recent) - index > RECENT_EVENTS:
                self._from = self._numbers[index]
                del self._recent[: index + 1], self._numbers[: index + 1]
                break

    # --- replays -----------------------------------------------------------------------------

    async def select(
        self, after: int, until: int, selection: Selection, replay: int, events_max: int
    ) -> Chunk:
        """The next of the events of *replay*, beyond *after* and up to *until*."""
        until = min(until, after + SPAN)
        condition = clause(selection, 3, replay)
        return await self._line.do(self._select, after, until, events_max, condition, selection)

    async def _select(
        self,
        connection: Connection,
        after: int,
        until: int,
        events_max: int,
        condition: tuple[str, list[object]],
        selection: Selection,
    ) -> Chunk:
        if not selection.where:
            return await self._fetch(connection, after, until, events_max, condition)
        async with connection.transaction(readonly=True):
            await connection.execute(f"set local statement_timeout = {WHERE_SECONDS * 1000:.0f}")
            if await may_become_reader(connection):
                await connection.execute(f"set local role {READER}")
            return await self._fetch(connection, after, until, events_max, condition)

    # --- inside ------------------------------------------------------------------------------

    async def _fetch(
        self,
        connection: Connection,
        after: int,
        until: int,
        events_max: int,
        selected: tuple[str, Sequence[object]] = ("true", ()),
    ) -> Chunk:
        """Read piece by piece, so that a chunk of large events is no larger in memory."""
        condition, arguments = selected
        query = (
            f"select {_COLUMNS} from collector.events e "
            f"where e.seq > $1 and e.seq <= $2 and ({condition}) order by e.seq limit {events_max}"
        )
        events: list[StoredEvent] = []
        size = 0
        try:
            async with connection.transaction(readonly=True):
                # Sorting would read all there is beyond $1 for the first thousand.
                await connection.execute("set local enable_sort = off")
                cursor = await connection.cursor(query, after, until, *arguments)
                while len(events) < events_max and size < READ_BYTES:
                    wanted = min(PIECE_EVENTS, events_max - len(events))
                    piece = await cursor.fetch(wanted)
                    for row in piece:
                        event = StoredEvent(*row)
                        events.append(event)
                        size += event.size
                    if len(piece) < wanted:
                        return Chunk(events, until)
        except asyncpg.PostgresError as exc:
            if connection.is_closed() or (exc.sqlstate or "")[:2] not in _UNREADABLE:
                raise
            if events:
                return Chunk(events, events[-1].seq)
            return await self._one_by_one(connection, after, until, condition, arguments)
        return Chunk(events, events[-1].seq)

    async def _one_by_one(
        self,
        connection: Connection,
        after: int,
        until: int,
        condition: str,
        arguments: Sequence[Any],
    ) -> Chunk:
        """The next few events, each read by itself, because one of them cannot be."""
        numbers = await connection.fetch(
            "select e.seq from collector.events e "
            f"where e.seq > $1 and e.seq <= $2 and ({condition}) "
            f"order by e.seq limit {PIECE_EVENTS}",
            after,
            until,
            *arguments,
        )
        events: list[StoredEvent] = []
        unreadable: list[Unreadable] = []
        for number in numbers:
            try:
                row = await connection.fetchrow(
                    f"select {_COLUMNS} from collector.events e where e.seq = $1", number["seq"]
                )
            except asyncpg.PostgresError as exc:
                if connection.is_closed() or (exc.sqlstate or "")[:2] not in _UNREADABLE:
                    raise
                unreadable.append(Unreadable(number["seq"], says(exc)))
            else:
                if row is not None:
                    events.append(StoredEvent(*row))
        whole = len(numbers) < PIECE_EVENTS
        return Chunk(events, until if whole else numbers[-1]["seq"], unreadable)


async def may_become_reader(connection: Connection) -> bool:
    """Whether there is a role that can only read, and we may take it on."""
    may: bool = await connection.fetchval(
        "select coalesce((select pg_has_role(current_user, oid, 'member') from pg_roles "
        "where rolname = $1), false)",
        READER,
    )
    return may
