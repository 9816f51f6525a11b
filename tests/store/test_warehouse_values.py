"""A view never fails on what a row holds, and reads a value as it is plainly meant, or not."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.refine.names import snake
from collector.store.migrate import migrate
from collector.store.partitions import make_ahead
from collector.store.warehouse import VIEWS, Publisher
from collector.store.warehouse.events import EVENTS
from tests.store.road import connected
from tests.store.warehouse import BY_NAME, all_of, insert, row

NOW = datetime.now(UTC)
TEXTS = (
    "", " ", "12,50", "1,299.00", "1.299,00", "1e5", "1E400", "0x1F", "1_000", "NaN", "Infinity",
    "-inf", "+", "-", ".", "..", "1.2.3", "--1", "١٢", "12", "\u00a012", " 12\n", "$5", "5 €",
    "9" * 15, "9" * 16, "9" * 400, "1" + "0" * 140_000, "0." + "0" * 20_000 + "1", "-0", "+7", ".5",
    "5.", "true", "TRUE", "yes", "no", "0", "1", "on", "tru", "null", "undefined", "[]", "{}",
    "[1]", '{"a":1}', "2026-02-29", "2024-02-29", "0000-01-01", "0001-01-01", "9999-12-31",
    "2026-02-30", "10000-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
    "2026-13-01", "2026-00-10", "2026-01-32", "2026-01-01T24:00:00Z", "2026-01-01T23:59:60Z",
    "2026-06-30T23:59:60.999999999Z", "2026-01-01T00:00:00+99:99", "infinity", "-infinity", "now",
    "today", "epoch", "yesterday", "01/02/2026", "1 January 2026", "2026-01-01T", "20260101",
    "20260101T101010Z", "99999999999999", "1700000000", "1700000000.123", "1700000000000",
    "allballs", "x" * 100_000, "😀", "\\", "'", '"', "%s", "\u202e12", "a\tb", "P1D", "2026-W01-1",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "0.0", "1", "-1", "1.5", "1e300", "-1e308", "1e-300", "1e400", "1e131071",
    "1e-16383", "9" * 400, "9007199254740993", "1700000000", "1700000000000", "99999999",
    "100000000",
    "99999999999", "100000000000", "99999999999999", "100000000000000", "0.1000",
)  # fmt: skip
OTHERS = (
    "null", "true", "false", "[]", "{}", "[1,2]", '{"a":{"b":[{}]}}', "[[[[[]]]]]", "[null]",
    '[{"price":"12,50","quantity":{}},7,null,"x",[],true]', '{"name":{"name":[]},"id":null}',
    "[" * 90 + "]" * 90,
)  # fmt: skip
NASTY = (*map(json.dumps, TEXTS), *NUMBERS, *OTHERS)
SPEC = {event: text for events in EVENTS.values() for event, text in events.items()}


@pytest.fixture
async def connection(server_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """To an up-to-date database, in our Postgres and in that of the distribution."""
    async with connected(server_dsn) as opened:
        await migrate(opened)
        await make_ahead(opened)
        await Publisher().publish(opened)
        yield opened


def keys(text: str) -> list[list[str]]:
    """Where the members are that columns are read from."""
    words = [word.partition(":")[0] for word in text.split()]
    return [key.split(".") for word in words for key in word.split("|")]


def filled(paths: list[list[str]], values: Sequence[str]) -> str:
    """An object, as JSON: each of *paths* leads to one of *values*, which are JSON, in turn."""
    turn = itertools.cycle(values)
    tops = dict.fromkeys(path[0] for path in paths)
    members = []
    for top in tops:
        inner = dict.fromkeys(path[1] for path in paths if path[0] == top and len(path) > 1)
        text = ",".join(f'"{key}":{next(turn)}' for key in inner)
        members.append(f'"{top}":' + (f"{{{text}}}" if inner else next(turn)))
    return "{" + ",".join(members) + "}"


CONTEXT = keys(
    "active app.build campaign.name consent device.adTrackingEnabled device.id groupId ip "
    "library.name network.wifi os.name page.url referrer.id screen.density screen.width sessionId "
    "traits.email userAgentData.mobile userAgentData.platform clickIds.gclid"
)
TRAITS = keys(
    "address.city age birthday company.employee_count company.name createdAt created_at email "
    "lifetime_value name order_count orderCount employees"
)


# Between them they have columns of each kind, and there every value stands in every column.
THOROUGHLY = ("Order Completed", "Trial Started", "Application Opened", "Push Notification Tapped")
SHORT = [value for value in NASTY if len(value) < 1_000]


def nasty_events() -> Iterator[tuple[Any, ...]]:
    """Rows of every type and event."""
    number = itertools.count(1)
    page = keys("name category path referrer search title url keywords")
    for shift, (event, text) in enumerate(SPEC.items()):
        paths = keys(text)
        turns = [[value] for value in NASTY] if event in THOROUGHLY else [
            SHORT[start:] + SHORT[:start] for start in range(shift % 9, len(SHORT), 9)
        ]  # fmt: skip
        for values in turns if paths else ():
            yield row(next(number), NOW, event=event, properties=filled(paths, values))
    for value in SHORT:
        for type_ in ("track", "page", "screen", "identify", "group", "alias"):
            seq = next(number)
            yield row(
                seq,
                NOW - timedelta(days=seq % 3 * 200),  # the default partition, too
                type=type_,
                event="Order Completed" if type_ == "track" else None,
                context=value if seq % 2 else filled(CONTEXT, [value]),
                traits=value if seq % 5 == 0 else filled(TRAITS, [value]),
                properties=value if seq % 5 == 0 else filled(page, [value]),
            )


async def test_no_view_fails_on_any_value(connection: asyncpg.Connection) -> None:
    await insert(connection, nasty_events())
    assert await connection.fetchval("select count(*) from collector.events_default") > 100
    await connection.executemany(
        "insert into collector.users values ($1, $2::jsonb, now(), 1)",
        [(str(number), filled(TRAITS, [value])) for number, value in enumerate(SHORT)],
    )
    seen = {view.name: await all_of(connection, view.name) for view in VIEWS}
    silent = {snake(event) for event, text in SPEC.items() if not text}
    assert {name for name, found in seen.items() if not found} == silent
    # Each column had something to read, and gave it where it could.
    for event in THOROUGHLY:
        assert all(
            any(record[column.name] is not None for record in seen[snake(event)])
            for column in BY_NAME[snake(event)].columns
            if column.name not in {"anonymous_id", "sent_at", "original_timestamp", "context"}
            and not column.name.startswith("context_")
        )


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(10**400), 10**400),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20),
        st.from_regex(r"[-+ ]?[0-9.,eE]{0,20}\s?", fullmatch=True),
        st.from_regex(r"[0-9]{4}-?[0-3]?[0-9]-?[0-3][0-9]([T ][0-9:.+Zz-]{0,14})?", fullmatch=True),
        st.sampled_from(["true", "No", "1", "on", "Infinity", "12,50"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "name", "price", "quantity", "id", "medium", "city"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@st.composite
def odd_events(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """An event, and what a dozen senders say in it."""
    event = draw(st.sampled_from(sorted(SPEC)))
    names = sorted({path[0] for path in keys(SPEC[event])} | {"products", "other"})
    members = st.dictionaries(st.sampled_from(names), json_values, max_size=len(names))
    return event, draw(st.lists(members | json_values, min_size=1, max_size=12))


async def test_no_view_fails_on_any_json(connection: asyncpg.Connection) -> None:
    loop = asyncio.get_running_loop()

    async def look(event: str, sent: list[Any]) -> None:
        await connection.execute("delete from collector.events")
        rows = [
            row(number, NOW, type=type_, event=event, properties=text, context=text, traits=text)
            for number, text in enumerate(map(json.dumps, sent))
            for type_ in ("track", "identify", "page", "group")
        ]
        await insert(connection, rows)
        for view in (snake(event), "events", "identifies", "pages", "groups", "event_products"):
            await all_of(connection, view)

    @settings(max_examples=max(20, settings().max_examples // 3))
    @given(odd_events())
    def check(odd: tuple[str, list[Any]]) -> None:
        asyncio.run_coroutine_threadsafe(look(*odd), loop).result(60)

    await asyncio.to_thread(check)


READINGS: list[tuple[str, str, Any]] = [
    *(("as_number", text, None) for text in (
        '"12,50"', '""', '" "', '"1,299.00"', '"1e5"', '"NaN"', '"Infinity"', '"0x1F"', '"1_000"',
        '"."', '"+"', "true", "{}", "[]", "[1]", "null", '"$5"', '"1 000"', '"' + "9" * 16 + '"',
    )),
    *(("as_number", text, Decimal(wanted)) for text, wanted in (
        ("0", "0"), ("19.99", "19.99"), ('"19.99"', "19.99"), ('" 20 "', "20"), ('"-3."', "-3"),
        ('"+.5"', "0.5"), ("-1e2", "-100"), ('"007"', "7"),
    )),
    *(("as_boolean", text, True) for text in ("true", '"TRUE"', '"yes"', '"on"', "1", '"1"')),
    *(("as_boolean", text, False) for text in ("false", '"False"', '"no"', '"off"', "0", '"0"')),
    *(("as_boolean", text, None) for text in ('""', '"t"', "2", "1.0", "null", "[]", '" on"')),
    *(("as_time", text, datetime.fromisoformat(wanted)) for text, wanted in (
        ('"2026-01-02T03:04:05Z"', "2026-01-02T03:04:05+00:00"),
        ('"2026-01-02T03:04:05.678901+02:30"', "2026-01-02T00:34:05.678901+00:00"),
        ('"2026-01-02 03:04:05-0800"', "2026-01-02T11:04:05+00:00"),
        ('"2026-01-02t03:04z"', "2026-01-02T03:04:00+00:00"),
        ('"20260102T030405Z"', "2026-01-02T03:04:05+00:00"),
        ('"2026-01-02 03:04:05 UTC"', "2026-01-02T03:04:05+00:00"),
        ('"2026-01-02T03:04:05+01"', "2026-01-02T02:04:05+00:00"),
        ('"2026-01-02"', "2026-01-02T00:00:00+00:00"),
        ("1700000000", "2023-11-14T22:13:20+00:00"),
        ('"1700000000500"', "2023-11-14T22:13:20.500000+00:00"),
    )),
    *(("as_time", json.dumps(text), None) for text in (
        "2026-02-30", "2026-13-01", "0000-01-01", "now", "infinity", "01/02/2026", "2026", "17",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-01-01T25:00:00Z", 17, {},
    )),
    ("as_date", '"1980-02-29"', date(1980, 2, 29)),
    ("as_date", '"2026-01-01T00:30:00+02:00"', date(2025, 12, 31)),
    ("as_date", '"1981-02-29"', None),
    ("as_list", "[1]", "[1]"),
    ("as_list", '"[1]"', None),
    ("as_list", "{}", None),
    ("as_json", "null", None),
    ("as_json", "{}", "{}"),
]  # fmt: skip


async def test_values_are_read_as_they_are_plainly_meant(connection: asyncpg.Connection) -> None:
    for zone in ("UTC", "Pacific/Auckland"):
        await connection.execute(f"set timezone = '{zone}'; set datestyle = 'German'")
        for function, text, wanted in READINGS:
            found = await connection.fetchval(f"select warehouse.{function}($1::jsonb)", text)
            assert found == wanted, (function, text)
            assert type(found) is type(wanted)


async def test_every_day_there_is_is_read_and_no_other(connection: asyncpg.Connection) -> None:
    days = [f"{year}-{month:02}-{day:02}" for year in (1900, 2000, 2023, 2024, 9999)
            for month in range(14) for day in range(33)]  # fmt: skip

    def real(text: str) -> date | None:
        try:
            return date.fromisoformat(text)
        except ValueError:
            return None

    found = await connection.fetch(
        "select day, warehouse.as_date(to_jsonb(day)) as read from unnest($1::text[]) day", days
    )
    assert [row["read"] for row in found] == [real(row["day"]) for row in found]


async def test_views_are_empty_when_there_are_no_events(connection: asyncpg.Connection) -> None:
    for view in VIEWS:
        assert await all_of(connection, view.name) == []


NAMES = [
    ("Order Completed", "order_completed"),
    ("Completed Order", "order_completed"),
    ("Viewed Product Category", "product_list_viewed"),
    ("orderCompleted", "order_completed"),
    ("My Own Event", "my_own_event"),
    ("HTMLLoaded", "html_loaded"),
    ("a.b-c  d", "a_b_c_d"),
    ("__x__", "x"),
    ("!!!", "!!!"),
    ("", ""),
    (None, None),
]


async def test_an_event_is_called_as_its_view(connection: asyncpg.Connection) -> None:
    for name, wanted in NAMES:
        assert await connection.fetchval("select warehouse.as_event($1)", name) == wanted
    # What Postgres makes of a name is what Python makes of it.
    for event in SPEC:
        assert await connection.fetchval("select warehouse.as_event($1)", event) == snake(event)
