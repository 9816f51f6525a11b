"""Processes: nothing is signalled that is not the Postgres it should be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.prove.processes import paused, postmaster, send

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child, both at work in tmp_path, whose id is where a postmaster's is."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, stdin=subprocess.PIPE, process_group=0
    )
    (tmp_path / "postmaster.pid").write_text(f"{process.pid}\n{tmp_path}\n")
    until = time.monotonic() + 10
    while not children(process.pid) and time.monotonic() < until:
        time.sleep(0.01)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_postmaster_is_one_that_works_in_the_data_directory(
    family: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert postmaster(tmp_path) == family.pid
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "postmaster.pid").write_text(f"{family.pid}\n")
    assert postmaster(elsewhere) is None
    assert not send(family.pid, signal.SIGKILL, elsewhere)
    assert family.poll() is None


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "4194304999"])
def test_a_file_that_names_nobody_is_no_postmaster(tmp_path: Path, text: str) -> None:
    assert postmaster(tmp_path) is None
    (tmp_path / "postmaster.pid").write_text(text)
    assert postmaster(tmp_path) is None


def test_paused_is_the_whole_family_and_only_meanwhile(
    family: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (child,) = children(family.pid)
    with paused(family.pid, tmp_path):
        time.sleep(0.1)
        assert (state(family.pid), state(child)) == ("T", "T")
    time.sleep(0.1)
    assert "T" not in {state(family.pid), state(child)}
