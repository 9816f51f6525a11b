"""
Store: from the journal to Postgres, for as long as the collector runs.

    connect → migrate → partitions → where were we? → batch after batch
        └────────── on any trouble: wait, and from the start again ──────────┘

Postgres may be away at the start, or at any time; ingest does not notice. After every error the
cursor is read again (cursor.py), because only Postgres knows what was committed.

Errors   ConfigError from `start` (the embedded directory) ends the collector. A schema that is
         newer than we are does not: it is logged, shown by `status`, and tried again, because
         what is acknowledged is safe in the journal meanwhile.
"""

import asyncio
import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from collector import metrics
from collector.errors import CollectorError, ConfigError, JournalError, Unreachable
from collector.journal import Journal
from collector.refine import Limits
from collector.store.accounts import Books
from collector.store.cursor import Cursor
from collector.store.dedupe import SeenIndex
from collector.store.embedded import EmbeddedPostgres, dsn_of
from collector.store.feeder import Batch, Feeder
from collector.store.maintenance import Maintenance
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.portions import Prepared
from collector.store.postgres import (
    CLIENT_ERRORS,
    Connection,
    Postgres,
    close,
    is_poison,
    says,
    within,
)
from collector.store.reader import admit
from collector.store.refiner import Refiner
from collector.store.settings import StoreSettings
from collector.store.warehouse import PUBLISH_SECONDS, Publisher
from collector.store.writer import ENDS, Rewound, Writer, bisect

log = logging.getLogger(__name__)

PAUSE_SECONDS_MIN = 0.1
PAUSE_SECONDS_MAX = 5.0
IDLE_SECONDS = 5.0  # without a batch, then Postgres is asked whether it is there
STRIKES_MAX = 3  # connections that one batch, or event, may kill before it is looked into
ANSWER_SECONDS = 60.0  # for Postgres to come back after an event ended a connection

