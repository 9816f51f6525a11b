"""What a sender says stands in the view of its call or event, under the name that analysts know."""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg

from collector.refine.names import names_of, snake
from collector.store.warehouse.events import EVENTS
from tests.store.road import Road, connected, track
from tests.store.samples import PRODUCT, PRODUCTS, SAMPLES
from tests.store.warehouse import BY_NAME, PAGE, all_of

AT = "2026-03-01T10:00:00.000Z"
MOMENT = datetime(2026, 3, 1, 10, tzinfo=UTC)
TIMES = {"trial_start_date", "trial_end_date", "airdate", "created_at"}
DAYS = {"birthday"}
CONTEXT = {
    "ip": "203.0.113.7",
    "userAgent": "Mozilla/5.0",
    "locale": "en-US",
    "timezone": "Europe/Berlin",
    "library": {"name": "analytics.js", "version": "next-1.70.0"},
    "page": {"path": "/a", "referrer": "", "search": "?a=b", "title": "A", "url": "https://s/a"},
    "campaign": {
        "name": "spring",
        "source": "news",
        "medium": "email",
        "term": "t",
        "content": "c",
    },
    "device": {"id": "d", "advertisingId": "7A3C", "adTrackingEnabled": True, "type": "ios"},
    "network": {"wifi": True, "carrier": "T-Mobile"},
    "screen": {"width": 320, "height": 568, "density": 2},
    "os": {"name": "iOS", "version": "17.1"},
    "app": {"name": "Shop", "version": "545", "build": "3.0.1.545", "namespace": "com.shop"},
    "userAgentData": {"mobile": False, "platform": "macOS"},
    "clickIds": {"gclid": "Cj0"},
    "traits": {"email": "a@example.com"},
    "groupId": "g",
}
TRAITS: dict[str, Any] = {
    "address": {"city": "Oslo", "country": "NO", "postalCode": "0150", "state": "", "street": "1"},
    "age": 44,
    "avatar": "https://example.com/a.png",
    "birthday": "1980-02-29",
    "company": {"name": "Initech", "id": 123, "industry": "Software", "employee_count": 7},
    "createdAt": "2020-05-04T03:02:01+02:00",
    "email": "peter@example.com",
    "firstName": "Peter",
    "last_name": "Gibbons",
    "lifetime_value": "1299.50",
    "phone": "410-555-9412",
}


