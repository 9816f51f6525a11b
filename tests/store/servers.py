"""A Postgres of the distribution on TCP, PgBouncer in front of it, and a network to cut off."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import free_port

IS_ROOT = os.geteuid() == 0
ACCOUNT = "postgres"  # neither Postgres nor PgBouncer run as root
NETWORK = "10.251.77"  # two addresses of it, in a network namespace of ours


def binaries() -> Path:
    """Where the distribution's newest Postgres is; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: p.parts[4])
    if not found:
        pytest.skip("no Postgres of the distribution: apt-get install postgresql")
    if IS_ROOT:
        try:
            pwd.getpwnam(ACCOUNT)
        except KeyError:
            pytest.skip(f"root needs the user {ACCOUNT} to run a Postgres")
    return found[-1].parent


def run_as(command: list[str | Path], **options: object) -> subprocess.Popen[bytes]:
    user = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []} if IS_ROOT else {}
    return subprocess.Popen(command, **user, **options)  # type: ignore[call-overload,no-any-return]


def wait_for(port: int, host: str = "127.0.0.1") -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


class Server:
    """Listens on 127.0.0.1 and, where there is one, on our end of the network."""

    def __init__(self, programs: Path, directory: Path, addresses: list[str]) -> None:
        self._programs = programs
        self._directory = directory
        self._addresses = addresses
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def start(self) -> None:
        directory = self._directory
        if IS_ROOT:
            shutil.chown(directory, ACCOUNT, ACCOUNT)
        if not (directory / "data").exists():
            made = run_as(
                [self._programs / "initdb", "-D", directory / "data", "-U", "collector", "-A",
                 "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
                stdout=subprocess.DEVNULL,
                cwd=directory,
            )  # fmt: skip
            assert made.wait(60) == 0
            with (directory / "data" / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {NETWORK}.0/30 trust\n")
        options = {
            "listen_addresses": ",".join(self._addresses),
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "64MB",
            "max_connections": "60",
            "fsync": "off",
            "logging_collector": "off",
        }
        given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (directory / "log").open("ab") as log:
            self._process = run_as(
                [self._programs / "postgres", "-D", directory / "data", *given],
                stdout=log,
                stderr=log,
                cwd=directory,
            )
        wait_for(self.port)
        time.sleep(0.3)  # it listens before it lets anybody in

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)
            self._process.wait(30)

    def dsn(self, database: str, host: str = "127.0.0.1") -> str:
        return f"postgresql://collector@{host}:{self.port}/{database}?sslmode=disable"


class Network:
    """A namespace with one cable to us, which can be pulled out."""

    name = f"ct{os.getpid()}"
    here, there = f"{NETWORK}.1", f"{NETWORK}.2"

    def __init__(self) -> None:
        self._cable = f"ct{os.getpid()}"

    def make(self) -> None:
        run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)  # fmt: skip  # noqa: E501
        run("ip", "addr", "add", f"{self.here}/30", "dev", self._cable)
        run("ip", "link", "set", self._cable, "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.there}/30", "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def pull(self) -> None:
        """Nothing passes any more, and nobody is told: what is sent to it goes nowhere."""
        subprocess.run(["ip", "route", "add", "blackhole", f"{self.there}/32"], check=True)
        subprocess.run(
            ["ip", "-n", self.name, "route", "add", "blackhole", f"{self.here}/32"], check=True
        )

    def plug_in(self) -> None:
        subprocess.run(["ip", "route", "del", "blackhole", f"{self.there}/32"], check=False)
        subprocess.run(
            ["ip", "-n", self.name, "route", "del", "blackhole", f"{self.here}/32"], check=False
        )

    def remove(self) -> None:
        subprocess.run(
            ["ip", "route", "del", "blackhole", f"{self.there}/32"], check=False,
            capture_output=True,
        )  # fmt: skip
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._cable], check=False, capture_output=True)


@contextlib.contextmanager
def networks() -> Iterator[Network | None]:
    """A network, or None where this user or this machine has none to give."""
    network = Network()
    try:
        if not IS_ROOT or shutil.which("ip") is None:
            yield None
            return
        try:
            network.make()
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        yield network
    finally:
        if IS_ROOT and shutil.which("ip") is not None:
            network.remove()


class PgBouncer:
    """In transaction mode, in front of every database of *server*."""

    def __init__(self, directory: Path, server: Server, **settings: str) -> None:
        self._directory = directory
        self._server = server
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def start(self) -> None:
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        if not Path(program).exists():
            pytest.skip("no PgBouncer: apt-get install pgbouncer")
        if IS_ROOT:
            shutil.chown(self._directory, ACCOUNT, ACCOUNT)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": "3",
            "max_client_conn": "50",
            "admin_users": "collector",
        } | self._settings
        lines = [f"{name} = {value}" for name, value in settings.items()]
        file = self._directory / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port} user=collector\n"
            "[pgbouncer]\n" + "\n".join(lines) + "\n"
        )
        with (self._directory / "log").open("ab") as log:
            self._process = run_as([program, file], stdout=log, stderr=log, cwd=self._directory)
        wait_for(self.port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def dsn(self, database: str) -> str:
        return f"postgresql://collector@127.0.0.1:{self.port}/{database}?sslmode=disable"


@contextlib.contextmanager
def directory(name: str) -> Iterator[Path]:
    """A directory that another user can get to, which pytest's is not."""
    with tempfile.TemporaryDirectory(prefix=name, dir="/tmp") as made:
        os.chmod(made, 0o755)
        yield Path(made)
