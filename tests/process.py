"""The collector as a process, seen from outside: started, asked, killed, started again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg

READY_SECONDS = 60.0
STOP_SECONDS = 45.0


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class CollectorProcess:
    """
    One collector. *dsn* empty means that it runs its own Postgres.

    *settings* are environment variables without their prefix: `INGEST_PORT="8080"`; *config* is
    the text of a configuration file.
    """

    def __init__(self, data_dir: Path, dsn: str = "", config: str = "", **settings: str) -> None:
        self.data_dir = data_dir
        self.dsn = dsn
        self.port = free_port()
        self.admin_port = free_port()
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR_")
        } | {
            "COLLECTOR_DATA_DIR": str(data_dir),
            "COLLECTOR_INGEST_HOST": "127.0.0.1",
            "COLLECTOR_INGEST_PORT": str(self.port),
            "COLLECTOR_ADMIN_PORT": str(self.admin_port),
            "COLLECTOR_STORE_DSN": dsn,
        }
        self._environment |= {f"COLLECTOR_{name}": value for name, value in settings.items()}
        if config:
            file = data_dir.parent / f"{data_dir.name}.toml"
            file.write_text(config)
            self._environment["COLLECTOR_CONFIG"] = str(file)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # --- life ------------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> "CollectorProcess":
        """Start it, and wait until it takes events."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collector", "run"],
                env=self._environment,
                cwd=self.log.parent,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait_until_healthy()
        return self

    def wait_until_healthy(self, seconds: float = READY_SECONDS) -> float:
        """Wait until it takes events, and return how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self._process is not None and self._process.poll() is not None:
                raise AssertionError(f"the collector ended:\n{self.output()}")
            with contextlib.suppress(OSError):
                self.get("/health", timeout=1.0)
                return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"the collector does not answer:\n{self.output()}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and return the exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def output(self) -> str:
        """What it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # --- questions -------------------------------------------------------------------------

    def get(self, path: str, *, timeout: float = 10.0, **headers: str) -> bytes:
        """GET from the ingest port; HTTPError is an OSError."""
        request = urllib.request.Request(self.url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            body: bytes = answer.read()
            return body

    def post(
        self, path: str, body: object, *, key: str = "demo", timeout: float = 30.0, **headers: str
    ) -> tuple[int, Any]:
        """POST *body* (bytes as they are, else as JSON); the status and the JSON of the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}, method="POST"
        )
        if key and "Authorization" not in headers:
            import base64

            token = base64.b64encode(f"{key}:".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.loads(exc.read() or b"null")

    def status(self) -> dict[str, Any]:
        """What `collector status --json` prints."""
        with urllib.request.urlopen(f"{self.admin_url}/status", timeout=10) as answer:
            facts: dict[str, Any] = json.loads(answer.read())
            return facts

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name and labels, as they are written."""
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = (line for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def wait_until_stored(self, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until nothing waits in the journal, and return the status then."""
        until = time.monotonic() + seconds
        facts: dict[str, Any] = {}
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                facts = self.status()
                if facts["store"]["up"] and facts["store"]["position"] >= facts["journal"]["end"]:
                    return facts
            time.sleep(0.05)
        raise AssertionError(f"not everything was stored: {facts}\n{self.output()}")

    async def rows(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask its Postgres."""
        dsn = self.dsn or self.embedded_dsn()
        connection = await asyncpg.connect(dsn)
        try:
            await connection.set_type_codec(
                "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
            )
            return [dict(row) for row in await connection.fetch(sql, *arguments)]
        finally:
            await connection.close()

    def embedded_dsn(self) -> str:
        """What `collector dsn` prints."""
        shown = subprocess.run(
            [sys.executable, "-m", "collector", "dsn"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return shown.stdout.strip()
