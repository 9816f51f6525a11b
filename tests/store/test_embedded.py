"""The embedded Postgres, with the real programs: what it promises when things are killed."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
import uvloop

from collector.errors import ConfigError, Unreachable
from collector.store import cluster, embedded, programs
from collector.store.cluster import SOCKET_PATH_BYTES_MAX
from collector.store.embedded import EmbeddedPostgres, EmbeddedSettings, dsn_of

REPOSITORY = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
UNNAMED_UID = 54321

# A collector in small: serves the directory until its standard input ends.
OWNER = """
import asyncio, sys
from pathlib import Path
import asyncpg
from collector.store.embedded import EmbeddedPostgres, EmbeddedSettings

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]), EmbeddedSettings())
    await server.start()
    print("started", flush=True)
    await server.ready()
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("create table if not exists kept (n int)")
    await connection.execute("insert into kept values (1)")
    await connection.close()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that was served once and stopped; it holds the table `kept` with one row."""
    directory = tmp_path_factory.mktemp("made") / "postgres"

    async def make() -> None:
        async with serving(directory) as server:
            await ask(server.dsn, "create table kept as select 1 as n")

    asyncio.run(make())
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    copied = tmp_path / "postgres"
    subprocess.run(["cp", "-a", made, copied], check=True)
    return copied


@contextlib.asynccontextmanager
async def serving(
    directory: Path, settings: EmbeddedSettings | None = None
) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(directory, settings or EmbeddedSettings())
    await server.start()
    try:
        await asyncio.wait_for(server.ready(), 30)
        yield server
    finally:
        await server.stop()


@contextlib.contextmanager
def owner(
    directory: Path, uid: int | None = None, prefix: tuple[str, ...] = (), **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Another process that serves *directory*; killed at the end if it still runs."""
    python = sys.executable if uid is None else interpreter_for(uid)
    child = subprocess.Popen(
        [*prefix, python, "-c", OWNER, directory],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else (),
        cwd="/",
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def interpreter_for(uid: int) -> str:
    """A Python that *uid* may run and that can import what we import."""
    paths = os.pathsep.join([str(REPOSITORY), *sys.path])
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path=os.defpath + ":/usr/local/bin")):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [python or version, "-c", "import collector.store.embedded"],
                env={"PYTHONPATH": paths},
                user=uid,
                group=uid,
                extra_groups=(),
                cwd="/",
                capture_output=True,
                check=False,
            )
            if tried.returncode == 0:
                return python or version
    pytest.skip(f"user id {uid} may not run this Python, nor one that has the same packages")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory in which any user can make one."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o1777)
    yield place
    shutil.rmtree(place)


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def postmaster(directory: Path) -> int:
    return int((directory / "data" / "postmaster.pid").read_text().split()[0])


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        await asyncio.sleep(0.01)


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    assert child.stderr is not None
    return child.stdout.readline().strip() or child.stderr.read()


# Starting and stopping


