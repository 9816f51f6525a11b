"""Which events a replay is for: SQL and Python must say the same, and SQL no more than that."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import BadRequest
from collector.store.postgres import Connection
from collector.store.selection import Selection, check_where, clause, decode, encode, pattern
from tests.conftest import PostgresServer
from tests.store.desk import RECEIVED, add_courier, add_event, add_letter

TYPES = ("track", "identify", "page", "screen", "group", "alias")
NAMES = (None, "Order Completed", "Order_Completed", "Order", "order completed", "100%", "a\\b", "")
SOURCES = ("shop", "app", "%")
MOMENTS = [RECEIVED + timedelta(hours=hours) for hours in (-30, -1, 0, 1, 30)]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def selected(
    connection: Connection, selection: Selection, replay: int | None = None
) -> list[int]:
    condition, arguments = clause(selection, 2, replay)
    rows = await connection.fetch(
        f"select e.seq from collector.events e where e.seq > $1 and {condition} order by 1",
        0,
        *arguments,
    )
    return [row["seq"] for row in rows]


def glob(text: str, name: str) -> bool:
    return fnmatchcase(name, text.replace("[", "[[]"))


def matches(selection: Selection, event: dict[str, Any]) -> bool:
    """What the selection means, in Python."""
    since, until = selection.since, selection.until
    named = selection.types or selection.message_ids
    return (
        (since is None or event["received_at"] >= since)
        and (until is None or event["received_at"] < until)
        and (
            not selection.events
            or (
                event["event"] is not None
                and any(glob(text, event["event"]) for text in selection.events)
            )
        )
        and (event["type"] in selection.types if selection.types else True)
        and (bool(named) or event["type"] not in {"identify", "group", "alias"})
        and (not selection.sources or event["source"] in selection.sources)
        and (not selection.message_ids or event["message_id"] in selection.message_ids)
    )


events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(TYPES),
        "event": st.sampled_from(NAMES),
        "source": st.sampled_from(SOURCES),
        "message_id": st.sampled_from(["m1", "m2", "%"]),
        "received_at": st.sampled_from(MOMENTS),
    }
)
globs = st.sampled_from(
    ["*", "?*", "Order*", "*completed", "Order?Completed", "Order_*", "100%", "1*%", "%", "a\\b",
     "*\\*", "_____", "order*", "[O]rder"]
)  # fmt: skip
selections = st.builds(
    Selection,
    since=st.none() | st.sampled_from(MOMENTS),
    until=st.none() | st.sampled_from(MOMENTS),
    events=st.lists(globs, max_size=2),
    types=st.lists(st.sampled_from([*TYPES, "nothing"]), max_size=2),
    sources=st.lists(st.sampled_from([*SOURCES, "nothing"]), max_size=2),
    message_ids=st.lists(st.sampled_from(["m1", "%", "nothing"]), max_size=2),
)


@pytest.fixture(scope="module")
def database(postgres: PostgresServer) -> str:
    """One database for all examples: each leaves it empty."""
    name = "test_selection"
    asyncio.run(postgres.execute(f"create database {name} template template owner collector"))
    return postgres.dsn(name)


@given(stored=st.lists(events, min_size=1, max_size=8), selection=selections)
def test_sql_selects_what_the_selection_means(
    database: str, stored: list[dict[str, Any]], selection: Selection
) -> None:
    async def ask() -> list[int]:
        connection = await asyncpg.connect(database)
        try:
            transaction = connection.transaction()
            await transaction.start()
            for seq, event in enumerate(stored, 1):
                await add_event(connection, seq, **event)
            found = await selected(connection, decode(encode(selection)))
            await transaction.rollback()
            return found
        finally:
            await connection.close()

    meant = [seq for seq, event in enumerate(stored, 1) if matches(selection, event)]
    assert asyncio.run(ask()) == meant


@pytest.mark.parametrize("name", ["plain", "100%", "a_b", "a\\b", "*", "?", "a\nb", "'; drop --"])
async def test_a_glob_without_stars_is_the_name_itself(connection: Connection, name: str) -> None:
    assert await connection.fetchval("select $1::text like $2", name, pattern(name)) is True
    if "*" not in name and "?" not in name:
        assert await connection.fetchval("select 'x' || $1::text like $2", name, pattern(name)) is (
            False
        )


async def test_what_is_is_not_replayed_unless_it_is_named(connection: Connection) -> None:
    for seq, type_ in enumerate(TYPES, 1):
        await add_event(connection, seq, type=type_, event=None)
    assert await selected(connection, Selection()) == [1, 3, 4]
    assert await selected(connection, Selection(types=["identify", "track"])) == [1, 2]
    assert await selected(connection, Selection(message_ids=["m2", "m6"])) == [2, 6]


async def test_times_are_half_open_and_utc_unless_they_say_otherwise(
    connection: Connection,
) -> None:
    for seq in (1, 2, 3):
        await add_event(connection, seq, received_at=datetime(2026, 6, 1, seq, tzinfo=UTC))
    one, two = datetime(2026, 6, 1, 1), datetime(2026, 6, 1, 2)  # noqa: DTZ001  that is the point
    assert await selected(connection, Selection(since=one, until=two)) == [1]
    assert await selected(connection, decode(b'{"since": "2026-06-01T02:00:00"}')) == [2, 3]
    east = timezone(timedelta(hours=2))
    assert await selected(connection, Selection(since=datetime(2026, 6, 1, 4, tzinfo=east))) == [
        2,
        3,
    ]


async def test_dead_letters_are_those_of_the_one_replay(connection: Connection) -> None:
    for seq in (1, 2, 3):
        await add_event(connection, seq, type="identify")
    await add_courier(connection, "a")
    await add_letter(connection, "a", 1, retry=7)
    await add_letter(connection, "a", 2, retry=8)
    await add_letter(connection, "a", 3)
    assert await selected(connection, Selection(dead_letters=True), 7) == [1]


async def test_a_condition_narrows_and_cannot_widen(connection: Connection) -> None:
    for seq in (1, 2, 3):
        await add_event(connection, seq, source="app" if seq == 2 else "shop")
    condition = "e.seq = 1 or e.seq = 2"
    assert await selected(connection, Selection(sources=["shop"], where=condition)) == [1]
    assert await selected(connection, Selection(where="e.event is null")) == []
    assert await selected(connection, Selection(where="null")) == []


@pytest.mark.parametrize(
    "where",
    [
        *("true) or (true", ") or (", "true)", "(true", "(true]", "a[1)", "())("),
        *("true -- ", "true --", "/* */ true", "true */", "--\ntrue"),
        *("true;", "true; delete from collector.events", ";"),
        *("'", "'a''", 'e."x', "e.name = 'a' || '"),
        *("e.seq = $1", "$$a$$ = 'a'", "$x$)$x$ = 'a'", "e.a$b"),
        *(r"e.name = E'\'' or true) --'", r"e'\'", "U&'\\0027'", 'u&"a"', r"1e'\' or'"),
        *("", "  \n ", "true\0", "true\x08", "x" * 5_000),
    ],
)
def test_what_could_leave_its_parentheses_is_refused(where: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        check_where(where)
    assert refusal.value.code == "bad_where"
    assert "boolean expression" in refusal.value.detail


@pytest.mark.parametrize(
    "where",
    [
        "e.name = 'it''s ) -- ; $1 /* fine'",
        "e.\"name\" like'x'",
        '"e"."event" = \'a"b\'',
        "(e.properties->'items'->0->>'sku') = any(array['a', 'b'])",
        r"e.name ~ '^\d+$'",
        "e.name = 'ends in a backslash\\'",
        "e.name = 'größe' and e.properties ? 'a'",
    ],
)
async def test_what_stays_in_its_parentheses_is_taken(connection: Connection, where: str) -> None:
    await add_event(connection, 1)
    await selected(connection, Selection(where=where))


@given(st.text(alphabet="ab'\"()[];-/*$\\eEuU& \n1=", max_size=12))
def test_whatever_is_taken_stays_in_its_parentheses(database: str, where: str) -> None:
    """Behind `false and (…)` nothing that Postgres understands may become true, or two things."""
    try:
        check_where(where)
    except BadRequest:
        return

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(database)
        try:
            return list(await connection.fetch(f"select 1 where false and (\n{where}\n)"))
        except asyncpg.PostgresError:
            return []
        finally:
            await connection.close()

    assert asyncio.run(ask()) == []


def test_a_filter_with_a_misspelt_member_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"sinse": "2026-06-01T00:00:00Z"}')


def test_no_filter_is_a_selection_of_all_that_happened() -> None:
    assert decode(None) == Selection()
    assert encode(Selection()) == "{}"
