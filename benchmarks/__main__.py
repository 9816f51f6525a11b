"""
All figures, as a table of ratios, each to a bare limit that was measured in the same run.

    make bench                      everything; about 40 minutes
    make bench ARGS="--only pixel"  one of them
    make bench ARGS=--short         less of each, for a first look

Absolute figures of different runs cannot be compared: machines are shared and noisy. Ratios can,
and are: one that is much worse than in benchmarks/recorded.json is named at the end, and the exit
status is 1. `--record` writes what was measured there.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import dedupe, delivery, edge, growth, road
from benchmarks.edge import Row


def seen(millions: int) -> Row:
    """Ids a second in the last million of so many, ours against the first million."""
    with tempfile.TemporaryDirectory(prefix="cb") as directory:
        rows = asyncio.run(dedupe.measure(millions, Path(directory)))
    ours = next(row for row in rows if row["way"] == "index")
    keyed = next(row for row in rows if row["way"] == "unique_index")
    return {
        "what": f"dedupe: ids/s in million {millions}",
        "limit": "a unique index on the ids, in the same million",
        "ours": ours["last_million_per_second"],
        "bare": keyed["last_million_per_second"],
        "ratio": float(str(ours["last_million_per_second"]))
        / float(str(keyed["last_million_per_second"])),
        "flat": ours["flat"],
        "flat_unique_index": keyed["flat"],
        "look_up_and_add_us": ours["look_up_and_add_us"],
    }


HEADING = """| what | ours | bare limit | ratio | the limit |
| --- | ---: | ---: | ---: | --- |"""
RECORDED = Path(__file__).with_name("recorded.json")
WORSE = 1.3  # so much may a ratio differ on a noisy machine
KNOWN = {"what", "limit", "ours", "bare", "ratio", "lower_is_better", "skipped"}


def plan(*, short: bool) -> dict[str, Callable[[], Row]]:
    """Every figure by its name."""
    rounds, seconds = (2, 2.0) if short else (5, 4.0)
    return {
        "pixel": lambda: edge.compare("pixel", 64, rounds, seconds),
        "single": lambda: edge.compare("single", 64, rounds, seconds),
        "batch": lambda: edge.batches(rounds, seconds),
        "far_limit": lambda: edge.far_limit(rounds, seconds),
        "p99": lambda: edge.acknowledgements(4.0 if short else 10.0),
        "end_to_end": lambda: road.end_to_end(3.0 if short else 10.0),
        "drain": lambda: road.drain(3.0 if short else 6.0),
        "growth": lambda: growth.measure(*((1, 2, 1.5) if short else (20, 3, 4.0))),
        "idle": lambda: road.idle(5.0 if short else 20.0),
        "webhook": lambda: delivery.webhook(2 if short else 5, 30_000, seconds),
        "destinations": lambda: delivery.ten(2 if short else 5, 5.0 if short else 10.0),
        "dedupe_1m": lambda: seen(1),
        "dedupe_20m": lambda: seen(2 if short else 20),
    }


def fell(row: Row, recorded: float | None) -> bool:
    """Whether the ratio of *row* is much worse than the one that was *recorded*."""
    ratio = float(str(row["ratio"]))
    if recorded is None or row.get("skipped"):
        return False
    return ratio > recorded * WORSE if row.get("lower_is_better") else ratio < recorded / WORSE


def line(row: Row) -> str:
    if row.get("skipped"):
        return f"| {row['what']} | | | | skipped: {row['limit']} |"
    digits = 1 if float(str(row["ours"])) < 1000 else 0
    cells = (
        row["what"],
        f"{row['ours']:,.{digits}f}",
        f"{row['bare']:,.{digits}f}",
        f"{row['ratio']:.2f}",
    )
    return "| " + " | ".join([*map(str, cells), str(row["limit"])]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="name of a figure; may be repeated")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--record", action="store_true", help="remember the ratios of this run")
    given = parser.parse_args()
    figures = plan(short=given.short)
    for name in given.only or ():
        if name not in figures:
            sys.exit(f"{name} is no figure; there are {', '.join(figures)}")
    recorded: dict[str, float] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    measured: dict[str, float] = {}
    worse: list[str] = []
    if not given.json:
        print(HEADING)
    for name, measure in figures.items():
        if given.only and name not in given.only:
            continue
        began = time.monotonic()
        row = measure()
        if not row.get("skipped"):
            measured[name] = round(float(str(row["ratio"])), 2)
        if fell(row, recorded.get(name)):
            worse.append(f"{name}: {measured[name]} now, {recorded[name]} recorded")
        if given.json:
            print(json.dumps({"name": name, **row}), flush=True)
            continue
        print(line(row), flush=True)
        more = ", ".join(f"{k} {v:,.2f}" for k, v in row.items() if k not in KNOWN)
        print(f"{name}: {time.monotonic() - began:.0f} s {more}", file=sys.stderr, flush=True)
    if given.record:
        RECORDED.write_text(json.dumps(recorded | measured, indent=2) + "\n")
    elif worse:
        sys.exit("much worse than recorded:\n" + "\n".join(worse))


if __name__ == "__main__":
    main()
