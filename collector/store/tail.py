"""
Tail: reads events back, in the order of seq, for those that send them on.

Couriers that are caught up share one read: the newest events are kept for a moment, so that ten of
them cost Postgres what one does. A courier that is behind reads for itself, and so does a replay.
What Postgres cannot give back (a page that is damaged) is told apart from its neighbours: what is
read is halved until it is alone.

Units    bytes of rows as Postgres sent them; seconds.
Errors   Unreachable while Postgres is away; the caller waits and asks again. BadRequest for an
         operator's condition that fails, or takes too long.
"""

import asyncio
import bisect
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg

from collector.store import reader, rows
from collector.store.line import Line
from collector.store.postgres import Connection, Postgres, says
from collector.store.selection import Selection, clause
from collector.store.stored import EPOCH, StoredEvent

RECENT_EVENTS = 10_000  # kept for those who are caught up
RECENT_BYTES = 8_000_000
THESE_DAYS = timedelta(days=1)
ODD_SECONDS = 60.0  # for which newest events are looked for everywhere
READ_BYTES = 4_000_000
PIECE_EVENTS = 250  # rows that Postgres is asked for at once: round trips cost more than rows
FIRST_EVENTS = 16  # as long as nobody knows how large they are
SPAN = 50_000  # of seq that one query of a replay looks at
EPOCH_2000 = 946_684_800_000_000

_COLUMNS = ", ".join(f"e.{name}" for name in rows.COLUMNS)
Condition = tuple[str, Sequence[object]]  # and its arguments, from $3 on
EVERYTHING: Condition = ("true", ())
# SQLSTATE classes of data that cannot be given back: data exception, limits, damage.
_UNREADABLE = frozenset({"22", "54", "XX"})
_DAMAGED = frozenset({"XX"})  # the others may come of an operator's condition


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
        self._searches = Line(postgres, prepare=set_codecs)  # may take long, and hold up nobody
        self.last_seq = 0  # the newest event that we know of
        self._grown = asyncio.Event()
        self._recent: list[StoredEvent] = []
        self._numbers: list[int] = []  # their seq
        self._from = 0  # what is recent lies beyond this
        self._to = 0  # and up to this
        self._reading = asyncio.Lock()
        self._clock_is_odd_until = 0.0  # events are stored that were received days ago

    async def close(self) -> None:
        """Let go of the connections."""
        await self._line.close()
        await self._searches.close()

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
        where = bool(selection.where)
        return await self._searches.do(self._select, after, until, events_max, condition, where)

    async def _select(
        self,
        connection: Connection,
        after: int,
        until: int,
        events_max: int,
        condition: Condition,
        where: bool,  # whether an operator has written part of the condition
    ) -> Chunk:
        if not where:
            return await self._fetch(connection, after, until, events_max, condition)
        async with reader.blaming(), reader.reading(connection):
            return await self._fetch(connection, after, until, events_max, condition, _DAMAGED)

    # --- inside ------------------------------------------------------------------------------

    async def _fetch(
        self,
        connection: Connection,
        after: int,
        until: int,
        events_max: int,
        condition: Condition = EVERYTHING,
        unreadable: frozenset[str] = _UNREADABLE,
    ) -> Chunk:
        """What lies between *after* and *until*, or the first part of it."""
        while True:
            events: list[StoredEvent] = []
            try:
                whole = await self._stream(connection, after, until, events_max, condition, events)
            except asyncpg.PostgresError as exc:
                if connection.is_closed() or (exc.sqlstate or "")[:2] not in unreadable:
                    raise
                if not events and until == after + 1:
                    return Chunk([], until, [Unreadable(until, says(exc))])
                if not events:
                    until = after + (until - after) // 2
                    continue
                whole = False
            return Chunk(events, until if whole else events[-1].seq)

    async def _stream(
        self,
        connection: Connection,
        after: int,
        until: int,
        events_max: int,
        condition: Condition,
        events: list[StoredEvent],
    ) -> bool:
        """
        Add to *events* piece by piece, and say whether that is all there is.

        A piece is no larger than what is still to come, so that a chunk of large events takes no
        more memory than one of small ones.
        """
        sql, arguments = condition
        query = (
            f"select {_COLUMNS} from collector.events e "
            f"where e.seq > $1 and e.seq <= $2 and ({sql}) order by e.seq limit {events_max}"
        )
        few = min(events_max, until - after) <= FIRST_EVENTS
        if few and not connection.is_in_transaction():  # which an unreadable row would abort
            # One piece anyway, as when couriers keep up: one round trip instead of five.
            rows = await connection.fetch(query, after, until, *arguments)
            events += [StoredEvent(*row) for row in rows]
            return len(rows) < events_max
        size, wanted = 0, FIRST_EVENTS
        async with connection.transaction(readonly=True):
            # Sorting would read all there is beyond $1 for the first thousand.
            await connection.execute("set local enable_sort = off")
            cursor = await connection.cursor(query, after, until, *arguments)
            while len(events) < events_max and size < READ_BYTES:
                wanted = min(wanted, events_max - len(events))
                piece = await cursor.fetch(wanted)
                for row in piece:
                    event = StoredEvent(*row)
                    events.append(event)
                    size += event.size
                if len(piece) < wanted:
                    return True
                mean = size // len(events) + 1
                wanted = max(1, min(PIECE_EVENTS, (READ_BYTES - size) // mean))
        return False
