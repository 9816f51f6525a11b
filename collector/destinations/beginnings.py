"""
Beginnings: since when each destination is in the settings, on this machine.

A new destination gets what is accepted from then on. Its row in Postgres may be made much later,
after restarts and kills, if Postgres is away; so the time is kept in a file, written before the
first request is answered.

Shapes   {"name": seconds since 1970}
Errors   none: a file that cannot be read or written is logged, and now is the beginning.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from collector.store import atomic

log = logging.getLogger(__name__)


class Beginnings:
    """When each of *names* was first seen; without a *path* that is forgotten at the end."""

    def __init__(self, path: Path | None, names: Iterable[str], now: float) -> None:
        known = _read(path)
        # One that was taken out and comes back begins anew.
        self._times = {name: known.get(name, now) for name in names}
        if path is not None and self._times != known:
            try:
                atomic.write(path, msgspec.json.encode(self._times))
            except OSError as exc:
                log.warning("%s cannot be written: %s", path.name, exc.strerror)

    def __getitem__(self, name: str) -> float:
        return self._times[name]


def _read(path: Path | None) -> dict[str, float]:
    if path is None or not path.exists():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError) as exc:
        log.warning("%s cannot be read: %s", path.name, exc)
        return {}
