"""
Instance: a collector of our own: started, asked, killed, started again.

    <directory>/data             its data directory, with the embedded Postgres
    <directory>/collector.log    what it logs

Nothing of the environment reaches it that is a setting of another collector: only a configuration
file that is named, and over it where to listen and store, and a source of its own.

Units    seconds.
Errors   CollectorError if it does not start or ended by itself.
"""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from collector.errors import CollectorError
from collector.store.embedded import dsn_of

START_SECONDS = 120.0
STOP_SECONDS = 45.0
ASK_SECONDS = 2.0
POLL_SECONDS = 0.02
SOURCE = "prove"
# Becomes the collector, which the kernel then sends SIGTERM when we are killed ourselves.
LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); "
    "os.execv(sys.executable, [sys.executable, '-m', 'collector', 'run'])"
)


class Instance:
    """The collector whose data is in *directory*. *dsn* empty means its embedded Postgres."""

    def __init__(self, directory: Path, dsn: str, config: Path | None) -> None:
        self.directory = directory
        self.key = secrets.token_hex(8)
        self.embedded = not dsn
        self.dsn = dsn or dsn_of(directory / "data" / "postgres")
        self.log = directory / "collector.log"
        port, admin_port = _free_ports(2)
        self.url = f"http://127.0.0.1:{port}"
        self._admin = f"http://127.0.0.1:{admin_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR_")
        } | {
            "COLLECTOR_DATA_DIR": str(directory / "data"),
            "COLLECTOR_INGEST_HOST": "127.0.0.1",
            "COLLECTOR_INGEST_PORT": str(port),
            "COLLECTOR_INGEST_PATH_PREFIX": "",
            "COLLECTOR_ADMIN_HOST": "127.0.0.1",
            "COLLECTOR_ADMIN_PORT": str(admin_port),
            "COLLECTOR_ADMIN_TOKEN": "",
            "COLLECTOR_STORE_DSN": dsn,
            "COLLECTOR_SOURCES": msgspec.json.encode(
                [{"name": SOURCE, "write_key": self.key}]
            ).decode(),
            "COLLECTOR_DESTINATIONS": "[]",  # none of it is for anybody else
        }
        if config is not None:
            self._environment["COLLECTOR_CONFIG"] = str(config.absolute())

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def postgres(self) -> Path:
        """Where the embedded Postgres has its data."""
        return self.directory / "data" / "postgres" / "data"

    async def start(self) -> None:
        """Start it, and return when it takes events."""
        self._launch()
        await self.serves()

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-I", "-S", "-c", LAUNCH],
                env=self._environment,
                cwd=self.directory,  # where no ./config/collector.toml is found
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C in our terminal is not for it
            )

    async def serves(self) -> None:
        """Return when it takes events."""
        until = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                self.check()
                if await _get(session, f"{self.url}/health") is not None:
                    return
                await asyncio.sleep(POLL_SECONDS)
        raise CollectorError(
            "not_started", f"the collector does not take events after {START_SECONDS:g} s; look "
            f"into {self.log}"
        )  # fmt: skip

    def check(self) -> None:
        """CollectorError if it has ended though nobody wanted it."""
        status = self._process.poll() if self._process is not None else None
        if status is not None:
            last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise CollectorError(
                "ended", f"the collector ended by itself with status {status} ({last}); look into "
                f"{self.log}"
            )  # fmt: skip

    async def status(self) -> dict[str, Any] | None:
        """What `collector status` shows, or None if it does not answer."""
        async with aiohttp.ClientSession() as session:
            text = await _get(session, f"{self._admin}/status")
        if text is None:
            return None
        facts: dict[str, Any] = msgspec.json.decode(text)
        return facts

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.terminate()
        try:
            return await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            await self.kill()
            return -signal.SIGKILL

    def abandon(self) -> None:
        """End it in any way, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()  # in order: its Postgres should end before the data goes
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


async def _get(session: aiohttp.ClientSession, url: str) -> bytes | None:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as answer:
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
