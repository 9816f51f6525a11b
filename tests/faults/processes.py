"""Processes as the kernel has them: who is whose child, what they take, and how to end them."""

import os
import signal
from pathlib import Path

from tests.process import CollectorProcess


def postmaster(process: CollectorProcess) -> int:
    """The embedded Postgres of *process*; 0 while there is none."""
    try:
        file = process.data_dir / "postgres" / "data" / "postmaster.pid"
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """A process and its children; nothing if there is none."""
    return [pid, *children(pid)] if pid else []


def kill(pid: int) -> bool:
    """Whether there was something to kill."""
    try:
        if pid:
            os.kill(pid, signal.SIGKILL)
        return bool(pid)
    except ProcessLookupError:
        return False


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """What is resident now, or with VmHWM at most ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name} of process {pid}")
