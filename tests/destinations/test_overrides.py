"""Overrides: an event as one destination is to have it, and every other as it was."""

import copy
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations.device import truncated
from collector.destinations.expressions import expression
from collector.destinations.overrides import Overrides, changed
from collector.destinations.settings import DestinationSettings, Override
from collector.errors import ConfigError
from collector.event import EVENT_TYPES
from collector.store.stored import StoredEvent

PRECISE = b'{"id": 123456789012345678901234567890, "share": 0.12345678901234567890, "total": 1.10}'
ORDER: dict[str, Any] = {
    "order_id": "o-1",
    "total": 27.5,
    "coupon": "TOP",
    "products": [
        {"product_id": "p1", "price": 10.5, "quantity": 2, "cost": 3},
        {"product_id": "p2", "price": 6.5, "quantity": 1, "cost": 2},
    ],
}
CONTEXT: dict[str, Any] = {
    "ip": "203.0.113.77",
    "userAgent": "Mozilla/5.0",
    "page": {"url": "https://shop.example/?utm_source=a", "title": "Thanks"},
    "traits": {"email": "ann@example.com"},
}


def event(type: str = "track", **members: Any) -> StoredEvent:  # noqa: A002  the column's name
    for name in ("context", "properties", "traits", "integrations", "extra"):
        if name in members and not isinstance(members[name], bytes):
            members[name] = json.dumps(members[name]).encode()
    given_ = {"event": "Order Completed"} if type == "track" else {"name": "Cart"}
    return StoredEvent(
        7,
        1_790_000_000_000_000,
        1,
        None,
        None,
        "m-1",
        type,
        **(given_ | {"user_id": "u"} | members),
    )


def order(**members: Any) -> StoredEvent:
    return event(**({"properties": ORDER, "context": CONTEXT} | members))


def apply(found: StoredEvent, *overrides: dict[str, Any], **settings: Any) -> StoredEvent:
    rules = [Override(**override) for override in overrides]
    return Overrides(DestinationSettings(name="crm", overrides=rules, **settings))(found)


# --- each setting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "properties"),
    [
        ({"set": {"properties.value": "properties.total"}}, ORDER | {"value": 27.5}),
        ({"set": {"properties.skus": "properties.products[].product_id"}},
         ORDER | {"skus": ["p1", "p2"]}),
        ({"set": {"properties.pieces": "sum(properties.products[].quantity)"}},
         ORDER | {"pieces": 3}),
        ({"set": {"properties": "{id: properties.order_id, by: userId}"}},
         {"id": "o-1", "by": "u"}),
        ({"set": {"properties.a.b.c": "messageId"}}, ORDER | {"a": {"b": {"c": "m-1"}}}),
        ({"set": {"properties.coupon.code": "properties.coupon"}},
         ORDER | {"coupon": {"code": "TOP"}}),
        ({"set": {'properties."a.b"': "type"}}, ORDER | {"a.b": "track"}),
        ({"set": {"properties.Order Id": "properties.order_id"}}, ORDER | {"Order Id": "o-1"}),
        ({"constants": {"properties.shop": "de", "properties.n": 1, "properties.total": 2.5,
                        "properties.yes": True}},
         ORDER | {"shop": "de", "n": 1, "total": 2.5, "yes": True}),
        ({"pick": ["properties.total"]}, {"total": 27.5}),
        ({"pick": ["properties"]}, ORDER),
        ({"pick": ["properties", "properties.total"]}, ORDER),
        ({"pick": ["properties.total", "properties"]}, ORDER),
        ({"pick": ["properties.products.price"]},
         {"products": [{"price": 10.5}, {"price": 6.5}]}),
        ({"pick": ["properties.total.cents", "properties.coupon"]}, {"coupon": "TOP"}),
        ({"pick": ["properties.nothing"]}, {}),
        ({"pick": ["traits.email"]}, None),
        ({"drop": ["properties.products", "properties.nothing", "properties.total.cents"]},
         {k: v for k, v in ORDER.items() if k != "products"}),
        ({"drop": ["properties.products.cost"]},
         ORDER | {"products": [{k: v for k, v in one.items() if k != "cost"}
                               for one in ORDER["products"]]}),
        ({"drop": ["properties"]}, None),
        # Constants win over expressions, what is dropped is gone, and all expressions see the
        # event as it came.
        ({"pick": ["properties.order_id"],
          "set": {"properties.a": "properties.total", "properties.b": "properties.a",
                  "properties.c": "properties.total"},
          "constants": {"properties.a": "constant"}, "drop": ["properties.c"]},
         {"order_id": "o-1", "a": "constant"}),
    ],
)  # fmt: skip
def test_properties(override: dict[str, Any], properties: dict[str, Any] | None) -> None:
    found = order()
    before = copy.copy(found.properties_text)
    text = apply(found, override).properties_text
    assert (None if text is None else json.loads(text)) == properties
    assert found.properties_text == before
    assert found.properties == ORDER


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ({"rename": "Purchase"}, {"event": "Purchase"}),
        ({"set": {"event": "join(' ', [event, properties.coupon])"}},
         {"event": "Order Completed TOP"}),
        ({"set": {"event": "properties.nothing"}}, {}),
        ({"set": {"event": "properties.total"}}, {}),
        ({"set": {"userId": "context.traits.email"}}, {"user_id": "ann@example.com"}),
        ({"set": {"userId": "properties.nothing"}}, {"user_id": None}),
        ({"set": {"userId": "properties.nothing || userId"}}, {}),
        ({"set": {"userId": "properties.products[0].quantity"}}, {"user_id": "2"}),
        ({"set": {"userId": "`true`"}}, {"user_id": None}),
        ({"set": {"userId": "`\"\"`"}}, {"user_id": None}),
        ({"set": {"groupId": "'g'", "previousId": "'p'", "anonymousId": "'a'"}},
         {"group_id": "g", "previous_id": "p", "anonymous_id": "a"}),
        ({"constants": {"name": "N", "category": 5}}, {"name": "N", "category": "5"}),
        ({"drop": ["userId"]}, {"user_id": None}),
    ],
)  # fmt: skip
def test_names_and_ids(override: dict[str, Any], changes: dict[str, Any]) -> None:
    columns = ("event", "name", "category", "user_id", "anonymous_id", "group_id", "previous_id")
    found = order()
    after = apply(found, override)
    expected = {column: getattr(found, column) for column in columns} | changes
    assert {column: getattr(after, column) for column in columns} == expected
    assert (after.message_id, after.type, after.received_at) == ("m-1", "track", found.received_at)


