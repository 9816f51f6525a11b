"""Small disks that can be filled, and files that can be damaged."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own at *place*; skips where there is none to be had."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk to fill")
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: somebody who was killed may not have let go of it yet.
        subprocess.run(["umount", "-l", place], check=False)


@contextlib.contextmanager
def filled(place: Path) -> Iterator[None]:
    """Not a byte is left on the disk of *place*."""
    filler = place / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536) == 65536:
                pass
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextlib.contextmanager
def immutable(place: Path) -> Iterator[None]:
    """Nothing can be made or removed in a directory, not by root either; skips where it can."""
    made = subprocess.run(["chattr", "+i", place], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no directory can be made immutable here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", place], check=True)


def journals(data_dir: Path) -> list[Path]:
    """The files of a journal, the oldest first."""
    return sorted((data_dir / "journal").glob("*.journal"))
