"""
Processes: signals to the embedded Postgres, and to nothing that has got its number since.

A process id out of a file may be anybody's by now. So a process is held first, then looked at, and
then signalled: Postgres works in its data directory, and whoever does not is left alone.

Errors   none: a process that has ended is not there.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def postmaster(data: Path) -> int | None:
    """The process id of the Postgres that runs on *data*, if one does."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if pid > 0 and send(pid, 0, data) else None


def send(pid: int, number: int, data: Path) -> bool:
    """Signal *pid* if it is a process of the Postgres on *data*; say whether it is."""
    try:
        held = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return False
    try:
        if os.readlink(f"/proc/{pid}/cwd") != os.path.realpath(data):
            return False
        signal.pidfd_send_signal(held, number)
    except OSError:
        return False
    finally:
        os.close(held)
    return True


@contextlib.contextmanager
def paused(pid: int, data: Path) -> Iterator[None]:
    """Meanwhile the postmaster *pid* and all processes that it started stand still."""
    family = [pid]
    try:
        send(pid, signal.SIGSTOP, data)  # first: it starts no more
        family += _children(pid)
        for child in family[1:]:
            send(child, signal.SIGSTOP, data)
        yield
    finally:
        for member in reversed(family):
            send(member, signal.SIGCONT, data)


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # `pid (name) state parent …`, and a name may hold anything
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found