@pytest.mark.parametrize("type", sorted(EVENT_TYPES - {"track"}))
def test_a_page_is_renamed_by_its_name_and_the_others_have_none(type: str) -> None:  # noqa: A002
    after = apply(event(type), {"rename": "New", "set": {"event": "'E'"}})
    assert after.name == ("New" if type in {"page", "screen"} else "Cart")
    assert after.event is None


def test_context_traits_and_integrations_are_changed_too() -> None:
    after = apply(
        order(traits={"plan": "pro", "age": 7}),
        {
            "set": {"context.page.url": "split_no", "traits.email": "context.traits.email"},
            "constants": {"integrations.Meta": True, "context.locale": "de"},
            "drop": ["context.ip", "context.traits", "traits.age"],
        },
    )
    assert after.context == {
        "userAgent": "Mozilla/5.0",
        "page": {"title": "Thanks"},
        "locale": "de",
    }
    assert after.traits == {"plan": "pro", "email": "ann@example.com"}
    assert after.integrations == {"Meta": True}


def test_members_without_a_column_can_be_read() -> None:
    after = apply(event(extra={"channel": "web", "collector": {"flags": ["x"]}}),
                  {"set": {"properties.a": "channel", "properties.b": "collector"}})  # fmt: skip
    assert after.properties == {"a": "web"}
    assert after.extra_text == b'{"channel": "web", "collector": {"flags": ["x"]}}'


# --- which events --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({}, True),
        ({"types": ["track", "page"]}, True),
        ({"types": ["page"]}, False),
        ({"events": ["Order *"]}, True),
        ({"events": ["order *", "X"]}, False),
        ({"when": "properties.total > `20`"}, True),
        ({"when": "properties.total > `30`"}, False),
        ({"when": "properties.products[?price > `10`]"}, True),
        ({"when": "properties.products[?price > `100`]"}, False),
        ({"when": "properties.nothing"}, False),
        ({"when": "`0`"}, True),
        ({"when": "`false`"}, False),
        ({"when": "''"}, False),
        ({"when": "length(properties.total) > `1`"}, False),
        ({"when": "source == 'shop'"}, False),
        ({"types": ["track"], "events": ["Order *"], "when": "userId == 'u'"}, True),
    ],
)
def test_conditions(condition: dict[str, Any], applies: bool) -> None:
    found = order()
    after = apply(found, condition | {"constants": {"properties.x": 1}})
    assert (after is not found) == applies