def flat(sent: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What Segment's warehouse makes of an object: members of members by their joined names."""
    found: dict[str, Any] = {}
    for key, value in sent.items():
        name = prefix + snake(key)
        if isinstance(value, dict):
            found |= flat(value, f"{name}_")
        elif name in TIMES:
            found[name] = datetime.fromisoformat(value)
            if found[name].tzinfo is None:
                found[name] = found[name].replace(tzinfo=UTC)
        elif name in DAYS:
            found[name] = date.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = Decimal(str(value))
        else:
            found[name] = value
    return found


def shown(row: asyncpg.Record, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.loads(row[name]) if isinstance(wanted[name], list) else row[name]
        for name in wanted
    }


def own_columns(view: str) -> set[str]:
    common = {column.name for column in BY_NAME["tracks"].columns}
    return {column.name for column in BY_NAME[view].columns} - common


async def test_each_event_of_the_specs_stands_in_its_view_under_any_of_its_names(
    dsn: str, tmp_path: Path
) -> None:
    assert set(SAMPLES) == {event for events in EVENTS.values() for event in events}
    events = [
        track(f"{name} {number}", event=name, properties=sent, timestamp=AT, context=CONTEXT)
        for event, sent in SAMPLES.items()
        for number, name in enumerate(names_of(event))
    ]
    async with Road(tmp_path, dsn) as road:
        await road.send(*events)
        await road.stored()
    async with connected(dsn) as connection:
        for event, sent in SAMPLES.items():
            rows = await all_of(connection, snake(event))
            assert {row["event_text"] for row in rows} == set(names_of(event))
            assert len(rows) == len(names_of(event))
            for row in rows:
                wanted = {**flat(sent), **flat(CONTEXT, "context_")}
                assert shown(row, wanted) == wanted, event
                empty = own_columns(snake(event)) - set(wanted)
                assert {name for name in empty if row[name] is not None} == set()
                assert row["event"] == snake(event)
                assert row["id"].startswith(row["event_text"])
                assert (row["user_id"], row["anonymous_id"]) == ("u", None)
                assert row["timestamp"] == row["original_timestamp"] == MOMENT
                assert row["sent_at"] is None
                assert row["received_at"] == row["uuid_ts"] > MOMENT
                assert json.loads(row["properties"]) == sent
        assert await connection.fetchval("select count(*) from warehouse.tracks") == len(events)
        # tracks and the views agree on what an event is called.
        for name, count in await connection.fetch(
            "select event, count(*) from warehouse.tracks group by 1"
        ):
            assert count == await connection.fetchval(f"select count(*) from warehouse.{name}")


async def test_each_call_stands_in_its_view(dsn: str, tmp_path: Path) -> None:
    both = {"userId": "u", "anonymousId": "a", "timestamp": AT, "context": CONTEXT}
    page = {
        "path": "/p",
        "referrer": "https://r",
        "search": "?q",
        "title": "T",
        "url": "https://s/p",
    }
    group = {"name": "Initech", "employees": 329, "plan": "enterprise", "createdAt": AT}
    sent = [
        {"type": "page", "name": "Home", "category": "Docs", "properties": page, **both},
        {"type": "screen", "name": "Start", "properties": {"category": "Top"}, **both},
        {"type": "identify", "traits": TRAITS, **both},
        {"type": "group", "groupId": "g", "traits": group, **both},
        {"type": "alias", "userId": "u", "previousId": "before", "timestamp": AT},
        track(event="Fooed the Bar", **both),
    ]
    async with Road(tmp_path, dsn) as road:
        await road.send(*sent)
        await road.stored()

    async def only(view: str) -> asyncpg.Record:
        async with connected(dsn) as connection:
            (row,) = await all_of(connection, view)
        return row

    def check(row: asyncpg.Record, wanted: dict[str, Any]) -> None:
        assert shown(row, wanted) == wanted

    common = {"user_id": "u", "anonymous_id": "a", **flat(CONTEXT, "context_")}
    check(await only("pages"), {"name": "Home", "category": "Docs", **page, **common})
    check(await only("screens"), {"name": "Start", "category": "Top", **common})
    traits = {**flat(TRAITS), "company_id": "123", "lifetime_value": Decimal("1299.50")}
    check(await only("identifies"), {**traits, **common})
    check(await only("users"), {"id": "u", **traits})
    check(
        await only("groups"),
        {"group_id": "g", **flat(group), "employees": "329", **common},
    )
    check(await only("aliases"), {"previous_id": "before", "user_id": "u"})
    check(await only("tracks"), {"event": "fooed_the_bar", "event_text": "Fooed the Bar", **common})


async def test_an_old_sender_s_members_are_found_under_their_old_names(
    dsn: str, tmp_path: Path
) -> None:
    old = {"orderId": 17, "total": "12.50", "checkoutId": "c"}
    product = {"id": "p1", "imageUrl": "https://i", "price": " 5 "}
    async with Road(tmp_path, dsn) as road:
        await road.send(
            track(event="Completed Order", properties=old),
            track(event="Viewed Product", properties=product),
            track(event="Coupon Denied", properties={"coupon": "X"}),
        )
        await road.stored()
    async with connected(dsn) as connection:
        (order,) = await all_of(connection, "order_completed")
        assert (order["order_id"], order["total"], order["checkout_id"]) == ("17", Decimal("12.50"), "c")  # fmt: skip  # noqa: E501
        (viewed,) = await all_of(connection, "product_viewed")
        assert (viewed["product_id"], viewed["image_url"], viewed["price"]) == (
            "p1",
            "https://i",
            5,
        )
        (denied,) = await all_of(connection, "coupon_denied")
        assert denied["coupon_id"] == "X"


async def test_products_stand_in_rows_of_their_own(dsn: str, tmp_path: Path) -> None:
    odd = [{}, None, 3, "x", [], {"products": "none"}, {"products": {}}, {"products": []}]
    async with Road(tmp_path, dsn) as road:
        await road.send(
            track(event="Completed Order", properties={"order_id": "o", "products": PRODUCTS}),
            track(event="E", properties={"products": [None, 3, [], "x", {"price": "12,50"}]}),
            *(track(event="Cart Viewed", properties=sent) for sent in odd),
        )
        await road.stored()
    async with connected(dsn) as connection:
        rows = await all_of(connection, "event_products", "order by seq, line")
        first, second, *rest = rows
    assert first["event"] == "order_completed"
    assert [row["line"] for row in (first, second)] == [1, 2]
    wanted = {"order_id": "o", **flat(PRODUCT)}
    assert shown(first, wanted) == wanted
    assert (second["product_id"], second["price"], second["quantity"]) == (PRODUCTS[1]["product_id"], 3, 2)  # fmt: skip  # noqa: E501
    assert [row["price"] for row in rest] == [None] * 5


async def test_the_examples_of_the_page_answer_their_questions(dsn: str, tmp_path: Path) -> None:
    text = await asyncio.to_thread(PAGE.read_text, "utf-8")
    questions = re.findall(r"```sql\n((?:select|with|create schema).*?)```", text, re.S)
    order = {"order_id": "o", "revenue": 10, "currency": "EUR", "products": PRODUCTS}
    page = {"type": "page", "anonymousId": "a", "context": CONTEXT}
    async with Road(tmp_path, dsn) as road:
        await road.send(
            page,
            {"type": "identify", "userId": "u", "anonymousId": "a", "traits": {"email": "e@x.y"}},
            track("1", event="Product Added", anonymousId="a", properties={"cart_id": "k"}),
            track("2", event="Order Completed", properties=order, context=CONTEXT),
            track("3", event="Completed Order", properties=order, context=CONTEXT),
        )
        await road.stored()
    async with connected(dsn) as connection:
        campaigns, funnel, landings, own = questions
        (campaign,) = await connection.fetch(campaigns)
        assert (campaign["campaign"], campaign["orders"], campaign["revenue"]) == ("spring", 1, 10)
        assert tuple(await connection.fetchrow(funnel)) == (1, 1, 100)
        (landing,) = await connection.fetch(landings)
        assert (landing["path"], landing["customers"]) == ("/a", 1)
        await connection.execute(own)
        assert await connection.fetch("select * from reports.gift_chosen") == []
