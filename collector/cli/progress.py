"""
Progress: what happens, while it happens: one line that is kept current, or a line now and then.

Units    seconds.
"""

import shutil
import sys
import time
from typing import TextIO

TERMINAL_SECONDS = 0.25
LINES_SECONDS = 5.0


class Progress:
    """Shows lines on *out*, each in place of the last one where that is a terminal."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._every_seconds = TERMINAL_SECONDS if self._terminal else LINES_SECONDS
        self._shown_at = 0.0
        self._stage = ""

    def show(self, stage: str, line: str) -> None:
        """Show *line* if it is time for one, or if this *stage* begins."""
        now = time.monotonic()
        if stage == self._stage and now - self._shown_at < self._every_seconds:
            return
        self._stage, self._shown_at = stage, now
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._out.write(f"\r{line[:width]}\x1b[K")
        else:
            self._out.write(f"{line}\n")
        self._out.flush()

    def say(self, line: str) -> None:
        """Show *line* whatever time it is, and let it stand."""
        self._out.write(f"\r{line}\x1b[K\n" if self._terminal else f"{line}\n")
        self._out.flush()

    def clear(self) -> None:
        """Take the line away that is kept current."""
        if self._terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()


class Silence(Progress):
    """Shows nothing."""

    def show(self, stage: str, line: str) -> None:
        """Not shown."""

    def say(self, line: str) -> None:
        """Not shown."""

    def clear(self) -> None:
        """Nothing to take away."""
