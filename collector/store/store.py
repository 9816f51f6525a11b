"""
Store: from the journal to Postgres, for as long as the collector runs.

    connect → migrate → partitions → where were we? → batch after batch
        └────────── on any trouble: wait, and from the start again ──────────┘

Postgres may be away at the start, or at any time; ingest does not notice. After every error the
cursor is read again, because only Postgres knows what was committed.

Errors   ConfigError from `start` (the embedded directory) ends the collector. A schema that is
         newer than we are does not: it is logged, shown by `status`, and tried again, because
         what is acknowledged is safe in the journal meanwhile.
"""

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from collector import metrics
from collector.errors import ConfigError, Unreachable
from collector.journal import Journal
from collector.refine import Limits
from collector.store.accounts import Books
from collector.store.dedupe import SeenIndex
from collector.store.embedded import EmbeddedPostgres, dsn_of
from collector.store.feeder import Batch, Feeder, Prepared
from collector.store.maintenance import Maintenance
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.postgres import Connection, Postgres, close, is_poison, says
from collector.store.settings import StoreSettings
from collector.store.writer import Rewound, Writer, bisect

log = logging.getLogger(__name__)

PAUSE_SECONDS_MIN = 0.1
PAUSE_SECONDS_MAX = 5.0
IDLE_SECONDS = 5.0  # without a batch, then Postgres is asked whether it is there
STRIKES_MAX = 3  # connections that one batch may kill before it is taken apart

# What Postgres or the way to it may do to us; all else is a defect.
TROUBLE = (
    Unreachable,
    ConfigError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    UnicodeError,
)


