"""
Tables: how numbers, times and rows are written for people.

Units    seconds; times in UTC.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

CELL_CHARS_MAX = 60
STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def show_json(value: object) -> None:
    """Print *value* as JSON on one line."""
    click.echo(msgspec.json.encode(value))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[str]) -> str:
    """*rows* under *columns*, of which those named in *numbers* are aligned to the right."""
    lines = [columns, *([cut(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def show_notes(notes: Sequence[str]) -> None:
    """Print *notes* under a table, if there are any."""
    for line in ("", *notes) if notes else ():
        click.echo(line)


def cut(text: str) -> str:
    """*text* on one line that fits into a cell, and of which a terminal makes nothing else."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= CELL_CHARS_MAX else f"{line[: CELL_CHARS_MAX - 1]}…"


def plain(text: str) -> str:
    """*text* on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def span(seconds: float) -> str:
    """A length of time, in its two largest units."""
    left = round(seconds)
    words: list[str] = []
    for size, unit in STEPS:
        if left >= size or (unit == "s" and not words):
            words.append(f"{left // size} {unit}")
            left %= size
        elif words:
            break
    return " ".join(words[:2])


def clock(at: datetime | None) -> str:
    """A point in time, to the second."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ago(at: datetime) -> str:
    """How long ago that was."""
    return f"{span(max(0.0, (datetime.now(UTC) - at).total_seconds()))} ago"


def many(count: int, one: str, more: str = "") -> str:
    """*count* with its noun: `1 event`, `2,000 events`."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def by_reason(reasons: Mapping[str, int]) -> str:
    """`1,204 consent, 3 bot`."""
    return ", ".join(f"{events:,} {reason}" for reason, events in reasons.items())


def members(value: msgspec.Struct) -> dict[str, Any]:
    """A struct as an object, to be shown with members of the command's own."""
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found
