"""
App: builds every part from the config, and knows in which order they start and stop.

    start   journal → admin → ingest → store → destinations
            (ingest serves while Postgres is still starting)
    stop    ingest → store drained → destinations → store → admin → journal
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collector import __version__, metrics
from collector.admin import Admin, LinkMaker
from collector.config import Config
from collector.destinations.dispatch import Dispatch
from collector.destinations.route import Kind
from collector.ingest import Ingest
from collector.journal import FileJournal
from collector.refine import Limits
from collector.reload import Reloader
from collector.store import Store

log = logging.getLogger(__name__)

LAG_SECONDS = 0.1
LAG_WINDOW_SECONDS = 10.0
GARBAGE_THRESHOLDS = (10_000, 20, 50)  # Python's own are 700, 10, 10


class App:
    """One collector."""

    def __init__(self, config: Config, read: Callable[[], Config] | None = None) -> None:
        """*read* reads the settings again, when it is asked to (SIGHUP)."""
        self.config = config
        self._read = read
        self._reload = asyncio.Event()
        self.data_dir = Path(config.data_dir).absolute()
        self._accounts = metrics.Accounts()
        self._tasks: list[asyncio.Task[None]] = []
        self._started_at = time.time()
        self.journal: FileJournal
        self.ingest: Ingest
        self.reloader: Reloader
        self.store: Store
        self.dispatch: Dispatch
        self.admin: Admin

    async def start(self) -> None:
        """Start every part; returns when events are taken. ConfigError if one cannot start."""
        config = self.config
        self.journal = await FileJournal.open(self.data_dir / "journal", config.journal)
        if self.journal.torn_bytes:
            log.info(
                "The journal ends in a torn record, as a crash leaves it",
                extra={"bytes": self.journal.torn_bytes},
            )
        limits = Limits(config.ingest.id_bytes_max, config.ingest.name_bytes_max)
        self.store = Store(config.store, self.data_dir, self.journal, limits)
        kinds: dict[str, Kind] = {source.name: source.kind for source in config.sources}
        self.dispatch = Dispatch(
            config.destinations,
            self.store.postgres,
            kinds,
            stores=lambda: self.store.up,
            journal_id=self.journal.id,
            place=self.data_dir / "destinations.json",
        )
        self.store.listener = self.dispatch.stored
        self.dispatch.publish(self._accounts)
        self.ingest = Ingest(
            config.ingest, config.sources, self.journal, config.redirect, config.limits
        )
        self.reloader = Reloader(self._read, config, self.ingest, kinds)
        self.admin = Admin(
            config.admin,
            self.journal.check_room,
            self.status,
            self.store.postgres.connect,
            LinkMaker(self.ingest.links, self.ingest.sources),
        )
        self.store.books.publish(self._accounts)
        metrics.REGISTRY.register(self._accounts)
        metrics.build_info.info({"version": __version__})
        try:
            await self.admin.start()
            await self.ingest.start()
            await self.store.start()
            await self.dispatch.start()
        except BaseException:
            await self.stop(drain_seconds=0)
            raise
        self._tasks = [
            asyncio.create_task(self._watch_lag(), name="lag"),
            asyncio.create_task(self._watch_journal(), name="watch"),
            asyncio.create_task(self.reloader.serve(self._reload), name="reload"),
        ]
        # What lives as long as the process need not be looked at by the collector of garbage. Nor
        # need the thousands of events that couriers hold, each time a few hundred objects are new:
        # that took half of a courier's time, and the loop stood still meanwhile.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)

    async def stop(self, *, drain_seconds: float | None = None) -> None:
        """Stop taking events, store what is in the journal within bounds, let go of everything."""
        await self.ingest.stop()
        seconds = self.config.store.drain_seconds if drain_seconds is None else drain_seconds
        if seconds and not await self.store.drain(seconds):
            log.info("Events stay in the journal and are stored at the next start")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.dispatch.stop()
        await self.store.stop()
        await self.admin.stop()
        await self.journal.close()
        metrics.REGISTRY.unregister(self._accounts)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then stop in order; SIGHUP reads the settings again."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        at_terminal = os.isatty(0)

        def hang_up() -> None:
            """Reload; or end, if it was the terminal that hung up."""
            (ended if at_terminal and not os.isatty(0) else self._reload).set()

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        await self.start()
        log.info(
            "The collector takes events",
            extra={"port": self.ingest.port, "admin_port": self.admin.port},
        )
        await ended.wait()
        log.info("The collector stops")
        await self.stop()

    # --- facts -----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The state of every part, as `collector status` shows it."""
        journal = self.journal
        return {
            "version": __version__,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "journal": {
                "id": journal.id,
                "end": journal.end,
                "bytes": journal.bytes,
                "bytes_max": journal.bytes_max(),
                "trouble": journal.trouble,
                "torn_bytes": journal.torn_bytes,
            },
            "store": self.store.facts(),
            "destinations": self.dispatch.facts(),
            "config": self.reloader.facts(),
            "anomalies": {
                sample.labels["kind"]: int(sample.value)
                for family in metrics.journal_anomalies.collect()
                for sample in family.samples
                if sample.name.endswith("_total")
            },
        }

    async def _watch_journal(self) -> None:
        """Keep the gauges of the journal current, and its files within their time."""
        while True:
            journal = self.journal
            metrics.journal_bytes.set(journal.bytes)
            metrics.journal_bytes_max.set(journal.bytes_max())
            metrics.journal_oldest_seconds.set(self.store.oldest_seconds)
            metrics.journal_commits.set(journal.commits)
            metrics.journal_writable.set(0 if journal.trouble else 1)
            await asyncio.sleep(1.0)

    async def _watch_lag(self) -> None:
        """Measure how long a task that is ready waits for its turn."""
        loop = asyncio.get_running_loop()
        longest, since = 0.0, loop.time()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            now = loop.time()
            longest = max(longest, now - due)
            if now - since >= LAG_WINDOW_SECONDS:
                metrics.loop_lag_seconds.set(longest)
                longest, since = 0.0, now
