"""Disks that are filled, and files that can be damaged."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


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
