"""
Publish: sees to it that the views in Postgres are those of this program.

Each view and function says in its comment which definition it has: `[views 1 0f3a…]`, revision and
digest. So a start at which nothing changed costs one look at the catalog, a dump keeps what has to
be known, and what a person made is told apart from what is ours.

    not there                  made
    ours, of an older program  replaced in place: columns stay where they are, new ones come last,
                               and what people built on top goes on working
    ours, of a newer one       left alone
    somebody's                 left alone, and the log says what to do

The schema is taken only if it is empty or was ours before. No trouble here holds up the events:
it is logged once, and maintenance tries again.

Errors   none get out but the end of the connection.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import asyncpg

from collector.store.cluster import READER
from collector.store.migrate import LOCK
from collector.store.postgres import Connection, says
from collector.store.warehouse.columns import SCHEMA
from collector.store.warehouse.functions import FUNCTIONS, Function
from collector.store.warehouse.views import BASE, REVISION, VIEWS, View

log = logging.getLogger(__name__)

PUBLISH_SECONDS = 60.0  # Postgres that takes longer is away
LOCK_SECONDS = 5.0  # for a view that somebody reads; other readers wait behind us meanwhile
ABOUT: Final = "Events as analysts read them: views of the collector, see its docs/warehouse.md."

_MARK: Final = re.compile(r"\[views (\d+) ([0-9a-f]{16})\]$")
_FOUND: Final = """
select c.relname::text as name, obj_description(c.oid, 'pg_class') as comment
from pg_catalog.pg_class c
where c.relnamespace = to_regnamespace($1) and c.relkind in ('r', 'v', 'm', 'f', 'p', 'S', 'c')
union all
select p.proname || '(' || oidvectortypes(p.proargtypes) || ')', obj_description(p.oid, 'pg_proc')
from pg_catalog.pg_proc p where p.pronamespace = to_regnamespace($1)
"""
_COLUMNS: Final = """
select attname::text as name, format_type(atttypid, atttypmod) as type
from pg_catalog.pg_attribute
where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum
"""
_UNREADABLE: Final = """
select c.relname::text as name from pg_catalog.pg_class c
join pg_catalog.pg_roles r on r.rolname = $2
where c.relnamespace = to_regnamespace($1) and c.relname = any($3::text[])
and not (has_table_privilege(r.oid, c.oid, 'select')
    and has_schema_privilege(r.oid, c.relnamespace, 'usage'))
