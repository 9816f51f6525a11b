"""Atomic: a small file that is there as a whole, old or new, whatever happens meanwhile."""

import os
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Put *data* into *path*; on disk when it returns. OSError as the disk says."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
