"""
Cluster: the directory of the embedded Postgres, from nothing to ready to be served.

    <directory>/           0700, ours
        lock               held by the process that serves it
        data/              made by initdb, the account's; appears complete or not at all
        data.new/          initdb at work, or what is left of one that was killed
        socket/            0700, the account's; elsewhere if its path is too long for a socket
        postgres.log       and postgres.log.1: what the server says

Who may connect is decided by the directory: its mode lets nobody but us reach the socket.

Errors   ConfigError for what only a person can put right, OSError for what may pass by itself.
Source   Postgres, "Database File Layout", and CreateLockFile in src/backend/utils/init/miscinit.c
"""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from collector.errors import ConfigError
from collector.store.programs import (
    SHORT,
    Account,
    Programs,
    account_named,
    digest,
    newest_install,
    private,
)

ROLE = "collector"
READER = "collector_reader"  # what an operator's SQL runs as; see reader.py
DATABASE = "collector"
SUPERUSER = "postgres"
PORT = 5432
SOCKET_PATH_BYTES_MAX = 107

INITDB = (
    f"--username={SUPERUSER}",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--auth-local=trust",  # whoever reaches the socket is us, or the account
    "--auth-host=reject",
    "--no-instructions",
)
# In single-user mode, before anybody sees the data directory: a superuser is needed this once, and
# by us again only for what a cluster of an older release does not have yet.
BOOTSTRAP = "".join(
    f"{statement};\n\n"
    for statement in (
        f"create role {ROLE} login",
        f"create role {READER}",
        f"grant {READER} to {ROLE}",
        f"create database {DATABASE} owner {ROLE}",
    )
)


# Waits for the end of a program; raises OSError if it failed, something else when we are to stop.
Finish = Callable[[subprocess.Popen[bytes]], None]


def socket_directory(directory: Path) -> Path:
    """Where the socket of the cluster in *directory* is, also for a process that did not start it.

    The path of a socket has 107 bytes, and a comma in it would read as two hosts. Where that is in
    the way, the socket lives in a private directory with a short name made from the long one.
    """
    place = Path(os.path.realpath(directory))
    path_bytes = len(os.fsencode(place / "socket" / f".s.PGSQL.{PORT}"))
    if path_bytes <= SOCKET_PATH_BYTES_MAX and "," not in str(place):
        return place / "socket"
    home = SHORT / f"collector-socket-{digest(place)}"
    if os.path.exists(home) and os.path.exists(place):
        private(home, place.stat().st_uid)
    return home / "socket"


def forget(directory: Path) -> None:
    """Remove what was made elsewhere for the cluster in *directory*, which is not used again."""
    place = Path(os.path.realpath(directory))
    for left in (
        SHORT / f"collector-socket-{digest(place)}",
        SHORT / f"collector-programs-{digest(newest_install(), place)}",
    ):
        if left.exists():
            shutil.rmtree(private(left, os.geteuid(), closed=0o022))


class Cluster:
    """One data directory with what belongs to it. `open` before anything else."""

    programs: Programs

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.realpath(directory))
        self.data = self.directory / "data"
        self.log_path = self.directory / "postgres.log"
        self.socket = self.directory / "socket"
        self._lock: IO[bytes] | None = None

    @property
    def exists(self) -> bool:
        return self.data.is_dir() and any(self.data.iterdir())

    def open(self, user: str) -> None:
        """Take the directory for this process and see that Postgres can run on it."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
            self._lock = self.lock()
            self.programs = Programs.find(self.account(user), self.directory)
            self.check()
            self.make_socket_directory()
        except OSError as exc:
            self.close()
            raise ConfigError(
                f"{exc.filename or self.directory} cannot be used for the embedded Postgres "
                f"({exc.strerror}); give {self.directory} to the user that runs the collector, or "
                "set another data_dir"
            ) from exc
        except ConfigError:
            self.close()
            raise

    def make_socket_directory(self) -> None:
        self.socket = socket_directory(self.directory)
        home, owner = self.socket.parent, self.directory.stat().st_uid
        if not home.exists():
            home.mkdir(mode=0o700)  # fails if somebody was faster
            os.chown(home, owner, -1)
        if home != self.directory:
            private(home, owner)
        self.programs.make_directory(self.socket)

    def close(self) -> None:
        """Let another process have the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def lock(self) -> IO[bytes]:
        lock = (self.directory / "lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            lock.close()
            raise ConfigError(
                f"another process already runs the Postgres in {self.directory}; stop it, or give "
                "this collector a data_dir of its own"
            ) from exc
        return lock

    def account(self, user: str) -> Account | None:
        """Whom to run as: ourselves, or as root whoever the data belongs to, or who is named."""
        if os.geteuid() != 0:
            return None
        if not self.exists:
            return account_named(user)
        facts = self.data.stat()
        owner = Account(facts.st_uid, facts.st_gid)
        if owner.uid == 0 or (user and account_named(user).uid != owner.uid):
            name = user or "ACCOUNT"
            raise ConfigError(
                f"{self.data} belongs to user id {owner.uid}, and Postgres runs only as the owner "
                f"of its data and never as root; say `chown -R {name} {self.data}`"
            )
        return owner

    def check(self) -> None:
        """Refuse what these programs must not touch."""
        if not self.exists:
            self.programs.with_a_name()  # initdb will need it: better told now than in the log
            return
        try:
            major = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            raise ConfigError(
                f"{self.data} is no data directory of Postgres: it has no PG_VERSION. Move it away "
                "for the collector to begin a new one, or restore it as it was"
            ) from None
        if major != self.programs.major:
            raise ConfigError(
                f"{self.data} holds data of Postgres {major}, and this collector brings Postgres "
                f"{self.programs.major}, which cannot read it. Run the release of the collector "
                f"that brought Postgres {major}, dump the database with its pg_dump and restore "
                f"the dump here; or move {self.data} away to begin with an empty database"
            )

    def create(self, finish: Finish) -> None:
        """Make the data directory. Killed at any moment, this leaves only `data.new` behind.

        Collation and character classes are Postgres' own, so a newer C library cannot reorder an
        index; from the system only LC_CTYPE is taken, and C serves where it has no C.UTF-8.
        """
        staging = self.directory / "data.new"
        for locale in ("C.UTF-8", "C"):
            if staging.exists():
                shutil.rmtree(staging)
            self.programs.make_directory(staging)
            try:
                self.fill(staging, locale, finish)
                break
            except OSError:
                if locale == "C":
                    raise
        staging.rename(self.data)
        sync(self.directory)

    def fill(self, staging: Path, locale: str, finish: Finish) -> None:
        programs = self.programs.with_a_name()
        with (
            programs.reach(staging) as ((data,), fds),
            self.log_path.open("ab") as output,
            tempfile.TemporaryFile() as script,
        ):
            script.write(BOOTSTRAP.encode())
            script.seek(0)
            where = ("-D", data)
            kill = signal.SIGKILL
            made = (*where, f"--locale={locale}", *INITDB)
            finish(programs.launch("initdb", *made, dying=kill, output=output, fds=fds))
            alone = ("--single", *where, "-j", "-c", "exit_on_error=on", "postgres")
            finish(
                programs.launch(
                    "postgres", *alone, dying=kill, output=output, fds=fds, stdin=script
                )
            )


def sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
