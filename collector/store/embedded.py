"""
Embedded: our own supervisor for the Postgres that comes with the collector.

    start ─▶ take over an orphan ─▶ initdb, once ─▶ postgres ──ended──▶ wait, again, for ever
                                                       │ stop
                                                       └──▶ SIGINT, SIGQUIT, SIGKILL

One thread does it all in plain blocking code, so the loop never waits, not even for initdb or an
hour of recovery; ingest serves meanwhile and `ready` tells when to go on. The thread starts every
child and outlives it, because the kernel takes the end of that thread for our death.

    cluster.py      its directory: made once and whole, locked, of the right version
    orphans.py      processes that a killed collector left at work there
    programs.py     the binaries of the wheel, and the account they run as
    parameters.py   our settings, and what Postgres is told

Units    seconds; `running_since` in seconds since 1970.
Errors   ConfigError from `start`. What goes wrong later is logged, shown as `last_error`, and tried
         again after 0.2 s, then twice that, up to 10 s.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

import asyncpg

from collector.errors import ConfigError, Unreachable
from collector.store.cluster import (
    DATABASE,
    PORT,
    READER,
    ROLE,
    SUPERUSER,
    Cluster,
    socket_directory,
)
from collector.store.orphans import QUIT_SECONDS, Orphans, mark
from collector.store.parameters import EmbeddedSettings, parameters
from collector.store.postgres import CLIENT_ERRORS

log = logging.getLogger(__name__)

PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 10.0
STEADY_SECONDS = 60.0  # served that long, the next failure is a new one: begin with a short pause
HOUSEKEEPING_SECONDS = 60.0
REPEAT_SECONDS = 1.0
STOP_GRACE_SECONDS = 5.0
CONNECT_SECONDS = 10.0
ASK_SECONDS_MIN = 0.02
ASK_SECONDS_MAX = 1.0
ERROR_BYTES_MAX = 8192
ERROR_CHARACTERS_MAX = 400


# How a Postgres that is not there, or still recovers, turns its clients away.
NOT_YET = (FileNotFoundError, ConnectionRefusedError, asyncpg.CannotConnectNowError)
SAID = re.compile(r"FATAL|PANIC|ERROR|error:")
Ending = concurrent.futures.Future[None]


def dsn_of(directory: Path) -> str:
    """How to reach the Postgres in *directory*, for asyncpg, psql and pg_dump; it need not run.

    Raises ConfigError if somebody else sits where its socket would be.
    """
    host = quote(str(socket_directory(directory)), safe="/")
    return f"postgresql://{ROLE}@/{DATABASE}?host={host}&port={PORT}"


class Stopped(Exception):
    """Unwinds the supervisor's thread from wherever it is."""