# What Postgres, the way to it or the journal's disk may do to us; all else is a defect.
TROUBLE = (
    Unreachable,
    ConfigError,
    JournalError,
    *CLIENT_ERRORS,
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
        # On one core it would only be in the way.
        cores = len(os.sched_getaffinity(0))
        self._refiner = Refiner(limits) if settings.refine_processes and cores > 1 else None
        self._embedded: EmbeddedPostgres | None = None
        dsn = settings.dsn
        if not dsn:
            self._embedded = EmbeddedPostgres(data_dir / "postgres", settings.embedded)
            dsn = dsn_of(data_dir / "postgres")
        self.postgres = Postgres(dsn)
        self._index = SeenIndex(data_dir / "dedupe", settings.dedupe)
        self._publisher = Publisher()
        self._cursor = Cursor(journal, data_dir / "cursor.json")
        self.books = Books(journal)
        self.position = 0  # the cursor, as far as we know
        self.up = False  # whether Postgres took the last thing we wanted of it
        self.trouble: str | None = None  # why nothing is stored now
        self.last_seq = 0
        self.listener: Callable[[int], None] | None = None  # told the number of the newest event
        self._oldest = 0.0  # when the oldest frame that waits was appended
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = asyncio.Event()
        self._strikes = 0
        self._suspect: int | None = None  # where the batch begins that ended connections
        self._pause = PAUSE_SECONDS_MIN

    # --- start and stop --------------------------------------------------------------------

    async def start(self) -> None:
        """Begin. ConfigError if the embedded Postgres' directory cannot be used."""
        if self._embedded is not None:
            await self._embedded.start()
        await asyncio.to_thread(self._index.open)
        maintenance = Maintenance(self.postgres, self._settings, self._index)
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
        if self._refiner is not None:
            await self._refiner.close()
        await self._cursor.close(self.position)
        if self._embedded is not None:
            await self._embedded.stop()

    # --- facts -----------------------------------------------------------------------------

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest frame that is not stored; 0 when all are. To be asked now and then."""
        if self.position >= self._journal.end:
            return 0.0
        now = time.time()
        if not self._oldest:
            self._oldest = now  # until a batch says it, the time when it was first asked
        return max(0.0, now - self._oldest)

    def facts(self) -> dict[str, Any]:
        """What `status` shows."""
        return {
            "up": self.up,
            "trouble": self.trouble,
            "embedded": self._embedded is not None,
            "pooled": self.postgres.pooled,
            "position": self.position,
            "last_seq": self.last_seq,
            "oldest_seconds": round(self.oldest_seconds, 3),
            "seen_ids": self._index.count,
            "refiner_pid": None if self._refiner is None else self._refiner.pid,
            "dedupe_memory_bytes": self._index.memory_bytes,
            "sources": self.books.table(),
        }

    # --- the road --------------------------------------------------------------------------

    async def _run(self) -> None:
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
                self._pause = PAUSE_SECONDS_MIN
            # Spread out: many collectors must not come back in the same moment.
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311
            self._pause = min(self._pause * 2, PAUSE_SECONDS_MAX)

    def _troubled(self, error: BaseException) -> None:
        journal = isinstance(error, JournalError)
        if not journal:
            self.up = False
            metrics.postgres_up.set(0)
        if isinstance(error, CollectorError):
            kind, reason = error.code, error.detail
        else:
            kind, reason = getattr(error, "sqlstate", None) or type(error).__name__, says(error)
        metrics.store_errors.labels(kind[:40]).inc()
        if self.trouble != reason:
            sentence = (
                "The journal cannot be read now; nothing is stored meanwhile: %s"
                if journal
                else "Postgres does not store now; events wait in the journal: %s"
            )
            log.warning(sentence, reason)
        self.trouble = reason

    def _works(self) -> None:
        """Postgres took a batch, or answers while there is none."""
        if self.trouble is not None:
            log.info("Postgres stores again")
        self.up, self.trouble = True, None
        metrics.postgres_up.set(1)

    async def _session(self) -> None:
        """One connection, for as long as it lasts."""
        if self._embedded is not None:
            await self._embedded.ready()
        seconds = self._settings.batch_seconds_max
        connection = await self.postgres.connect()
        feeder: Feeder | None = None
        try:
            await within(connection, None, migrate(connection))
            await within(connection, seconds, admit(connection))
            await within(connection, None, make_ahead_if_possible(connection))
            await within(connection, PUBLISH_SECONDS, self._publisher.publish(connection))
            position = await within(
                connection, seconds, self._cursor.open(connection, self.position)
            )
            writer = Writer(
                connection,
                self._journal.id,
                self._cursor.epoch,
                self._index,
                pooled=self.postgres.pooled,
            )
            await within(connection, None, self._catch_up(connection, writer))
            await within(connection, seconds, self.books.load(connection, position))
            self._arrived(position)
            if position >= self._journal.end:
                self._works()
            feeder = self._feeder(position)
            while True:
                batch = await feeder.next(IDLE_SECONDS)
                if batch is None:
                    # So that we know while idle, too.
                    await within(connection, seconds, connection.execute("select 1"))
                    self._works()
                    continue
                self._oldest = batch.oldest / 1e6
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
            refiner=self._refiner,
        )

    async def _catch_up(self, connection: Connection, writer: Writer) -> None:
        """Take in most of what others stored before the lock is held for it."""
        row = await connection.fetchrow("select last, history from collector.sequence")
        if row is not None:
            await writer.catch_up(row["last"], row["history"])
            self.last_seq = row["last"]

    async def _store(self, connection: Connection, writer: Writer, batch: Batch) -> None:
        """Store one batch, its poison taken out of it if there is any."""
        seconds = self._settings.batch_seconds_max
        poison: list[tuple[Prepared, str]] = []
        if self._strikes >= STRIKES_MAX and self._suspect == batch.expected:
            poison = await self._find_killers(batch.events)
        try:
            try:
                stored = await within(connection, seconds, writer.store(batch, poison))
            except (asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeError) as exc:
                if not is_poison(exc):
                    raise
                metrics.store_errors.labels("poison").inc()
                log.warning("A batch holds what Postgres will never take: %s", says(exc))
                poison += await self._find_poison(connection, writer, batch.events, poison)
                stored = await within(connection, seconds, writer.store(batch, poison))
        except (*CLIENT_ERRORS, OSError):
            self._strike(batch, connection)
            raise
        self._suspect, self._strikes = None, 0
        self._pause = PAUSE_SECONDS_MIN
        self.last_seq = stored.last_seq
        if self.listener is not None:
            self.listener(stored.last_seq)
        self.books.add(stored.books, batch.totals)
        self._works()
        if batch.lost_frames:
            metrics.journal_lost_frames.inc(batch.lost_frames)
            log.error(
                "Frames of the journal could not be read back",
                extra={"frames": batch.lost_frames, "events": batch.lost.total()},
            )
        self._arrived(batch.end)

    def _arrived(self, position: int) -> None:
        self.position = position
        self._oldest = 0.0
        self._journal.forget(position)
        metrics.seen_ids.set(self._index.count)
        self._progress.set()

    # --- batches that cannot be stored -----------------------------------------------------

    async def _find_poison(
        self,
        connection: Connection,
        writer: Writer,
        events: Sequence[Prepared],
        known: Sequence[tuple[Prepared, str]],
    ) -> list[tuple[Prepared, str]]:
        """Which of *events* Postgres refuses, besides those that are *known*, and why."""
        seconds = self._settings.batch_seconds_max
        bad = {id(prepared) for prepared, _ in known}

        async def refused(part: Sequence[Prepared]) -> str | None:
            return await within(connection, seconds, writer.refuses(part))

        return await bisect([p for p in events if id(p) not in bad], refused)

    def _strike(self, batch: Batch, connection: Connection) -> None:
        """Count a connection that ended in the middle of *batch*."""
        if connection.is_closed():
            self._strikes = self._strikes + 1 if self._suspect == batch.expected else 1
            self._suspect = batch.expected

    async def _find_killers(self, events: Sequence[Prepared]) -> list[tuple[Prepared, str]]:
        """Which of *events* end the connection while Postgres is there; each try has its own."""
        log.warning("A batch ended its connection again and again; looking for the cause")

        async def refused(part: Sequence[Prepared]) -> str | None:
            why = None
            # It may as well have been restarted: one event is tried again before it is blamed.
            for _ in range(STRIKES_MAX if len(part) == 1 else 1):
                why = await self._ended_by(part)
                if why is None:
                    break
            return why

        return await bisect(events, refused)

    async def _ended_by(self, events: Sequence[Prepared]) -> str | None:
        """What is said if the connection ends when it takes *events*, and Postgres lives on."""
        connection = await self.postgres.connect()
        try:
            writer = Writer(connection, self._journal.id, 0, self._index)
            await within(connection, self._settings.batch_seconds_max, writer.probe(events))
        except (*CLIENT_ERRORS, OSError, UnicodeError) as exc:
            if is_poison(exc):
                return says(exc)
            if not connection.is_closed():
                raise
            await self._answers()
            return f"{ENDS}: {says(exc)}"
        finally:
            await close(connection)
        return None

    async def _answers(self) -> None:
        """Return when Postgres answers: an event that crashes it all keeps it away for a while."""
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            connection: Connection | None = None
            try:
                connection = await self.postgres.connect()
                await within(connection, ANSWER_SECONDS, connection.execute("select 1"))
                return
            except TROUBLE:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(PAUSE_SECONDS_MIN)
            finally:
                await close(connection)


async def make_ahead_if_possible(connection: Connection) -> None:
    """Make partitions ahead; without them the default one takes what comes, until maintenance."""
    try:
        await make_ahead(connection)
    except asyncpg.PostgresError as exc:
        if connection.is_closed():
            raise
        log.warning("Partitions cannot be made now: %s", says(exc))