async def test_the_first_start_makes_a_database_for_an_ordinary_role(tmp_path: Path) -> None:
    gaps = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - began)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    async with serving(tmp_path / "postgres") as server:
        ticking.cancel()
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("select current_user || '@' || current_database()") == (
            "collector@collector"
        )
        assert (
            await connection.fetchval("select rolsuper from pg_roles where rolname = 'collector'")
            is False
        )
        for query in ("select pg_read_file('PG_VERSION')", "copy pg_class to '/tmp/never'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(query)
        assert await connection.fetchval("show data_checksums") == "on"
        assert await connection.fetchval("show server_encoding") == "UTF8"
        assert await connection.fetchval("select upper('ä')") == "Ä"
        await connection.execute("create schema collector create table events (seq bigint)")
        await connection.close()
        assert (server.running, server.starts, server.last_error) == (True, 1, "")
    assert not server.running
    assert max(gaps) < 0.3, "the loop waited for initdb"


async def test_what_was_stored_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", EmbeddedSettings())
    for expected in (1, 2, 3):
        await server.start()
        await server.ready()
        await ask(server.dsn, "create table if not exists kept (n int)")
        await ask(server.dsn, "insert into kept values (1)")
        assert await ask(server.dsn, "select count(*) from kept") == expected
        await server.stop()


def test_it_works_under_uvloop(directory: Path) -> None:
    async def scenario() -> object:
        async with serving(directory) as server:
            os.kill(postmaster(directory), signal.SIGKILL)
            await until(lambda: server.starts == 2)
            await server.ready()
            return await ask(server.dsn, "select count(*) from kept")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == 1


async def test_psql_takes_the_dsn_also_before_anything_runs(directory: Path) -> None:
    dsn = dsn_of(directory)
    wheel = programs.newest_install() / "bin" / "psql"
    async with serving(directory) as server:
        assert server.dsn == dsn
        for psql in filter(None, (str(wheel), shutil.which("psql"))):
            said = await asyncio.to_thread(
                subprocess.run,
                [psql, dsn, "-Atc", "select n from kept"],
                capture_output=True,
                check=True,
                env={"PGPORT": "1", "PGHOST": "nowhere"},  # what a shell may have set
            )
            assert said.stdout == b"1\n"


@pytest.mark.parametrize("name", ["x" * SOCKET_PATH_BYTES_MAX, "a, b", 'it\'s "here" 100%'])
async def test_a_directory_may_have_any_name(directory: Path, tmp_path: Path, name: str) -> None:
    renamed = tmp_path / name / "postgres"
    renamed.parent.mkdir()
    directory.rename(renamed)
    async with serving(renamed) as server:
        assert await ask(dsn_of(renamed), "select count(*) from kept") == 1
        socket = server._cluster.socket
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    if socket.parent != renamed:
        shutil.rmtree(socket.parent)


async def test_a_short_directory_that_somebody_else_made_is_refused(
    directory: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / ("x" * SOCKET_PATH_BYTES_MAX)
    directory.rename(renamed)
    squatted = Path(dsn_of(renamed).partition("host=")[2].partition("/socket")[0])
    squatted.mkdir()
    squatted.chmod(0o777)
    try:
        with pytest.raises(ConfigError, match="somebody else"):
            dsn_of(renamed)
        with pytest.raises(ConfigError, match="somebody else"):
            await EmbeddedPostgres(renamed, EmbeddedSettings()).start()
    finally:
        squatted.rmdir()


async def test_it_can_be_stopped_in_the_middle_of_initdb(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", EmbeddedSettings())
    for seconds in (0, 0.05, 0.3, 0.6, 0.8):
        await server.start()
        await asyncio.sleep(seconds)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 5
        with pytest.raises(Unreachable):
            await server.ready()
    async with serving(tmp_path / "postgres") as again:
        assert await ask(again.dsn, "select 1") == 1


async def test_it_can_be_stopped_in_the_middle_of_a_start(directory: Path) -> None:
    server = EmbeddedPostgres(directory, EmbeddedSettings())
    for milliseconds in range(0, 100, 8):
        await server.start()
        await asyncio.sleep(milliseconds / 1000)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 5
        assert not server.running
    async with serving(directory) as again:
        assert await ask(again.dsn, "select count(*) from kept") == 1


async def test_a_postmaster_that_does_not_listen_is_stopped_all_the_same(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "QUIT_SECONDS", 0.2)
    async with serving(directory, EmbeddedSettings(stop_seconds=0.2)) as server:
        pid = postmaster(directory)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 5
        assert not lives(pid)
    async with serving(directory) as server:
        assert await ask(server.dsn, "select count(*) from kept") == 1


async def test_those_who_wait_for_it_are_told_when_it_is_stopped(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", EmbeddedSettings())
    await server.start()
    waiting = asyncio.create_task(server.ready())
    await asyncio.sleep(0.1)
    await server.stop()
    with pytest.raises(Unreachable):
        await waiting
    await server.stop()


# Killed


async def test_a_killed_postmaster_comes_back_with_its_data(directory: Path) -> None:
    async with serving(directory) as server:
        await ask(server.dsn, "insert into kept select generate_series(1, 50000)")
        for starts in (2, 3):
            os.kill(postmaster(directory), signal.SIGKILL)
            await until(lambda starts=starts: server.starts == starts)
            await server.ready()
            assert await ask(server.dsn, "select count(*) from kept") == 50_001
        assert "signal 9" in server.last_error


async def test_it_can_be_stopped_while_it_recovers(directory: Path) -> None:
    async with serving(directory) as server:
        await ask(server.dsn, "insert into kept select generate_series(1, 300000)")
        os.kill(postmaster(directory), signal.SIGKILL)
        await until(lambda: server.starts == 2)
    async with serving(directory) as server:
        assert await ask(server.dsn, "select count(*) from kept") == 300_001


async def test_a_long_query_does_not_keep_a_killed_postmaster_away(directory: Path) -> None:
    async with serving(directory) as server:
        connection = await asyncpg.connect(server.dsn)
        backend = connection.get_server_pid()
        endless = asyncio.create_task(
            connection.execute("do $$ begin loop perform 1; end loop; end $$")
        )
        try:
            await asyncio.sleep(0.2)
            os.kill(postmaster(directory), signal.SIGKILL)
            await until(lambda: server.starts == 2)
            await server.ready()
            await until(lambda: not lives(backend))
            with pytest.raises(asyncpg.PostgresError):
                await endless
        finally:
            if lives(backend):  # it would take a core for ever
                os.kill(backend, signal.SIGKILL)
            endless.cancel()
            connection.terminate()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv here")
async def test_postgres_ends_by_itself_when_its_owner_is_killed(directory: Path) -> None:
    with owner(directory) as child:
        assert (line(child), line(child)) == ("started", "ready")
        pid = postmaster(directory)
        child.kill()
        await until(lambda: not lives(pid))
    async with serving(directory) as server:
        assert await ask(server.dsn, "select count(*) from kept") == 2


async def test_an_orphan_is_taken_over_with_its_data(directory: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"  # without setpriv the kernel tells Postgres nothing
    nothing.mkdir()
    with owner(directory, PATH=str(nothing)) as child:
        assert (line(child), line(child)) == ("started", "ready")
        child.kill()
    orphan = postmaster(directory)
    await asyncio.sleep(0.2)
    assert lives(orphan)
    async with serving(directory) as server:
        await until(lambda: not lives(orphan))
        assert await ask(server.dsn, "select count(*) from kept") == 2


@only_root
@pytest.mark.skipif(not shutil.which("setpriv"), reason="there is no setpriv here")
async def test_an_orphan_is_taken_over_with_the_few_capabilities_of_a_container(
    directory: Path, tmp_path: Path
) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv
    kept = "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid"  # no sys_ptrace, no sys_admin
    few = (setpriv, "--bounding-set", kept, "--inh-caps", "-all", "--")
    with owner(directory, prefix=few, PATH=str(tmp_path)) as child:
        assert (line(child), line(child)) == ("started", "ready")
        child.kill()
    orphan = postmaster(directory)
    with owner(directory, prefix=few) as child:
        assert (line(child), line(child)) == ("started", "ready")
        assert not lives(orphan)  # who is ready is ready with a Postgres of its own
        assert postmaster(directory) != orphan
        child.communicate("")
        assert child.returncode == 0


async def test_an_initdb_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    for seconds in (0.1, 0.4, 0.6):
        with owner(tmp_path / "postgres") as child:
            assert line(child) == "started"
            await asyncio.sleep(seconds)
            child.kill()
    async with serving(tmp_path / "postgres") as server:
        assert await ask(server.dsn, "select 1") == 1


async def test_a_pid_file_that_names_somebody_else_is_not_believed(
    directory: Path, open_place: Path
) -> None:
    async with serving(directory):
        pid_file = (directory / "data" / "postmaster.pid").read_text()
        lock_file = (directory / "socket" / ".s.PGSQL.5432.lock").read_text()
    facts = (directory / "data").stat()
    account = {"user": facts.st_uid, "group": facts.st_gid, "extra_groups": ()} if IS_ROOT else {}
    shutil.copy("/bin/sleep", open_place / "postgres")
    other = subprocess.Popen(["/bin/sleep", "60"], **account)
    namesake = subprocess.Popen([open_place / "postgres", "60"], **account, cwd="/")
    comm = Path(f"/proc/{namesake.pid}/comm")
    try:
        await until(lambda: comm.read_text() == "postgres\n")  # a moment after it was started
        for pid in (other.pid, namesake.pid, os.getpid(), 1, 0):
            for file, text in (
                ("data/postmaster.pid", pid_file),
                ("socket/.s.PGSQL.5432.lock", lock_file),
            ):
                first, _, rest = text.partition("\n")
                assert first.isdigit()
                (directory / file).write_text(f"{pid}\n{rest}" if pid else "")
                os.chown(directory / file, facts.st_uid, facts.st_gid)
            async with serving(directory) as server:
                assert await ask(server.dsn, "select count(*) from kept") == 1
                assert server.starts == 1
            assert other.poll() is None
            assert namesake.poll() is None
    finally:
        for child in (other, namesake):
            child.kill()
            child.wait()


# Refused


async def test_data_of_another_major_version_is_refused(directory: Path) -> None:
    (directory / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError, match=r"holds data of Postgres 16, .* brings Postgres 18"):
        await EmbeddedPostgres(directory, EmbeddedSettings()).start()
    assert not (directory / "data" / "postmaster.pid").exists()


async def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    if IS_ROOT:
        os.chown(data, 65534, 65534)
    (data / "holiday.jpg").touch()
    with pytest.raises(ConfigError, match="no PG_VERSION"):
        await EmbeddedPostgres(data.parent, EmbeddedSettings()).start()
    assert [file.name for file in data.iterdir()] == ["holiday.jpg"]


async def test_a_second_collector_is_refused(directory: Path) -> None:
    async with serving(directory) as server:
        with pytest.raises(ConfigError, match="another process"):
            await EmbeddedPostgres(directory, EmbeddedSettings()).start()
        assert await ask(server.dsn, "select count(*) from kept") == 1


async def test_data_that_vanished_is_not_replaced_by_an_empty_database(directory: Path) -> None:
    async with serving(directory) as server:
        pid = postmaster(directory)
        (directory / "data").rename(directory / "elsewhere")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: "is gone" in server.last_error)
        (directory / "elsewhere").rename(directory / "data")
        await server.ready()
        assert await ask(server.dsn, "select count(*) from kept") == 1


# Kept within bounds


async def test_the_log_is_bounded_and_keeps_quiet_about_events(directory: Path) -> None:
    log = directory / "postgres.log"
    async with serving(directory, EmbeddedSettings(log_bytes_max=2000)) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create unique index on kept (n)")
        for _ in range(50):
            with pytest.raises(asyncpg.UniqueViolationError):
                await connection.execute("insert into kept values (1) /* maria@example.com */")
        await connection.close()
        assert log.stat().st_size > 2000
        server._wake.set()
        await until(lambda: log.stat().st_size == 0)
    said = (directory / "postgres.log.1").read_text()
    assert "duplicate key" in said
    assert "maria" not in said
    assert "(n)=(1)" not in said


async def test_our_environment_stays_ours(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLECTOR_SECRET", "hush")
    monkeypatch.setenv("PGPORT", "1")
    async with serving(directory):
        environment = Path(f"/proc/{postmaster(directory)}/environ").read_bytes()
    assert b"hush" not in environment
    assert b"PGPORT" not in environment


async def test_a_system_without_c_utf8_gets_the_same_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    async with serving(tmp_path / "postgres") as server:
        assert await ask(server.dsn, "select upper('ä')") == "Ä"


# Whoever starts it


def modes(path: Path) -> list[tuple[int, int, int]]:
    facts = [parent.stat() for parent in path.parents]
    return [(each.st_mode, each.st_uid, each.st_gid) for each in facts]


@only_root
async def test_root_serves_a_directory_whose_parents_are_closed_and_leaves_them_so(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "closed" / "postgres"
    directory.parent.mkdir(mode=0o700)
    before = modes(directory)
    async with serving(directory) as server:
        assert (
            await ask(server.dsn, "create table kept as select generate_series(1, 9) as n") is None
        )
        status = Path(f"/proc/{postmaster(directory)}/status").read_text()
        facts = {
            key: value.split()
            for key, _, value in (row.partition(":") for row in status.splitlines())
        }
        assert "0" not in facts["Uid"] + facts["Gid"] + facts["Groups"]
        assert facts["CapEff"] == ["0" * 16]
        # Everything that opens files: checkpoint, vacuum, a reload of the files, a new backend.
        superuser = server.dsn.replace("collector@", "postgres@")
        for statement in ("checkpoint", "vacuum full kept", "select pg_reload_conf()", "analyze"):
            await ask(superuser, statement)
        os.kill(postmaster(directory), signal.SIGKILL)
        await until(lambda: server.starts == 2)
        await server.ready()
        assert await ask(server.dsn, "select count(*) from kept") == 9
    assert modes(directory) == before


@only_root
async def test_root_gives_postgres_a_copy_of_programs_that_it_cannot_reach(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = programs.newest_install()
    closed = tmp_path / "root" / "site-packages"
    for part in (Path(install.parent.name, install.name), Path(f"{install.parent.name}.libs")):
        shutil.copytree(install.parent.parent / part, closed / part)
    (tmp_path / "root").chmod(0o700)
    monkeypatch.setattr(
        programs, "newest_install", lambda: closed / install.parent.name / install.name
    )
    shutil.rmtree(directory / "data")
    async with serving(directory) as server:
        copy = server._cluster.programs.install.parents[1]
        assert copy.parent == programs.SHORT
        assert await ask(server.dsn, "select 1") == 1
    monkeypatch.setattr(cluster, "newest_install", programs.newest_install)
    cluster.forget(directory)
    assert not copy.exists()


@only_root
async def test_root_runs_it_as_the_owner_of_the_data_and_refuses_another(directory: Path) -> None:
    owner_uid = (directory / "data").stat().st_uid
    names = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid not in (0, owner_uid)]
    with pytest.raises(ConfigError, match=f"chown -R {names[0]} "):
        await EmbeddedPostgres(directory, EmbeddedSettings(user=names[0])).start()
    with pytest.raises(ConfigError, match="'no-such-user' is none"):
        await EmbeddedPostgres(directory, EmbeddedSettings(user="no-such-user")).start()
    os.chown(directory / "data", 0, 0)
    with pytest.raises(ConfigError, match="never as root"):
        await EmbeddedPostgres(directory, EmbeddedSettings()).start()


@only_root
@pytest.mark.parametrize("uid", [65534, UNNAMED_UID], ids=["ordinary", "without a name"])
async def test_an_ordinary_user_serves_it(open_place: Path, uid: int) -> None:
    directory = open_place / "postgres"
    with owner(directory, uid, HOME="/nonexistent") as child:
        said = line(child)
        if "make no user namespace" in said:
            pytest.skip("this system has no user namespaces for ordinary users")
        assert (said, line(child)) == ("started", "ready")
        assert (directory / "data").stat().st_uid == uid
        child.communicate("")
        assert child.returncode == 0
    async with serving(directory) as server:  # and root may take it from there
        assert await ask(server.dsn, "select count(*) from kept") == 1
    with owner(directory, uid, HOME="/nonexistent") as child:  # and back again
        assert (line(child), line(child)) == ("started", "ready")
        child.communicate("")
        assert child.returncode == 0


@only_root
def test_a_user_without_a_name_or_namespaces_is_told_what_to_do(open_place: Path) -> None:
    with owner(open_place / "postgres", UNNAMED_UID, PATH="/nonexistent") as child:
        said = line(child)
    assert f"user id {UNNAMED_UID} has no entry in the password database" in said
    assert "/etc/passwd" in said


@only_root
async def test_a_directory_of_somebody_else_is_refused(open_place: Path) -> None:
    (open_place / "postgres").mkdir(mode=0o700)
    with owner(open_place / "postgres", 65534, HOME="/nonexistent") as child:
        assert "give" in line(child)


async def test_a_cluster_of_an_older_release_gets_the_role_that_can_only_read(
    directory: Path,
) -> None:
    may = "select pg_has_role('collector', 'collector_reader', 'member')"
    async with serving(directory) as server:
        assert await ask(server.dsn, may) is True
        boss = await asyncpg.connect(server.dsn, user="postgres")
        await boss.execute("drop role collector_reader")
        await boss.close()
    async with serving(directory) as server:
        assert await ask(server.dsn, may) is True
