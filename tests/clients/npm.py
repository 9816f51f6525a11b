"""Packages from npm, as their lock file pins them, in pytest's cache directory."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

NPM_SECONDS = 90


def installed(config: pytest.Config, source: Path, name: str) -> Path:
    """
    A copy of the directory *source* with what its package-lock.json names, made once.

    The test skips, with the reason, if there is no npm or it cannot reach its registry.
    """
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("Node and npm are not there: they are wanted for an SDK from npm")
    files = sorted(path for path in source.iterdir() if path.is_file())
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    directory = config.cache.mkdir(name) / digest
    if not (directory / "complete").exists():
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, directory)
        run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], directory)
        (directory / "complete").touch()
    return directory


def run(command: list[str], directory: Path, *faults: str) -> None:
    """
    Run a *command* that asks npm's registry; the test skips if it is not to be had.

    It fails if the command says one of *faults*.
    """
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, timeout=NPM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm brought no packages within {NPM_SECONDS} s")
    if done.returncode:
        said = done.stderr.decode()
        faults = ("EUSAGE", "EINTEGRITY", "EBADENGINE", *faults)
        assert not any(word in said for word in faults), said
        codes = [line.split()[-1] for line in said.splitlines() if " code " in line]
        pytest.skip(f"npm could not bring the packages: {' '.join(codes) or 'no reason given'}")
