"""
What the tests of the warehouse views share: rows put in by hand, and what was released.

    python -m tests.store.warehouse

writes down what this revision gives, for the upgrade test of all later ones, and the lists of views
and columns in docs/warehouse.md. To be run after REVISION has grown; a released file never changes.
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from collector.store.warehouse.columns import SCHEMA, Column
from collector.store.warehouse.events import EVENTS
from collector.store.warehouse.views import _CONTEXT, REVISION, VIEWS, View

RELEASED = Path(__file__).parent / "released"
PAGE = Path(__file__).parents[2] / "docs" / "warehouse.md"
COLUMNS = (
    "seq", "received_at", "timestamp", "message_id", "type", "event", "name", "category", "source",
    "user_id", "anonymous_id", "group_id", "previous_id", "context", "properties", "traits",
)  # fmt: skip
BY_NAME = {view.name: view for view in VIEWS}
Rows = list[asyncpg.Record]


def row(seq: int, received_at: Any, **given: Any) -> tuple[Any, ...]:
    """A row of collector.events; JSON as text."""
    values = {
        "seq": seq,
        "received_at": received_at,
        "timestamp": received_at,
        "message_id": str(uuid.UUID(int=seq)),
        "type": "track",
        "source": "default",
        "user_id": "u",
        **given,
    }
    return tuple(values.get(name) for name in COLUMNS)


async def insert(connection: asyncpg.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table(
        "events", schema_name="collector", records=rows, columns=COLUMNS
    )


async def all_of(connection: asyncpg.Connection, view: str, rest: str = "") -> Rows:
    """All rows and columns of *view*: every column is read, and sent here."""
    found: Rows = await connection.fetch(f'select * from {SCHEMA}."{view}" {rest}')
    return found


def plan_nodes(plan: str) -> Iterator[dict[str, Any]]:
    """Every node of a plan, as `explain (format json)` gives it."""

    def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        for child in node.get("Plans", []):
            yield from walk(child)

    yield from walk(json.loads(plan)[0]["Plan"])


# --- what was released -------------------------------------------------------------------------


def _listed(view: View) -> str:
    return "; ".join(f"{column.name} {column.type}" for column in view.columns)


def written() -> str:
    """The views and columns of this revision, one view a line; * is those of the context."""
    context = _context()
    lines = [f"* {context}"]
    lines += [f"{view.name} {_listed(view).replace(context, '*')}" for view in VIEWS]
    return "\n".join(lines) + "\n"


def _context() -> str:
    return "; ".join(f"{column.name} {column.type}" for column in _CONTEXT)


def released(revision: int) -> dict[str, list[tuple[str, str]]]:
    """For each view of *revision* its columns, as names and types."""
    lines = (RELEASED / f"views-{revision}.txt").read_text(encoding="utf-8").splitlines()
    context = lines[0].partition(" ")[2]
    found = {}
    for line in lines[1:]:
        name, _, listed = line.partition(" ")
        pairs = listed.replace("*", context).split("; ")
        found[name] = [(first, type_) for first, _, type_ in (p.partition(" ") for p in pairs)]
    return found


# --- the lists of docs/warehouse.md ------------------------------------------------------------

SHORT = {"timestamp with time zone": "timestamptz"}


def _column(column: Column) -> str:
    type_ = SHORT.get(column.type, column.type)
    return f"`{column.name}`" + ("" if type_ == "text" else f" {type_}")


def page() -> str:
    """All views and their columns, in Markdown; columns are text where nothing else is said."""
    common = [c for c in BY_NAME["pages"].columns if c in BY_NAME["aliases"].columns]
    lines = ["### Columns of every view of calls and events", ""]
    lines += [", ".join(map(_column, common)) + ".", ""]
    rows = {"Calls": [view for view in VIEWS if _spec_of(view) is None]}
    for spec in EVENTS:
        rows[spec] = [view for view in VIEWS if _spec_of(view) == spec]
    shared = {column.name for column in common}
    for title, views in rows.items():
        lines += [f"### {title}", ""]
        if title != "Calls":
            shared |= {"event", "event_text", "properties"}
            lines += ["All of them have `event`, `event_text` and `properties` jsonb, too.", ""]
        lines += ["| view | columns of its own |", "| --- | --- |"]
        for view in views:
            whole = view.name in {"users", "event_products"}
            own = [c for c in view.columns if whole or c.name not in shared]
            lines.append(f"| `{view.name}` | {', '.join(map(_column, own)) or '–'} |")
        lines.append("")
    return "\n".join(lines)


def _spec_of(view: View) -> str | None:
    for spec, events in EVENTS.items():
        if any(view.about.startswith(f"{name}, ") for name in events):
            return spec
    return None


MARKED = re.compile(r"(?<=<!-- views -->\n).*(?=<!-- end -->)", re.S)

if __name__ == "__main__":
    RELEASED.mkdir(exist_ok=True)
    (RELEASED / f"views-{REVISION}.txt").write_text(written(), encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKED.sub(lambda _: page(), text), encoding="utf-8")