class Store:
    """Stores what the journal holds. `start` returns at once; everything else happens behind it."""

    def __init__(
        self, settings: StoreSettings, data_dir: Path, journal: Journal, limits: Limits
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._limits = limits
        self._embedded: EmbeddedPostgres | None = None
        dsn = settings.dsn
        if not dsn:
            self._embedded = EmbeddedPostgres(data_dir / "postgres", settings.embedded)
            dsn = dsn_of(data_dir / "postgres")
        self._postgres = Postgres(dsn)
        self._index = SeenIndex(data_dir / "dedupe", settings.dedupe)
        self.books = Books(journal)
        self.position = 0  # the cursor, as far as we know
        self.trouble: str | None = None  # why nothing is stored now
        self.last_seq = 0
        self._oldest = 0  # when the oldest frame that waits was appended
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = asyncio.Event()
        self._strikes = 0
        self._suspect: int | None = None  # where the batch begins that ended connections
        self._epoch: int | None = None  # of the journal's row, once this process has opened it

    # --- start and stop --------------------------------------------------------------------

    async def start(self) -> None:
        """Begin. ConfigError if the embedded Postgres' directory cannot be used."""
        if self._embedded is not None:
            await self._embedded.start()
        await asyncio.to_thread(self._index.open)
        maintenance = Maintenance(self._postgres, self._settings, self._index)
        self._tasks = [
            asyncio.create_task(self._run(), name="store"),
            asyncio.create_task(maintenance.run(), name="maintenance"),
        ]

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is stored, or for *seconds*; say whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.position < self._journal.end:
                    self._progress.clear()
                    await self._progress.wait()
        return self.position >= self._journal.end

    async def stop(self) -> None:
        """End every task, then the embedded Postgres."""
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("The store ended with an error", exc_info=result)
        await asyncio.to_thread(self._index.close)
        if self._embedded is not None:
            await self._embedded.stop()

    def failed(self) -> BaseException | None:
        """The defect that ended a task of the store, if one did."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    # --- facts -----------------------------------------------------------------------------

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest frame that is not stored; 0 when all are."""
        if self.position >= self._journal.end:
            return 0.0
        return max(0.0, time.time() - self._oldest / 1e6) if self._oldest else 0.0

    def facts(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "up": self.trouble is None,
            "trouble": self.trouble,
            "embedded": self._embedded is not None,
            "pooled": self._postgres.pooled,
            "position": self.position,
            "last_seq": self.last_seq,
            "oldest_seconds": round(self.oldest_seconds, 3),
            "seen_ids": self._index.count,
            "dedupe_memory_bytes": self._index.memory_bytes,
            "sources": self.books.table(),
        }

    # --- the road --------------------------------------------------------------------------

    async def _run(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except TROUBLE as exc:
                self._troubled(exc)
            except Rewound as exc:
                log.info("The cursor moved; going on from where it is: %s", exc)
            except Exception as exc:
                # A defect of ours. Ingest goes on and the journal keeps: so do we.
                log.exception("The store failed inside the collector")
                self._troubled(exc)
            if time.monotonic() - began > 2 * PAUSE_SECONDS_MAX:
                pause = PAUSE_SECONDS_MIN
            # Spread out: many collectors must not come back in the same moment.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    def _troubled(self, error: BaseException) -> None:
        metrics.postgres_up.set(0)
        reason = error.detail if isinstance(error, Unreachable | ConfigError) else says(error)
        kind = getattr(error, "sqlstate", None) or type(error).__name__
        metrics.store_errors.labels(kind[:40]).inc()
        if self.trouble != reason:
            log.warning("Postgres does not store now; events wait in the journal: %s", reason)
        self.trouble = reason

    async def _session(self) -> None:
        """One connection, for as long as it lasts."""
        if self._embedded is not None:
            await self._embedded.ready()
        loop = asyncio.get_running_loop()
        connection = await self._postgres.connect()
        feeder: Feeder | None = None
        try:
            async with asyncio.timeout(None) as limit:
                await migrate(connection)
                await make_ahead(connection)
                position = await self._resume(connection)
                writer = Writer(
                    connection,
                    self._journal.id,
                    self._epoch or 0,
                    self._index,
                    pooled=self._postgres.pooled,
                )
                await self._catch_up(connection, writer)
                await self.books.load(connection, position)
                self._arrived(position)
                if self.trouble is not None:
                    log.info("Postgres stores again")
                self.trouble = None
                metrics.postgres_up.set(1)
                feeder = self._feeder(position)
                while True:
                    limit.reschedule(None)
                    batch = await feeder.next(IDLE_SECONDS)
                    limit.reschedule(loop.time() + self._settings.batch_seconds_max)
                    if batch is None:
                        await connection.execute("select 1")  # so that we know while idle, too
                        continue
                    self._oldest = batch.oldest
                    await self._store(connection, writer, batch)
        finally:
            if feeder is not None:
                await feeder.stop()
            await close(connection)

    def _feeder(self, position: int) -> Feeder:
        settings = self._settings
        return Feeder(
            self._journal,
            self._limits,
            position,
            events_max=settings.batch_events_max,
            bytes_max=settings.batch_bytes_max,
            linger_seconds=settings.linger_seconds,
        )

    async def _catch_up(self, connection: Connection, writer: Writer) -> None:
        """Take in most of what others stored before the lock is held for it."""
        row = await connection.fetchrow("select last, history from collector.sequence")
        if row is not None:
            await writer.catch_up(row["last"], row["history"])
            self.last_seq = row["last"]

    async def _store(self, connection: Connection, writer: Writer, batch: Batch) -> None:
        """Store one batch, its poison taken out of it if there is any."""
        poison: list[tuple[Prepared, str]] = []
        if self._strikes >= STRIKES_MAX and self._suspect == batch.expected:
            poison = await self._find_killers(batch.events)
        try:
            stored = await writer.store(batch, poison)
        except Rewound as exc:
            if exc.position != batch.end:
                raise
            # The COMMIT that we were in doubt about had landed.
            await self.books.load(connection, batch.end)
            self._arrived(batch.end)
            return
        except (asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeError) as exc:
            if not is_poison(exc):
                self._strike(batch, connection)
                raise
            metrics.store_errors.labels("poison").inc()
            log.warning("A batch holds what Postgres will never take: %s", says(exc))
            poison += await writer.find_poison(batch.events)
            stored = await writer.store(batch, poison)
        except (OSError, TimeoutError):
            self._strike(batch, connection)
            raise
        self._suspect, self._strikes = None, 0
        self.last_seq = stored.last_seq
        self.books.add(stored.books, batch.totals)
        if batch.lost_frames:
            metrics.journal_lost_frames.inc(batch.lost_frames)
            log.error(
                "Frames of the journal could not be read back",
                extra={"frames": batch.lost_frames, "events": batch.lost.total()},
            )
        self._arrived(batch.end)

    def _arrived(self, position: int) -> None:
        self.position = position
        self._journal.forget(position)
        metrics.seen_ids.set(self._index.count)
        self._progress.set()

    # --- where were we? --------------------------------------------------------------------

    async def _resume(self, connection: Connection) -> int:
        """The position behind which to read, and a row for this journal if there is none."""
        journal = self._journal
        row = await connection.fetchrow(
            "select position, epoch from collector.journals where id = $1", journal.id
        )
        if row is None:
            return await self._begin(connection)
        position, epoch = int(row["position"]), int(row["epoch"])
        first = self._epoch is None
        if (first and position > journal.end_at_open) or (self._epoch is not None and epoch > self._epoch):
            # These positions were given out by another copy of this directory, before or beside
            # us: what we had when we opened it is stored, what came since must not count as it.
            base = journal.end_at_open if first else self.position
            log.error(
                "The cursor is not ours: the journal's directory was replaced by an older copy, "
                "or two collectors use copies of it; this journal goes on under a new identity",
                extra={"cursor": position, "journal_end": base},
            )
            metrics.journal_anomalies.labels("cursor_beyond_end").inc()
            await journal.renew(base)
            return await self._begin(connection)
        if position < journal.oldest - 1:
            log.error(
                "The cursor is before the journal's oldest frame: Postgres was restored from a "
                "backup that is older than what the journal keeps; the gap is lost",
                extra={"cursor": position, "oldest": journal.oldest},
            )
            metrics.journal_anomalies.labels("cursor_before_oldest").inc()
        elif position < self.position:
            log.warning("The cursor went back; kept frames are read again")
            metrics.journal_anomalies.labels("cursor_rewound").inc()
        self._epoch = epoch + 1 if first else max(epoch, self._epoch or 0)
        if self._epoch != epoch:
            await connection.execute(
                "update collector.journals set epoch = $2, opened_at = now(), host = $3 "
                "where id = $1",
                journal.id,
                self._epoch,
                socket.gethostname(),
            )
        return position

    async def _begin(self, connection: Connection) -> int:
        """Make the row of a journal that this Postgres does not know yet."""
        journal = self._journal
        start = max(journal.base, journal.oldest - 1)
        baseline = await journal.totals_at(start)
        await connection.execute(
            "insert into collector.journals (id, position, epoch, baseline, host) "
            "values ($1, $2, 1, $3, $4)",
            journal.id,
            start,
            msgspec.json.encode(baseline).decode(),
            socket.gethostname(),
        )
        self._epoch = 1
        log.info("A journal begins in this Postgres", extra={"journal": journal.id})
        return start

    # --- batches that kill -----------------------------------------------------------------

    def _strike(self, batch: Batch, connection: Connection) -> None:
        """Count a connection that ended in the middle of *batch*."""
        if connection.is_closed():
            self._strikes = self._strikes + 1 if self._suspect == batch.expected else 1
            self._suspect = batch.expected

    async def _find_killers(self, events: Sequence[Prepared]) -> list[tuple[Prepared, str]]:
        """Which of *events* end the connection while Postgres is there; each try has its own."""
        log.warning("A batch ended its connection again and again; looking for the cause")

        async def refused(part: Sequence[Prepared]) -> str | None:
            connection = await self._postgres.connect()
            try:
                await Writer(connection, self._journal.id, 0, self._index).probe(part)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeError) as exc:
                if is_poison(exc):
                    return says(exc)
                if not connection.is_closed():
                    raise
                await self._ask()
                return f"it ends the connection: {says(exc)}"
            finally:
                await close(connection)
            return None

        return await bisect(events, refused)

    async def _ask(self) -> None:
        """Raise unless Postgres answers."""
        connection = await self._postgres.connect()
        try:
            await connection.execute("select 1")
        finally:
            await close(connection)