def test_a_name_is_that_of_a_page_too_and_of_nothing_else() -> None:
    for type_ in sorted(EVENT_TYPES):
        found = event(type_, name="Cart", event="Cart" if type_ == "track" else None)
        after = apply(found, {"events": ["Cart"], "constants": {"traits.x": 1}})
        assert (after is not found) == (type_ in {"track", "page", "screen"})


def test_the_next_override_sees_what_became_of_the_event() -> None:
    after = apply(
        order(),
        {"rename": "Purchase", "set": {"properties.value": "properties.total"}},
        {"events": ["Purchase"], "set": {"properties.twice": "[properties.value, event]"}},
        {"events": ["Order *"], "constants": {"properties.never": 1}},
    )
    assert after.properties == ORDER | {"value": 27.5, "twice": [27.5, "Purchase"]}


def test_to_whom_nothing_applies_the_event_is_the_same_object() -> None:
    for found in (order(), event("page"), event()):
        assert apply(found) is found
        assert apply(found, {"types": ["alias"], "rename": "X"}) is found
        assert apply(found, {"types": ["alias"]}, ip="full", user_agent="full") is found
    assert apply(event(context={"a": 1}), ip="none", user_agent="none").context == {"a": 1}
    found = event(context={"a": 1, "ip": "203.0.113.0"})
    assert apply(found, ip="truncated", user_agent="none") is found


# --- fidelity ------------------------------------------------------------------------------------


def test_no_number_beside_the_change_loses_a_digit() -> None:
    found = event(properties=PRECISE, traits=PRECISE, context=b'{"a": {"n": 1.10, "ip": 2.0}}')
    after = apply(
        found,
        {
            "set": {"properties.x.y": "event"},
            "constants": {"context.a.b": "c"},
            "drop": ["properties.total"],
        },
    )
    assert after.properties_text == (
        b'{"id":123456789012345678901234567890,"share":0.12345678901234567890,'
        b'"x":{"y":"Order Completed"}}'
    )
    assert after.context_text == b'{"a":{"n":1.10,"ip":2.0,"b":"c"}}'
    assert after.traits_text is found.traits_text
    picked = apply(found, {"pick": ["properties.share"]})
    assert picked.properties_text == b'{"share":0.12345678901234567890}'


def test_a_large_number_that_is_copied_stays_whole() -> None:
    after = apply(event(properties=PRECISE), {"set": {"traits.id": "properties.id"}})
    assert after.traits_text == b'{"id":123456789012345678901234567890}'


def test_the_copy_has_all_that_an_event_has() -> None:
    values = {
        name: (index if parameter.annotation in {"int", int, "int | None", int | None} else name)
        for index, (name, parameter) in enumerate(inspect.signature(StoredEvent).parameters.items())
    }
    texts = ("context", "properties", "traits", "integrations", "extra")
    values |= {name: b'{"n":"%s"}' % name.encode() for name in texts}
    found = StoredEvent(**values)
    after = changed(found, {"event": "changed"})
    for name, value in values.items():
        attribute = f"{name}_text" if name in texts else name
        assert getattr(after, attribute) == ("changed" if name == "event" else value)


# --- odd data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    ["sum(properties.products[].product_id)", "avg(properties.huge)", "length(properties.total)",
     "join(',', properties.products)", "max_by(properties.products, &nothing)",
     "sort_by(properties.products, &[price])", "to_number('x')", "abs(event)", "&event",
     "properties.products[-9]", "keys(event)", "merge(event, properties)"],
)  # fmt: skip
def test_what_cannot_be_said_is_left_out(expression: str) -> None:
    huge = order(properties=ORDER | {"huge": [1e308, 1e308], "x": "old"})
    after = apply(huge, {"set": {"properties.x": expression, "properties.y": "'on'"}})
    assert after.properties == ORDER | {"huge": [1e308, 1e308], "y": "on"}


