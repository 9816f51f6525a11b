"""
Packaging: lock files, Dockerfile, unit and scripts are what they say, as far as files can tell.

Whether they work on a fresh machine, only a fresh machine shows: `make run` in a new clone.
"""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
UNIT = REPOSITORY / "systemd" / "collector.service"
DOCKERFILE = REPOSITORY / "Dockerfile"
SDK = REPOSITORY / "scripts" / "sdk.mjs"
BROWSER = REPOSITORY / "docs" / "senders" / "browser.md"
LOCKS = ("requirements.lock", "requirements-dev.lock")
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;]+)((?: ; [^\\]+)?) \\$")
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def program(name: str) -> str:
    """The program beside this Python, or on PATH; without it the test skips."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def run(*words: str | Path) -> str:
    """What a command that should find nothing said."""
    ended = subprocess.run(
        [str(word) for word in words],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout.strip()


# --- Lock files --------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, Version]:
    found = {}
    for line in (REPOSITORY / lock).read_text().splitlines():
        if match := PINNED.match(line):
            found[canonicalize_name(match[1])] = Version(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_has_pins_and_hashes_and_nothing_else(lock: str) -> None:
    text = (REPOSITORY / lock).read_text()
    strange = [line for line in text.splitlines() if not (PINNED.match(line) or HASH.match(line))]
    assert strange == []
    # One pin for all Pythons, each followed by its hashes.
    assert len(pins(lock)) == text.count("==") - text.count("python_full_version ==")
    assert re.search(r"\\\n(?!    --hash)", text) is None


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_keeps_to_pyproject(lock: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["build"]
    if lock == "requirements-dev.lock":
        wanted += project["project"]["optional-dependencies"]["dev"]
    pinned = pins(lock)
    for requirement in map(Requirement, wanted):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, "make lock"


def test_the_fuzzers_lock_file_has_pins_and_hashes_for_every_python() -> None:
    text = (REPOSITORY / "requirements-fuzz.lock").read_text()
    assert [
        line for line in text.splitlines() if not (PINNED.match(line) or HASH.match(line))
    ] == []
    conditions = [match[3] for line in text.splitlines() if (match := PINNED.match(line))]
    for minor in range(11, 15):
        machine = {
            "python_full_version": f"3.{minor}.1",
            "platform_machine": "x86_64",
            "sys_platform": "linux",
        }
        suited = [
            Marker(condition.removeprefix(" ; ")).evaluate(machine) for condition in conditions
        ]
        assert sum(suited) == 1, minor


def test_what_is_tested_is_what_runs() -> None:
    runtime, dev = map(pins, LOCKS)
    assert {name: dev.get(name) for name in runtime} == runtime


def test_what_builds_the_project_is_locked() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == project["dependency-groups"]["build"]


# --- Scripts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script", ["scripts/venv", "scripts/debian", "scripts/fuzz", "scripts/sdk", ".ci/run"]
)
def test_a_script_can_be_read_by_its_shell(script: str) -> None:
    path = REPOSITORY / script
    assert path.stat().st_mode & 0o111
    shell = path.read_text().splitlines()[0].removeprefix("#!").removeprefix("/usr/bin/env ")
    assert run(shell, "-n", path) == ""


def test_make_knows_its_verbs() -> None:
    verbs = ("run", "sdk", "test", "check", "bench", "fuzz", "lock", "clean")
    shown = run(program("make"), "-C", REPOSITORY, "--dry-run", *verbs)
    assert "collector run" in shown
    assert "pytest" in shown


def welcome(**environ: str) -> str:
    """What `make run` prints under its heading."""
    ended = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "welcome.py"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)} | environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stderr == ""
    return ended.stdout


def test_what_to_do_next_follows_the_settings() -> None:
    assert "http://localhost:8080/v1/track" in welcome()
    shown = welcome(
        COLLECTOR_INGEST_PORT="9000", COLLECTOR_INGEST_HOST="::1", COLLECTOR_DATA_DIR="/a b"
    )
    assert '"http://[::1]:9000/v1/track"' in shown
    assert '"http://[::1]:9000/px.gif?wk=demo' in shown
    assert "export COLLECTOR_DATA_DIR='/a b'" in shown
    assert "8080" not in shown


def test_what_to_do_next_shows_no_secret_and_leaves_complaints_to_the_collector() -> None:
    shown = welcome(
        COLLECTOR_STORE_DSN="postgresql://me:geheim@there/db",
        COLLECTOR_ADMIN_TOKEN="geheim",
        COLLECTOR_SOURCES='[{"name": "shop", "write_key": "geheim"}]',
    )
    assert "geheim" not in shown
    assert 'curl -u "$WRITE_KEY:"' in shown
    assert "export COLLECTOR_STORE_DSN=" in shown
    assert welcome(COLLECTOR_INGEST_PORT="geheim") == ""


# --- analytics.js -------------------------------------------------------------------------------


def test_the_script_that_is_served_is_the_one_that_is_tested() -> None:
    (version,) = re.findall(r"^const VERSION = '(.+)'$", SDK.read_text(), re.M)
    (integrity,) = re.findall(r"^const INTEGRITY = '(.+)'$", SDK.read_text(), re.M)
    lock = REPOSITORY / "tests" / "clients" / "browser" / "node" / "package-lock.json"
    package = json.loads(lock.read_text())["packages"]["node_modules/@segment/analytics-next"]
    assert (version, integrity) == (package["version"], package["integrity"])
    shown = re.findall(r"-(\d+\.\d+\.\d+)\.(?:min\.)?js", BROWSER.read_text())
    assert set(shown) == {version}


def test_a_script_with_another_hash_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(b"something else")
    command = [program("node"), SDK, tmp_path / "sdk", tmp_path / "other.tgz"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    assert "has the hash sha512-" in ended.stderr
    assert not (tmp_path / "sdk").exists()


@pytest.mark.parametrize("lock", ["browser/node", "node"])
def test_packages_from_npm_are_locked_with_hashes_and_no_address(lock: str) -> None:
    text = (REPOSITORY / "tests" / "clients" / lock / "package-lock.json").read_text()
    packages = json.loads(text)["packages"]
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []
    assert "resolved" not in text


# --- Container ---------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    assert run(program("hadolint"), "--no-color", DOCKERFILE) == ""


def test_the_image_gets_what_it_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert set(sources) == allowed
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert not any(
            fnmatch.fnmatch(source, line) for line in ignore if line[:1] not in ("#", "!", "*")
        )


def test_the_image_is_not_root_and_hears_sigterm() -> None:
    words = dict(
        line.split(None, 1)
        for line in DOCKERFILE.read_text().splitlines()
        if line[:1].isupper() and " " in line
    )
    assert not words["USER"].startswith(("0", "root"))
    assert words["STOPSIGNAL"] == "SIGTERM"
    for word in ("ENTRYPOINT", "CMD"):
        assert words[word].startswith("["), "a shell in between would swallow the signal"


# --- Service -----------------------------------------------------------------------------------


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that is there in the place of ours."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/collector/.venv/bin/collector", sys.executable))
    said = run(program("systemd-analyze"), "verify", unit)
    # Of other units of this machine it speaks too.
    assert [line for line in said.splitlines() if "collector" in line] == []


def test_every_hardening_line_of_the_unit_says_what_it_is_for() -> None:
    _, _, hardening = UNIT.read_text().partition("# --- Hardening")
    lines = [line for line in hardening.partition("[Install]")[0].splitlines()[1:] if line]
    settings = [place for place, line in enumerate(lines) if not line.startswith("#")]
    assert len(settings) > 20
    assert [lines[place] for place in settings if not lines[place - 1].startswith("# ")] == []