"""
_MAKE_SCHEMA: Final = (
    f"grant create on the database to it, or run create schema {SCHEMA} authorization with its name"
)

Thing: TypeAlias = View | Function


class Mark(NamedTuple):
    """Which definition something in the schema has."""

    revision: int
    digest: str


Found: TypeAlias = Mapping[str, Mark | None]  # what is in the schema; None is not ours


class InTheWay(Exception):
    """Says what a person has to decide about, and what to do; never leaves this file."""


class Publisher:
    """Publishes, and says once what is in the way."""

    def __init__(self, views: Sequence[View] = VIEWS, revision: int = REVISION) -> None:
        self._views = views
        self._revision = revision
        self._told: set[str] = set()
        self._cut_off = False  # the last attempt had no end

    async def publish(self, connection: Connection) -> None:
        """Make what is not there and replace what is old; the caller sets a time for it."""
        if self._cut_off:
            self._cut_off = False  # once more would hold up the events again: left to others
            return
        self._cut_off = True
        await self._try(connection)
        self._cut_off = False

    async def _try(self, connection: Connection) -> None:
        try:
            found = await state(connection)
            things: tuple[Thing, ...] = (*FUNCTIONS, *self._views)
            if any(self._is_due(thing, found) for thing in things):
                await self._publish(connection, found)
            await self._let_read(connection, await state(connection))
        except (asyncpg.PostgresError, InTheWay) as exc:
            self._tell(connection, exc)

    async def _publish(self, connection: Connection, found: Found) -> None:
        """First what the others rest on, then what is new in one go, then what is replaced."""
        await self._make(connection, FUNCTIONS)
        await self._make(connection, [view for view in self._views if view.name == BASE])
        rest = [view for view in self._views if view.name != BASE and self._is_due(view, found)]
        new = [view for view in rest if view.name not in found]
        old = [view for view in rest if view.name in found]
        try:
            await self._make(connection, new)
        except (asyncpg.PostgresError, InTheWay):
            if connection.is_closed():
                raise
            old = rest
        for view in old:
            # Each by itself: it waits for those who read it.
            try:
                await self._make(connection, [view])
            except asyncpg.LockNotAvailableError:
                raise  # it is busy now; to wait for the others too would hold up the events
            except (asyncpg.PostgresError, InTheWay) as exc:
                self._tell(connection, exc)

    def _is_due(self, thing: Thing, found: Found) -> bool:
        mark = found.get(thing.name)
        return mark is None or (mark.revision <= self._revision and mark.digest != thing.digest)

    async def _make(self, connection: Connection, things: Iterable[Thing]) -> None:
        """Make or replace all of *things*, or none."""
        async with connection.transaction():
            await _lock(connection)
            # Asked again: another collector may have been faster, or be newer.
            found = await state(connection)
            steps = []
            if await connection.fetchval("select to_regnamespace($1)", SCHEMA) is None:
                steps += [f"create schema {SCHEMA}", f"comment on schema {SCHEMA} is '{ABOUT}'"]
            elif found and not any(found.values()):
                raise InTheWay(
                    f"the schema {SCHEMA} was there before and is not the collector's: rename it, "
                    "and the views are made"
                )
            for thing in things:
                if self._is_due(thing, found):
                    steps += await self._statements(connection, thing, found)
            if steps:
                await connection.execute(";\n".join(steps))

    async def _statements(self, connection: Connection, thing: Thing, found: Found) -> list[str]:
        if thing.name in found and found[thing.name] is None:
            raise InTheWay(
                f"{SCHEMA}.{thing.name} is not the collector's: rename it, and the collector's is "
                "made in its place"
            )
        comment = f"'{thing.about} [views {self._revision} {thing.digest}]'"
        if isinstance(thing, Function):
            return [thing.sql, f"comment on function {SCHEMA}.{thing.name} is {comment}"]
        path = f'{SCHEMA}."{thing.name}"'
        names = None
        if thing.name in found:
            names = arranged(thing, await connection.fetch(_COLUMNS, path))
        return [
            f"create or replace view {path} as {thing.query(names)}",
            f"comment on view {path} is {comment}",
        ]

    async def _let_read(self, connection: Connection, found: Found) -> None:
        """Let the role that only reads read the views too, if there is one."""
        ours = [name for name, mark in found.items() if mark is not None]
        if not await connection.fetch(_UNREADABLE, SCHEMA, READER, ours):
            return
        async with connection.transaction():
            await _lock(connection)
            rows = await connection.fetch(_UNREADABLE, SCHEMA, READER, ours)
            names = ", ".join(f'{SCHEMA}."{row["name"]}"' for row in rows)
            if names:
                await connection.execute(
                    f"grant usage on schema {SCHEMA} to {READER};"
                    f"grant select on {names} to {READER}"
                )

    def _tell(self, connection: Connection, error: Exception) -> None:
        """Log what is in the way, if that is new."""
        if connection.is_closed():
            raise error
        text = str(error)
        if isinstance(error, asyncpg.PostgresError):
            text = says(error)
            if isinstance(error, asyncpg.InsufficientPrivilegeError):
                text += f": for the schema, {_MAKE_SCHEMA}; a view must belong to the collector"
        if text not in self._told:
            self._told.add(text)
            log.warning("Not all warehouse views can be made now; events are stored: %s", text)


async def _lock(connection: Connection) -> None:
    """Be the only collector that changes anything, until the transaction ends."""
    await connection.execute(f"set local lock_timeout = {LOCK_SECONDS * 1000:.0f}")
    await connection.execute("select pg_advisory_xact_lock($1)", LOCK)


async def state(connection: Connection) -> dict[str, Mark | None]:
    """What the schema holds."""
    found: dict[str, Mark | None] = {}
    for row in await connection.fetch(_FOUND, SCHEMA):
        mark = _MARK.search(row["comment"] or "")
        found[row["name"]] = Mark(int(mark[1]), mark[2]) if mark else None
    return found


def arranged(view: View, existing: Iterable[Mapping[str, str]]) -> tuple[str, ...]:
    """The columns of *view*: those that exist where they are, new ones after them."""
    types = {column.name: column.type for column in view.columns}
    there = []
    for row in existing:
        if types.get(row["name"]) != row["type"]:
            raise InTheWay(
                f"{SCHEMA}.{view.name} has a column {row['name']} ({row['type']}) that this "
                "collector does not give it: drop the view, and it is made anew"
            )
        there.append(row["name"])
    return (*there, *(name for name in types if name not in there))