KEYS = ("total", "products", "price", "a", "ip", "page", "url", "email")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e308, 1e308) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.none() | st.dictionaries(st.sampled_from(KEYS), anything, max_size=4)
EVERYTHING = Overrides(
    DestinationSettings(
        name="crm",
        ip="truncated",
        user_agent="none",
        overrides=[
            Override(
                when="!properties.total || products[0].price < `5` || length(traits) > `1`",
                rename="X",
                pick=["properties.products.price", "traits.a.a", "properties.a"],
                set={
                    "properties.a.total": "sum(properties.products[].price)",
                    "properties.products": "sort_by(properties.products, &price)[:2]",
                    "traits.page.url": "max(properties.a.*.*[])",
                    "userId": "properties.total || traits.email",
                    "context.page": "merge(context.page, properties.a, {x: to_string(@)})",
                    "integrations": "traits.a",
                },
                drop=["context.a.a.a", "properties.products.price.a", "traits.total"],
            ),
            Override(set={"event": "context.page.x"}, drop=["anonymousId"]),
        ],
    )
)


@given(st.sampled_from(sorted(EVENT_TYPES)), st.tuples(objects, objects, objects, objects))
def test_no_event_is_too_odd(type_: str, members: tuple[dict[str, Any] | None, ...]) -> None:
    texts = [None if one is None else json.dumps(one).encode() for one in members]
    context, properties, traits, integrations = texts
    found = StoredEvent(
        1, 1, 1, None, None, "m", type_, event="E" if type_ == "track" else None,
        context=context, properties=properties, traits=traits, integrations=integrations,
    )  # fmt: skip
    after = EVERYTHING(found)
    for name in ("context", "properties", "traits", "integrations"):
        assert isinstance(dict(getattr(after, name)), dict)
        assert getattr(found, f"{name}_text") == texts.pop(0)
    assert (after.event is not None) == (type_ == "track")
    assert EVERYTHING.person(found, members[2] or {}) is not None


# --- persons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "known"),
    [
        ({"drop": ["traits.email"]}, {"phone": "1", "address": {"city": "B", "zip": "2"}}),
        ({"drop": ["traits.address.city"]},
         {"email": "e", "phone": "1", "address": {"zip": "2"}}),
        ({"drop": ["traits"]}, {}),
        ({"pick": ["traits.phone"]}, {"phone": "1"}),
        ({"pick": ["traits"]}, {"email": "e", "phone": "1", "address": {"city": "B", "zip": "2"}}),
        ({"pick": ["traits.phone", "traits.email"], "drop": ["traits.email"]}, {"phone": "1"}),
        ({"pick": ["properties.total"]},
         {"email": "e", "phone": "1", "address": {"city": "B", "zip": "2"}}),
        ({"types": ["page"], "drop": ["traits"]},
         {"email": "e", "phone": "1", "address": {"city": "B", "zip": "2"}}),
        ({"when": "event == 'X'", "drop": ["traits"]},
         {"email": "e", "phone": "1", "address": {"city": "B", "zip": "2"}}),
    ],
)  # fmt: skip
def test_a_trait_that_is_withheld_does_not_come_back_from_earlier(
    override: dict[str, Any], known: dict[str, Any]
) -> None:
    person = {"email": "e", "phone": "1", "address": {"city": "B", "zip": "2"}}
    settings = DestinationSettings(name="crm", overrides=[Override(**override)])
    assert Overrides(settings).person(order(), person) == known
    assert Overrides(DestinationSettings(name="crm")).person(order(), person) is person


def test_what_an_override_makes_of_the_event_decides_about_its_person() -> None:
    rules = [Override(rename="Purchase"), Override(events=["Purchase"], drop=["traits.email"])]
    overrides = Overrides(DestinationSettings(name="crm", overrides=rules))
    assert overrides.person(order(), {"email": "e"}) == {}


# --- the device ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("203.0.113.77", "203.0.113.0"),
        (" 203.0.113.77 ", "203.0.113.0"),
        ("203.0.113.0", "203.0.113.0"),
        ("0.0.0.0", "0.0.0.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("2001:DB8::1", "2001:db8::"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("::ffff:cb00:714d", "203.0.113.0"),
        ("64:ff9b::203.0.113.77", "203.0.113.0"),
        ("64:ff9b:1::203.0.113.77", "64:ff9b:1::"),
        ("203.0.113.77:443", None),
        ("203.0.113.300", None),
        ("unknown", None),
        ("", None),
        ("1" * 1000, None),
        (7, None),
        (None, None),
        (["203.0.113.77"], None),
    ],
)
def test_addresses_are_truncated(address: object, told: str | None) -> None:
    assert truncated(address) == told
    context = {"ip": address, "locale": "de"}
    after = apply(event(context=context), ip="truncated").context
    assert after == {"locale": "de"} | ({} if told is None else {"ip": told})
    assert apply(event(context=context), ip="none").context == {"locale": "de"}
    assert apply(event(context=context), ip="full").context == context