class EmbeddedPostgres:
    """The Postgres in *directory*: kept running from `start` until `stop`."""

    def __init__(self, directory: Path, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._cluster = Cluster(directory)
        self._wake = threading.Event()  # set when there is something to look at
        self._stopping = False
        self._ended: concurrent.futures.Future[None] | None = None
        self.running = False  # whether a postmaster runs; only `ready` knows if it answers
        self.running_since: float | None = None  # time.time() when that postmaster was started
        self.starts = 0  # postmasters started by this object
        self.last_error = ""  # why the last one ended, or why there is none yet

    @property
    def dsn(self) -> str:
        """For the role and the database `collector`."""
        return dsn_of(self._cluster.directory)

    async def start(self) -> None:
        """Take the directory and begin. Raises ConfigError; does not wait for Postgres."""
        if self._ended is not None:
            raise RuntimeError("started twice")
        self._stopping = False
        self._ended = never_cancelled()
        opened = never_cancelled()
        threading.Thread(
            target=self._main, args=(opened, self._ended), name="embedded-postgres", daemon=True
        ).start()
        try:
            await asyncio.wrap_future(opened)
        except Exception:
            self._ended = None
            raise

    async def ready(self) -> None:
        """Return when Postgres answers a query, however long recovery takes.

        Raises Unreachable once it was stopped, since then it never will.
        """
        pause = ASK_SECONDS_MIN
        while True:
            if self._ended is None or self._ended.done():
                raise Unreachable(
                    "postgres_stopped", "the embedded Postgres is not running; start the collector"
                )
            # Until ours runs, an orphan may answer that is about to be ended.
            if self.running and await self._answers():
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, ASK_SECONDS_MAX)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.dsn, timeout=CONNECT_SECONDS)
            try:
                complete = await connection.fetchval(
                    "select exists (select from pg_roles where rolname = $1)",
                    READER,
                    timeout=CONNECT_SECONDS,
                )
            finally:
                await connection.close(timeout=CONNECT_SECONDS)
            if not complete:
                await self._complete()
            return True
        except NOT_YET:
            pass
        except (OSError, *CLIENT_ERRORS) as exc:
            self.last_error = f"it runs but does not answer: {exc}"[:ERROR_CHARACTERS_MAX]
        return False

    async def _complete(self) -> None:
        """Make the role that a cluster of an older release does not have."""
        try:
            connection = await asyncpg.connect(
                self.dsn, user=SUPERUSER, timeout=CONNECT_SECONDS, database=DATABASE
            )
            try:
                await connection.execute(
                    f"create role {READER}; grant {READER} to {ROLE}", timeout=CONNECT_SECONDS
                )
                log.info("The embedded Postgres got a role that can only read: %s", READER)
            finally:
                await connection.close(timeout=CONNECT_SECONDS)
        except (OSError, *CLIENT_ERRORS) as exc:
            # It is a second line of defence, and events are stored without it.
            log.warning("The role %s cannot be made: %s", READER, exc)

    async def stop(self) -> None:
        """End it in an orderly way, or within `stop_seconds` and a little in any way."""
        ended, self._stopping = self._ended, True
        self._wake.set()
        if ended is None:
            return
        patience = self._settings.stop_seconds + 2 * QUIT_SECONDS + STOP_GRACE_SECONDS
        _, late = await asyncio.wait({asyncio.wrap_future(ended)}, timeout=patience)
        if late:
            log.error("The embedded Postgres could not be ended; the next start will try again")
            return
        self._ended = None

    # From here on everything runs in the supervisor's thread.

    def _main(self, opened: Ending, ended: Ending) -> None:
        try:
            try:
                self._cluster.open(self._settings.user)
            except Exception as exc:  # noqa: BLE001  `start` raises it, whatever it is
                opened.set_exception(exc)
                return
            opened.set_result(None)
            self._supervise()
        except Stopped:
            pass
        finally:
            self._cluster.close()
            ended.set_result(None)

    def _supervise(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            began = time.monotonic()
            try:
                self._serve()
            except (OSError, ConfigError) as exc:
                self.last_error = str(exc)[:ERROR_CHARACTERS_MAX]
            if time.monotonic() - began > STEADY_SECONDS:
                pause = PAUSE_SECONDS_MIN
            log.warning(
                "The embedded Postgres is started again: pause_seconds=%.1f reason=%s",
                pause,
                self.last_error,
            )
            self._pause(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)

    def _serve(self) -> None:
        """From whatever is there to a running Postgres, and until it ends; then always an error."""
        cluster = self._cluster
        self._trim()
        if not cluster.exists:
            if self.starts:
                raise FileNotFoundError(f"{cluster.data} is gone; put it back")
            log.info("Making the data directory of the embedded Postgres: %s", cluster.data)
            cluster.create(self._finish)
        cluster.check()
        orphans = Orphans(cluster.data, cluster.socket)
        orphans.end(self._settings.stop_seconds, self._pause)
        options = [
            word
            for name, value in parameters(self._settings).items()
            for word in ("-c", f"{name}={value}")
        ]
        with (
            cluster.programs.reach(cluster.data, cluster.socket) as ((data, socket), fds),
            cluster.log_path.open("ab") as output,
        ):
            quoted = '"' + socket.replace('"', '""') + '"'
            where = ("-D", data, "-c", f"unix_socket_directories={quoted}")
            named = ("-c", f"cluster_name={mark(cluster.data)}")
            child = cluster.programs.launch(
                "postgres", *where, *named, *options, dying=signal.SIGINT, output=output, fds=fds
            )
        self.running, self.running_since = True, time.time()
        self.starts += 1
        log.info("The embedded Postgres was started: pid=%d", child.pid)
        try:
            self._wait(
                child,
                (signal.SIGINT, self._settings.stop_seconds),
                (signal.SIGQUIT, QUIT_SECONDS),
                (signal.SIGKILL, QUIT_SECONDS),
            )
        finally:
            self.running, self.running_since = False, None
        raise OSError(self._why(child))

    def _finish(self, child: subprocess.Popen[bytes]) -> None:
        """Wait for a program that should end by itself."""
        if self._wait(child, (signal.SIGKILL, QUIT_SECONDS)) != 0:
            raise OSError(self._why(child))

    def _wait(self, child: subprocess.Popen[bytes], *orders: tuple[signal.Signals, float]) -> int:
        """Wait for *child*. To stop it, send each signal of *orders* and give it its seconds."""
        threading.Thread(target=self._reap, args=(child,), daemon=True).start()
        while child.returncode is None and not self._stopping:
            self._look_again(HOUSEKEEPING_SECONDS)
        for order, seconds in orders:
            until = time.monotonic() + seconds
            while child.returncode is None and (left := until - time.monotonic()) > 0:
                # Again and again: as a child of a background job it ignores SIGINT in its first
                # moments, until Postgres has set its own handlers.
                send(child, order)
                self._look_again(min(left, REPEAT_SECONDS))
        if self._stopping:
            if child.returncode is None:
                log.error("A process cannot be ended and is left alone: pid=%d", child.pid)
            raise Stopped
        return child.returncode

    def _reap(self, child: subprocess.Popen[bytes]) -> None:
        child.wait()
        self._wake.set()

    def _look_again(self, seconds: float) -> None:
        """Return after *seconds*, or when something happened."""
        self._wake.wait(seconds)
        self._wake.clear()
        self._trim()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and (left := until - time.monotonic()) > 0:
            self._look_again(left)
        if self._stopping:
            raise Stopped

    def _trim(self) -> None:
        """Keep the log bounded. Postgres has it open for appending, so emptying it is enough."""
        path = self._cluster.log_path
        try:
            if path.exists() and path.stat().st_size > self._settings.log_bytes_max:
                shutil.copyfile(path, f"{path}.1")
                os.truncate(path, 0)
        except OSError as exc:
            log.warning("The log of the embedded Postgres cannot be trimmed: %s", exc)

    def _why(self, child: subprocess.Popen[bytes]) -> str:
        """How *child* ended and, if it had the time to say so, why."""
        if child.returncode < 0:
            return f"killed by signal {-child.returncode}"
        path = self._cluster.log_path
        with path.open("rb") as said:
            said.seek(max(0, path.stat().st_size - ERROR_BYTES_MAX))
            lines = said.read().decode("utf-8", "replace").splitlines()
        words = [
            line for line in lines if SAID.search(line) and "the database system is" not in line
        ]
        return f"exit status {child.returncode}: {words[-1] if words else f'see {path}'}"


def send(child: subprocess.Popen[bytes], order: signal.Signals) -> None:
    """Signal *child* and, with initdb, the programs that it runs; each child leads its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, order)


def never_cancelled() -> Ending:
    """A future that a thread can set, whatever became of those who wait for it."""
    future: Ending = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    return future
