"""
Refiner: a process of our own that refines while there is much to do.

Refining is more than half of what an event costs us, and one interpreter uses one core. Under a
heavy load it is done in a process beside us (refining.py), and the event loop is left to senders
and to Postgres; under a light one the process ends, and an idle collector is as small as before.

Nothing depends on it. It is given records and gives back a portion; if it is killed, hangs or
cannot be started, the feeder makes the same portion itself, in the same place of the order. It is
then left alone for a while. A stream of answers that broke off is never used again, or the late
answer to one task might be taken for that to another.

Units    seconds.
Errors   none: `portion` returns None for what the feeder is to do itself.
"""

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from collector.journal import Record
from collector.refine import Limits
from collector.store.portions import Portion
from collector.store.refining import decode_portion, encode_task, receive, send

log = logging.getLogger(__name__)

BUSY_EVENTS = 2_000  # within WINDOW_SECONDS: from then on it pays
CALM_EVENTS = 500  # and below this it does not any more
WINDOW_SECONDS = 1.0
CALM_SECONDS = 30.0  # it must have been calm for so long
ANSWER_SECONDS = 10.0  # for 1 MB of the journal, which takes 10 ms
RETRY_SECONDS = 60.0  # after it failed
SOCKET_BYTES = 1 << 20
KEPT_BYTES = 16 << 20  # by the process' allocator, between two tasks
COMMAND = [sys.executable, "-m", "collector.store.refining"]
# Nothing else of our environment, which may hold secrets.
ENVIRONMENT = {
    "PATH": os.defpath,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    # Messages of 1 MB come and go: glibc would ask the kernel for each, and for each page of it.
    "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES),
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME")


class Refiner:
    """The process and its state. One caller at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # What starts the process must live as long as it does: see PR_SET_PDEATHSIG.
        self._thread = ThreadPoolExecutor(1, "refiner")
        self._starting: asyncio.Future[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._window = time.monotonic()  # when it began
        self._events = 0  # in it
        self._busy = False
        self._calm_since = 0.0
        self._retry_at = 0.0
        self._watch: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process, if it runs."""
        process = self._process
        return process.pid if process is not None else None

    async def portion(self, records: Sequence[Record]) -> Portion | None:
        """What *records* come to, or None if it is not worth it or cannot be done."""
        self._measure(sum(record.events for record in records))
        if not records or not self._busy or time.monotonic() < self._retry_at:
            return None
        loop = asyncio.get_running_loop()
        if self._watch is None or self._watch.done():
            self._watch = loop.create_task(self._end_when_calm(), name="refiner")
        if self._starting is None:
            self._starting = loop.run_in_executor(self._thread, self._start)
        if not self._starting.done():
            return None
        try:
            self._starting.result()
            return await loop.run_in_executor(self._thread, self._ask, records)
        except (OSError, EOFError, msgspec.MsgspecError) as exc:
            log.warning(
                "The refining process failed; its work is done without it for a while: %s",
                str(exc) or repr(exc),
            )
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._starting = None
            return None

    async def close(self) -> None:
        """End the process."""
        if self._watch is not None:
            self._watch.cancel()
        if (process := self._process) is not None:
            process.kill()  # so that nobody waits for an answer
        await self._stop()
        self._thread.shutdown()

    # --- when ------------------------------------------------------------------------------

    def _measure(self, events: int) -> None:
        now = time.monotonic()
        if now - self._window > WINDOW_SECONDS:
            if self._events < CALM_EVENTS:
                self._calm_since = self._calm_since or self._window
            self._window, self._events = now, 0
        self._events += events
        if self._events >= BUSY_EVENTS:
            self._busy = True
        if self._events >= CALM_EVENTS:
            self._calm_since = 0.0

    async def _end_when_calm(self) -> None:
        while self._busy:
            await asyncio.sleep(WINDOW_SECONDS)
            self._measure(0)
            if self._calm_since and time.monotonic() - self._calm_since > CALM_SECONDS:
                self._busy = False
        await self._stop()

    async def _stop(self) -> None:
        starting, self._starting = self._starting, None
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)
        if starting is not None:  # ended while it started: nobody else asks how that went
            await asyncio.gather(starting, return_exceptions=True)

    # --- the process; all that follows is done in the thread -------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._socket = ours
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            # A blocking socket with the kernel's time limit: Python's own would make it poll.
            seconds = struct.pack("@ll", int(ANSWER_SECONDS), 0)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
            try:
                self._process = subprocess.Popen(  # noqa: S603  the command is ours
                    COMMAND,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C in our terminal is for us
                    env=ENVIRONMENT | {n: os.environ[n] for n in INHERITED if n in os.environ},
                )
            except BaseException:
                self._end()
                raise
        self._receive()  # it says that it is up

    def _ask(self, records: Sequence[Record]) -> Portion | None:
        if self._socket is None:
            raise EOFError("it has ended")
        task = encode_task((self._limits, records))
        try:
            send(self._socket, task)
        except BaseException:
            self._end()
            raise
        data = self._receive()
        if not data:
            return None  # one of these records needs a closer look
        portion = decode_portion(data)
        assert portion.last == records[-1].position
        return portion

    def _receive(self) -> bytearray:
        assert self._socket is not None
        try:
            data = receive(self._socket)
            if data is None:
                raise EOFError("it has ended")
        except BaseException:
            self._end()
            raise
        return data

    def _end(self) -> None:
        process, self._process = self._process, None
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