def test_a_user_agent_can_be_withheld() -> None:
    context = {"userAgent": "a", "userAgentData": {"mobile": True}, "user_agent": "a", "n": 1}
    assert apply(event(context=context), user_agent="none").context == {"n": 1}
    assert apply(event(context=context), ip="none").context == context
    assert apply(event(), ip="none", user_agent="none").context_text is None


def test_the_device_is_withheld_after_all_overrides() -> None:
    after = apply(order(), {"set": {"context.ip": "'198.51.100.9'"}}, ip="truncated")
    assert after.context["ip"] == "198.51.100.0"


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"when": "foo("}, ("when", "JMESPath")),
        ({"set": {"properties.x": ""}}, ("set.properties.x", "JMESPath")),
        ({"set": {"properties.x": "upper(event)"}}, ("there is no function upper", "join")),
        (
            {"set": {"properties.x": "{a: [to_number()]}"}},
            ("to_number() takes 1 arguments, not 0",),
        ),
        ({"set": {"properties.x": "length(a, b)"}}, ("length() takes 1 arguments, not 2",)),
        ({"set": {"messageId": "userId"}}, ("messageId", "begin with")),
        ({"set": {"type": "'page'"}}, ("type",)),
        ({"set": {"receivedAt": "timestamp"}}, ("receivedAt",)),
        ({"set": {"timestamp": "properties.at"}}, ("timestamp",)),
        ({"set": {"property.x": "event"}}, ("property.x", "properties")),
        ({"set": {"properties.products[0].x": "event"}}, ("properties.products[0].x", "no path")),
        ({"set": {"properties..x": "event"}}, ("no path",)),
        ({"set": {"": "event"}}, ("no path",)),
        ({"set": {"event.x": "event"}}, ("event is text",)),
        ({"constants": {"event": ""}}, ("constants.event", "quotes")),
        ({"constants": {"userId": True}}, ("constants.userId", "quotes")),
        ({"constants": {"properties": "x"}}, ("properties.name",)),
        ({"constants": {"properties.x": float("nan")}}, ("nan", "number")),
        ({"pick": ["context.page"]}, ("pick", "begin with properties, traits")),
        ({"drop": ["event"]}, ("drop", "event cannot")),
        ({"drop": ["messageId"]}, ("drop", "messageId")),
    ],
)
def test_a_bad_override_stops_the_start_and_says_what_to_do(
    override: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        apply(order(), {"rename": "fine"}, override)
    assert caught.value.detail.startswith("destination crm: overrides[1].")
    assert all(word in caught.value.detail for word in words), caught.value.detail


def test_merge_and_not_null_take_any_number() -> None:
    found = apply(order(), {"set": {"properties": "not_null(properties.x, traits, {a: event})"}})
    assert found.properties == {"a": "Order Completed"}


# --- documentation -------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "destinations" / "filters.md").read_text()


def test_the_examples_of_the_documentation_do_what_it_says() -> None:
    blocks = re.findall(r"```toml\n(\[\[destinations\.overrides\]\].*?)```", PAGE, re.S)
    first, second = (tomllib.loads(block)["destinations"]["overrides"][0] for block in blocks)
    assert msgspec.convert(first, Override)
    cheap = [{k: v for k, v in one.items() if k != "cost"} for one in ORDER["products"]]
    after = apply(order(), first)
    assert after.event == "Purchase"
    assert after.properties == {
        "order_id": "o-1", "total": 27.5, "products": cheap, "value": 27.5, "shop": "de"
    }  # fmt: skip
    assert apply(order(), second).properties == ORDER
    dear = ORDER | {"products": [{"product_id": "p9", "price": 500}]}
    after = apply(order(properties=dear), second)
    assert after.properties == {
        "order_id": "o-1", "total": 27.5, "products": [{"product_id": "p9"}], "tier": "gold"
    }  # fmt: skip
    assert after.user_id == "u"


def test_the_expressions_of_the_documentation_are_some() -> None:
    table = PAGE[PAGE.index("| expression | says |") : PAGE.index("Text is in single quotes")]
    found = re.findall(r"^\| (`+)(.+?)\1 \|", table, re.M)
    assert len(found) == 8
    for _, text in found:
        expression(text.replace("\\|", "|"), "documentation")
