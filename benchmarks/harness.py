"""Harness: the programs that are measured, started and ended; load from a process of its own."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.process import CollectorProcess, free_port

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # a store that is away: ingest alone is measured
CORES = sorted(os.sched_getaffinity(0))


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where there are several."""
    if len(CORES) > 1:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), {CORES[core % len(CORES)]})


def load(
    port: int,
    kind: str,
    *,
    connections: int,
    seconds: float,
    rate: float = 0.0,
    core: int | None = 1,
) -> dict[str, Any]:
    """What benchmarks.load prints."""
    command = [
        sys.executable, "-m", "benchmarks.load", "--port", str(port), "--kind", kind,
        "--connections", str(connections), "--seconds", str(seconds), "--rate", str(rate),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if core is not None:
            pin(process.pid, core)
        shown, _ = process.communicate(timeout=seconds + 90)
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(shown)
    return result


@contextlib.contextmanager
def collector(directory: Path, dsn: str = "", **settings: str) -> Iterator[CollectorProcess]:
    """A running collector; with a Postgres of its own unless *dsn* names one."""
    process = CollectorProcess(directory, dsn, **settings).start()
    try:
        yield process
    finally:
        process.stop()


@contextlib.contextmanager
def bare_server() -> Iterator[int]:
    """The port of aiohttp's own server with handlers that do nothing."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.bare", str(port)]) as process:
        try:
            time.sleep(1.5)
            pin(process.pid, 0)
            yield port
        finally:
            process.terminate()


@contextlib.contextmanager
def nginx(directory: Path) -> Iterator[int]:
    """The port of an nginx with one worker that answers every request with an empty GIF."""
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(
        f"""
        daemon off; worker_processes 1; worker_cpu_affinity 01; pid {directory}/nginx.pid;
        error_log {directory}/nginx-error.log; events {{ worker_connections 1024; }}
        http {{ access_log {directory}/nginx-access.log; keepalive_requests 100000000;
            server {{ listen 127.0.0.1:{port}; location / {{ empty_gif; }} }} }}
        """
    )
    with subprocess.Popen(["nginx", "-c", str(config), "-p", str(directory)]) as process:
        try:
            time.sleep(1.0)
            yield port
        finally:
            process.terminate()


def fsyncs(directory: Path, size: int, seconds: float) -> tuple[float, float]:
    """Appending *size* bytes and fdatasync, again and again: how often a second, and p99 in s."""
    data = os.urandom(size)
    waits = []
    fd = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        began = time.perf_counter()
        while (at := time.perf_counter()) - began < seconds:
            os.write(fd, data)
            os.fdatasync(fd)
            waits.append(time.perf_counter() - at)
        took = time.perf_counter() - began
    finally:
        os.close(fd)
        (directory / "bare").unlink()
    return len(waits) / took, sorted(waits)[len(waits) * 99 // 100]


def median(values: list[float]) -> float:
    return statistics.median(values)


def cpu_seconds(pid: int) -> float:
    """What a process has used of processors so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family_cpu_seconds(pid: int) -> float:
    """What a process and all below it have used of processors so far."""
    total = 0.0
    todo = [pid]
    while todo:
        with contextlib.suppress(OSError):
            process = todo.pop()
            total += cpu_seconds(process)
            for task in Path(f"/proc/{process}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
    return total


def rss_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
