"""
Orphans: the processes that a killed collector, or a killed postmaster, left at work on our data.

    postmaster   told to stop: SIGINT, then SIGQUIT, then SIGKILL; it ends its children
    backends     without a postmaster: SIGQUIT, then SIGKILL; as in a crash, no commit is lost

A process is one of them when it is a postgres whose working directory is the data directory. What
a pid file says is never enough: its number may belong to anybody by now.
"""

import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from collector.store.programs import digest

log = logging.getLogger(__name__)

PROC = Path("/proc")
QUIT_SECONDS = 5.0
LOOK_SECONDS = 0.05

Pause = Callable[[float], None]


def mark(data: Path) -> str:
    """The name of the cluster in *data*, on its postmaster's command line for all to read."""
    facts = data.stat()
    return f"collector-{digest(facts.st_dev, facts.st_ino)}"


class Orphans:
    """Those of the data directory *data*, whose server listens in *socket*."""

    def __init__(self, data: Path, socket: Path) -> None:
        self._data = data
        self._socket = socket

    def end(self, stop_seconds: float, pause: Pause) -> None:
        """End them and clear away their files. *pause* sleeps, and may raise to break off."""
        if not PROC.is_dir():
            return  # no way to know: Postgres refuses to start twice, and is asked again
        pid = self.pid_in_file()
        if pid < 0 and self.at_work(-pid):
            return  # somebody repairs it in single-user mode; Postgres refuses until that is over
        stopping = (signal.SIGINT, stop_seconds)
        dying = ((signal.SIGQUIT, QUIT_SECONDS), (signal.SIGKILL, QUIT_SECONDS))
        if self.at_work(pid):
            self.tell([pid], pause, stopping, *dying)
        # A backend in the middle of a long query does not notice that its postmaster was killed,
        # and as long as it lives Postgres rightly refuses to start.
        self.tell(self.left(), pause, *dying)
        if not self.left():
            self.clear()

    def tell(self, pids: list[int], pause: Pause, *orders: tuple[signal.Signals, float]) -> None:
        for order, seconds in orders:
            deadline = time.monotonic() + seconds
            for pid in filter(self.at_work, pids):
                log.warning("Ending a Postgres that was left behind: pid=%d %s", pid, order.name)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, order)
            while any(map(self.at_work, pids)) and time.monotonic() < deadline:
                pause(LOOK_SECONDS)

    def clear(self) -> None:
        """Remove pid and socket files of an earlier postmaster; nobody serves this directory.

        Postgres takes any living process of its user for another postmaster. A pid file that names
        a dead one stays: Postgres sees that itself, and finds in it what shared memory to free.
        """
        pid_file = self._data / "postmaster.pid"
        pid = abs(self.pid_in_file())
        if pid_file.exists() and (pid == 0 or (PROC / str(pid)).exists()):
            log.warning("Removing a postmaster.pid that is not true any more: pid=%d", pid)
            pid_file.unlink()
        for leftover in self._socket.iterdir():
            leftover.unlink()

    def left(self) -> list[int]:
        """Every process that serves this directory."""
        return [pid for entry in PROC.glob("[0-9]*") if self.at_work(pid := int(entry.name))]

    def pid_in_file(self) -> int:
        """What the pid file names, negative in single-user mode; 0 if there is none, or nothing."""
        try:
            first = (self._data / "postmaster.pid").read_bytes().partition(b"\n")[0]
        except FileNotFoundError:
            return 0
        return int(first) if re.fullmatch(rb"-?[0-9]{1,9}", first) else 0

    def at_work(self, pid: int) -> bool:
        """Whether process *pid* is a postgres, or a child of one, at work in this directory."""
        process = PROC / str(pid)
        try:
            if (process / "comm").read_bytes() != b"postgres\n":
                return False
            try:
                return os.path.samestat((process / "cwd").stat(), self._data.stat())
            except PermissionError:  # root without CAP_SYS_PTRACE, as in a container
                return mark(self._data).encode() in (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False  # it is gone, or a zombie
