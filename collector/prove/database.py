"""
Database: what is stored, asked over SQL as anybody could.

Every event of ours has a `seq` above the one that was the newest when we began, so nothing older
is ever read, however large the table is: `seq` is dense, has an index, and is the order in which
events were committed. While sending, new rows are counted; in the end all of them are read, one by
one, in one snapshot.

Units    events; seconds on time.monotonic's clock.
Errors   CollectorError if Postgres cannot be asked; while sending that only means: not now.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from collector.errors import CollectorError
from collector.prove.ledger import Ids, Ledger
from collector.store.postgres import CLIENT_ERRORS, Connection, Postgres, close, says, within

ASK_SECONDS = 0.25
ANSWER_SECONDS = 5.0
READ_SECONDS = 600.0
COUNT_ROWS = 20_000
READ_ROWS = 10_000
TRIES_MAX = 5
TRY_SECONDS = 2.0
TROUBLE = (*CLIENT_ERRORS, OSError)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found when everything was read."""

    rows: int
    stored: int  # ids, each counted once
    unasked: int  # of them, those whose acknowledgement never arrived
    lost: Ids  # acknowledged, and not there
    twice: Ids
    disordered: Ids  # stored after a later one of the same sender
    altered: Ids  # not what was sent under this id
    unknown: Ids  # of this run, and never sent
    rejected: Ids  # in rejected_events, though nothing is wrong with them
    reasons: Counter[str]  # why those are there
    seq_breaks: int  # places where seq is not one more than before
    seq_missing: int  # by how much the counter is ahead of the newest event
    books: dict[str, int]  # what the accounting of our own collector's journal says, by outcome


class Database:
    """The Postgres that a collector stores in."""

    def __init__(self, dsn: str, ledger: Ledger) -> None:
        self._postgres = Postgres(dsn)
        self._ledger = ledger
        self._pattern = ledger.prefix + "%"
        self._counted_to = 0
        self._began_when = 0.0  # on Postgres' clock
        self.began_at = 0  # the newest seq then
        self.stored = 0  # rows of ours, as far as they were counted
        self.asked_at = 0.0  # when that was so

    async def begin(self, *, needed: bool) -> int:
        """Find out where we begin, which is how many events there were; CollectorError if it
        *needed* to be a collector's database and is none."""
        async with self._connected() as connection:
            if await connection.fetchval("select to_regclass('collector.events')") is None:
                if needed:
                    raise CollectorError("no_events", "this database has no table collector.events")
                return 0
            last, when = await connection.fetchrow(
                "select last, extract(epoch from now())::float8 from collector.sequence"
            )
            self.began_at = self._counted_to = last
            self._began_when = when
            return self.began_at

    async def watch(self) -> None:
        """Count what is stored, again and again, whatever happens to Postgres."""
        while True:
            with contextlib.suppress(CollectorError):
                async with self._connected() as connection:
                    while True:
                        await within(connection, ANSWER_SECONDS, self._count(connection))
                        await asyncio.sleep(ASK_SECONDS)
            await asyncio.sleep(ASK_SECONDS)

    async def _count(self, connection: Connection) -> None:
        asked_at = time.monotonic()
        last = await connection.fetchval("select last from collector.sequence")
        stored = self.stored
        while self._counted_to < last:
            until = min(last, self._counted_to + COUNT_ROWS)
            stored += await connection.fetchval(
                "select count(*) from collector.events "
                "where seq > $1 and seq <= $2 and message_id like $3",
                self._counted_to,
                until,
                self._pattern,
            )
            self._counted_to = until
            self.stored = stored
        self.asked_at = asked_at

    async def reconcile(self, journal: str | None = None) -> Found:
        """Read everything, compare it with the ledger, and look up the books of *journal*."""
        tries = 0
        while True:
            tries += 1
            try:
                async with self._connected() as connection:
                    reading = self._reconcile(connection, journal)
                    return await within(connection, READ_SECONDS, reading)
            except CollectorError:
                if tries == TRIES_MAX:
                    raise
            await asyncio.sleep(TRY_SECONDS)

    async def _reconcile(self, connection: Connection, journal: str | None) -> Found:
        ledger = self._ledger
        ledger.forget_stored()
        rows = 0
        disordered, altered, unknown = Ids(), Ids(), Ids()
        newest: dict[str, int] = {}
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            async for message_id, user_id, number in connection.cursor(
                "select message_id, user_id, properties->>'number' from collector.events "
                "where seq > $1 and message_id like $2 order by seq",
                self.began_at,
                self._pattern,
                prefetch=READ_ROWS,
            ):
                rows += 1
                known = ledger.number_of(message_id)
                if known is None:
                    unknown.add(message_id)
                    continue
                if user_id != ledger.user_of(known) or number != str(known):
                    altered.add(message_id)
                if ledger.found(known) and known < newest.get(user_id, -1):
                    disordered.add(message_id)
                newest[user_id] = max(known, newest.get(user_id, -1))
            rejected, reasons = Ids(), Counter[str]()
            async for message_id, reason in connection.cursor(
                "select message_id, reason from collector.rejected_events "
                "where rejected_at >= to_timestamp($1) and message_id like $2 order by id",
                self._began_when,
                self._pattern,
                prefetch=READ_ROWS,
            ):
                rejected.add(message_id)
                reasons[reason] += 1
            seq = await connection.fetchrow(
                "select coalesce(max(seq), $1) as newest, count(*) filter (where step <> 1) as "
                "breaks, (select last from collector.sequence) as counted from (select seq, "
                "seq - lag(seq, 1, $1) over (order by seq) as step from collector.events "
                "where seq > $1) as steps",
                self.began_at,
            )
            books = await connection.fetch(
                "select outcome, sum(events)::bigint as events from collector.accounting "
                "where journal = $1 group by outcome",
                journal,
            )
        return Found(
            rows=rows,
            stored=ledger.stored(),
            unasked=ledger.unasked(),
            lost=ledger.lost(),
            twice=ledger.twice(),
            disordered=disordered,
            altered=altered,
            unknown=unknown,
            rejected=rejected,
            reasons=reasons,
            seq_breaks=seq["breaks"],
            seq_missing=seq["counted"] - seq["newest"],
            books={row["outcome"]: row["events"] for row in books},
        )

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        connection = await self._postgres.connect()
        try:
            yield connection
        except TROUBLE as exc:
            detail = f"Postgres cannot be asked what is stored: {says(exc)}"
            raise CollectorError("postgres_trouble", detail) from exc
        finally:
            await close(connection)
