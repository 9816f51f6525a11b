"""Fields and money: where an event says what, and what is no answer."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations import fields, money
from collector.destinations.base import Mail
from collector.destinations.fields import Address
from collector.event import EVENT_TYPES
from collector.store.stored import StoredEvent

HASH = "973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b"
ODD = [None, True, False, {}, {"a": "b"}, [], ["x"], "", "  ", "undefined", "null", 1.5, 10**50]


def mail(
    type: str = "track",  # noqa: A002  the name of the column
    event: str | None = "E",
    person: dict[str, Any] | None = None,
    user_id: str | None = "u",
    **members: Any,
) -> Mail:
    texts = {name: json.dumps(value).encode() for name, value in members.items()}
    found = StoredEvent(1, 1, 1, None, None, "m", type, event, user_id=user_id, **texts)
    return Mail(found, person or {}, restricted=False)


def everywhere(name: str, value: Any, at: int, **odd: Any) -> Mail:
    """A mail with *value* in the *at*th place and those after it, and odd things before it."""
    places: list[dict[str, Any]] = [{}, {}, {}, {}]
    for index, place in enumerate(places):
        if index < at:
            place.update(odd)
        else:
            place[name] = value if index == at else f"later-{index}@example.com 1"
    traits, context_traits, properties, person = places
    return mail(
        traits=traits, context={"traits": context_traits}, properties=properties, person=person
    )


# --- persons -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("odd", [*ODD, "n/a", "a@b", "@example.com", "a b@example.com", 7])
def test_an_email_is_looked_for_from_near_to_far(at: int, odd: object) -> None:
    assert (
        fields.email(everywhere("email", " Ann@Example.com ", at, email=odd)) == "Ann@Example.com"
    )
    assert fields.email(mail(traits={"email": odd})) is None


def test_an_email_that_the_sender_hashed_is_one() -> None:
    for value in (HASH, HASH.upper(), "lz3+Rj7IV4X1+Vr1ujkG7tstkxwk5pgkqJ6mXbpOgTs="):
        assert fields.email(mail(traits={"email": value})) == value
    assert fields.email(mail(traits={"email": HASH + "0"})) is None


def test_a_user_id_is_an_email_only_where_asked_for() -> None:
    found = mail(user_id="ann@example.com")
    assert fields.email(found) is None
    assert fields.email(found, user_id=True) == "ann@example.com"
    assert fields.email(mail(user_id="42"), user_id=True) is None
    assert fields.email(mail(user_id=None), user_id=True) is None


@pytest.mark.parametrize("at", range(4))
def test_a_phone_is_text_or_a_number(at: int) -> None:
    for value, read in (("+49 30 1234", "+49 30 1234"), (49301234, "49301234")):
        assert fields.phone(everywhere("phone", value, at, phone="none")) == read
        assert fields.phone(everywhere("phone", value, at, phone={"home": 1})) == read
    assert fields.phone(mail()) is None


@pytest.mark.parametrize(
    ("traits", "names"),
    [
        ({"firstName": "Ann", "lastName": "Lee"}, ("Ann", "Lee")),
        ({"first_name": "Ann", "lastname": "Lee"}, ("Ann", "Lee")),
        ({"firstname": "Ann", "last_name": "Lee"}, ("Ann", "Lee")),
        ({"name": " Ann  Lee "}, ("Ann", "Lee")),
        ({"name": "Ann van Lee"}, (None, None)),
        ({"name": "Ann"}, (None, None)),
        ({"name": {"first": "Ann"}}, (None, None)),
        ({"firstName": "Ann", "name": "Other Person"}, ("Ann", None)),
        ({"lastName": "Null"}, (None, "Null")),
        ({"firstName": ["Ann"], "first_name": "Ann"}, ("Ann", None)),
    ],
)
def test_names(traits: dict[str, Any], names: tuple[str | None, str | None]) -> None:
    assert fields.names(mail("identify", traits=traits)) == names
    assert fields.names(mail(context={"traits": traits})) == names
    assert fields.names(mail(person=traits)) == names
    assert fields.names(mail(properties=traits)) == (None, None)


def test_the_nearer_name_wins_and_the_further_completes_it() -> None:
    found = mail(
        "identify",
        traits={"firstName": "Ann"},
        context={"traits": {"firstName": "Bob", "lastName": "Lee"}},
        person={"lastName": "Old"},
    )
    assert fields.names(found) == ("Ann", "Lee")


def test_an_address_comes_from_one_place() -> None:
    full = {"street": "1 Way", "city": "B", "state": "S", "postalCode": 10115, "country": "DE"}
    whole = Address("1 Way", "B", "S", "10115", "DE")
    assert fields.address(mail("identify", traits={"address": full})) == whole
    assert fields.address(mail(context={"traits": {"address": full}})) == whole
    assert fields.address(mail(person={"address": full})) == whole
    near = mail("identify", traits={"address": {"zip": "9"}}, person={"address": full})
    assert fields.address(near) == Address(postal_code="9")
    for odd in ODD:
        far = mail("identify", traits={"address": odd}, person={"address": full})
        assert fields.address(far) == whole
    assert fields.address(mail()) == Address()


def test_the_traits_of_a_group_are_nobodys() -> None:
    found = mail(
        "group",
        traits={"email": "info@corp.example", "phone": "1", "name": "Corp Inc", "vat": "7",
                "address": {"city": "B"}},
        person={"email": "ann@example.com"},
    )  # fmt: skip
    assert fields.email(found) == "ann@example.com"
    assert fields.phone(found) is fields.trait(found, "vat") is None
    assert fields.names(found) == (None, None)
    assert fields.address(found) == Address()


def test_any_trait_can_be_asked_for() -> None:
    found = mail(context={"traits": {"dob": "", "gender": "f"}}, person={"birthday": "2000-01-01"})
    assert fields.trait(found, "birthday", "dob") == "2000-01-01"
    assert fields.trait(found, "gender") == "f"
    assert fields.trait(found, "plan") is None


# --- orders and products -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "properties", "order"),
    [
        ("E", {"order_id": "o", "orderId": "p", "id": "q"}, "o"),
        ("E", {"order_id": "", "orderId": "p", "id": "q"}, "p"),
        ("E", {"order_id": 50314}, "50314"),
        ("E", {"order_id": 50314.0}, "50314"),
        ("E", {"order_id": {"id": 1}}, None),
        ("E", {"id": "q"}, None),
        ("Completed Order", {"id": "q"}, "q"),
        ("order_completed", {"id": 7}, "7"),
        ("Order Refunded", {"id": "q"}, "q"),
        ("Product Viewed", {"id": "q"}, None),
        (None, {"id": "q"}, None),
    ],
)
def test_order_ids(event: str | None, properties: dict[str, Any], order: str | None) -> None:
    assert fields.order_id(mail(event=event, properties=properties)) == order


@pytest.mark.parametrize(
    ("product", "found"),
    [
        ({"product_id": "a", "productId": "b", "id": "c", "sku": "d"}, "a"),
        ({"product_id": None, "productId": "b", "id": "c", "sku": "d"}, "b"),
        ({"id": "c", "sku": "d"}, "c"),
        ({"sku": 123}, "123"),
        ({"name": "x"}, None),
        ({"product_id": ["a"], "sku": False}, None),
    ],
)
def test_product_ids(product: dict[str, Any], found: str | None) -> None:
    assert fields.product_id(product) == found


@pytest.mark.parametrize(
    "name",
    ["Product Viewed", "product_viewed", "ViewedProduct", "Product Added", "product.removed",
     "Product Clicked", "Product Added to Wishlist", "Wishlist Product Added to Cart"],
)  # fmt: skip
def test_an_event_of_one_product_is_it(name: str) -> None:
    one = {"product_id": "a", "price": 1}
    assert fields.products(mail(event=name, properties=one)) == [one]
    assert fields.products(mail("page", event=name, properties=one)) == []
    assert fields.products(mail(event=name)) == []


def test_products_are_objects_in_a_list() -> None:
    listed: list[Any] = [{"sku": "a"}, "odd", None, {"sku": "b"}, ["c"], 7]
    for name in ("Order Completed", "Product Viewed", "E"):
        found = mail(event=name, properties={"products": listed, "sku": "x"})
        assert fields.products(found) == [{"sku": "a"}, {"sku": "b"}]
    for name in ("Product List Viewed", "Viewed Product Category", "Product Shared", "E"):
        assert fields.products(mail(event=name, properties={"sku": "x"})) == []
    odd = mail(event="Order Completed", properties={"products": {"0": {"sku": "a"}}})
    assert fields.products(odd) == []


# --- device and page -----------------------------------------------------------------------------


def test_device_and_page() -> None:
    page = {"url": "https://shop.example/a", "referrer": "https://ads.example/"}
    found = mail(
        context={"ip": "203.0.113.7", "userAgent": "UA", "page": page},
        properties={"url": "https://shop.example/product"},
    )
    assert fields.ip(found) == "203.0.113.7"
    assert fields.user_agent(found) == "UA"
    assert fields.url(found) == page["url"]
    assert fields.referrer(found) == page["referrer"]
    assert fields.url(mail(properties={"url": "https://x.example/"})) == "https://x.example/"
    assert fields.user_agent(mail(context={"user_agent": "UA"})) == "UA"


@pytest.mark.parametrize("odd", [*ODD, "0.0.0.0", "::", "203.0.113.7:80", "unknown", 7])
def test_what_is_no_address_is_none(odd: object) -> None:
    assert fields.ip(mail(context={"ip": odd})) is None


URL = "https://shop.example/?utm_source=a&GCLID=c%20d&fbclid=&fbclid=F&ttclid=undefined#?epik=no"


@pytest.mark.parametrize(
    ("name", "members", "found"),
    [
        ("gclid", {"context": {"page": {"url": URL}}, "properties": {"gclid": "p"}}, "c d"),
        ("fbclid", {"context": {"page": {"url": URL}}}, "F"),
        ("epik", {"context": {"page": {"url": URL}}}, None),
        ("ttclid", {"context": {"page": {"url": URL}, "clickIds": {"ttclid": "k"}}}, "k"),
        ("clid", {"context": {"page": {"url": URL}}}, None),
        ("gclid", {"context": {"clickIds": {"gclid": "k"}}, "properties": {"gclid": "p"}}, "k"),
        ("gclid", {"properties": {"gclid": "p"}, "context": {"clientIds": {"gclid": "c"}}}, "p"),
        ("gclid", {"context": {"clientIds": {"gclid": "c"}}}, "c"),
        ("gclid", {"integrations": {"Google Ads": {"gclid": "i"}}}, "i"),
        ("gclid", {"integrations": {"Google Ads": True, "google-ads": {"gclid": "i"}}}, "i"),
        ("gclid", {"integrations": {"Other": {"gclid": "i"}}}, None),
        ("gclid", {"context": {"page": "odd", "clickIds": [1], "clientIds": "x"}}, None),
        ("gclid", {"context": {"page": {"url": {"gclid": 1}}}}, None),
        ("gclid", {}, None),
    ],
)
def test_click_ids(name: str, members: dict[str, Any], found: str | None) -> None:
    assert fields.click_id(mail(**members), name, "Google Ads", "google-ads") == found


def test_identifiers_of_a_vendors_own_script() -> None:
    ids = {"fbp": "fb.1.1.2", "ga4": {"clientId": "1.2", "sessionIds": {"G-1": 7}}}
    found = mail(context={"clientIds": ids}, integrations={"Meta": {"fbc": "fb.1.1.3"}})
    assert fields.identifier(found, "fbp") == "fb.1.1.2"
    assert fields.identifier(found, "ga4.clientId") == "1.2"
    assert fields.identifier(found, "ga4.sessionIds.G-1") == "7"
    assert fields.identifier(found, "fbc", "Meta") == "fb.1.1.3"
    assert fields.identifier(found, "fbc") is fields.identifier(found, "fbp.x") is None
    assert fields.identifier(mail(properties={"fbp": "p"}), "fbp") == "p"


# --- money ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (19.99, 19.99), (20, 20), (20.0, 20), (0, 0), (-0.0, 0), ("39.95", 39.95), (" 20 ", 20),
        ("+5", 5), (".5", 0.5), ("5.", 5), ("007", 7), ("-0", 0), (1e-7, 1e-7),
        ("1,299.00", None), ("1.299,00", None), ("1 299", None), ("$5", None), ("5 €", None),
        ("5USD", None), ("1e3", None), ("0x10", None), ("NaN", None), ("Infinity", None),
        ("", None), (".", None), ("--5", None), ("٣", None), ("1_000", None),
        (float("nan"), None), (float("inf"), None), (10**15, None), ("1" * 30, None),
        (10**400, None), ("9" * 5000, None), (True, None), (None, None), ({}, None), ([5], None),
    ],
)  # fmt: skip
def test_amounts_are_plain_decimals(value: object, amount: float | None) -> None:
    found = money.amount(value)
    assert found == amount
    assert type(found) is type(amount)


@pytest.mark.parametrize("value", [-5, "-5", -5.0])
def test_less_than_nothing_is_an_amount_only_where_asked_for(value: object) -> None:
    assert money.amount(value) is None
    assert money.amount(value, negative=True) == -5
    found = mail(properties={"revenue": value, "total": 3})
    assert money.value_of(found, "revenue", "total") == 3
    assert money.value_of(found, "revenue", "total", negative=True) == -5


@pytest.mark.parametrize(
    ("properties", "value"),
    [
        ({"revenue": 1, "value": 2, "price": 3, "total": 4}, 1),
        ({"revenue": "1,000", "value": 2, "price": 3, "total": 4}, 2),
        ({"price": 19.99, "quantity": 3, "total": 4}, 59.97),
        ({"price": "19.99", "quantity": "3"}, 59.97),
        ({"price": 5, "quantity": "many"}, 5),
        ({"price": 5, "quantity": 0}, 5),
        ({"price": 5, "quantity": -2}, 5),
        ({"price": 10**14, "quantity": 100, "total": 4}, 4),
        ({"revenue": 0, "total": 4}, 0),
        ({"total": "4.50"}, 4.5),
        ({}, None),
    ],
)
def test_the_first_amount_in_order_is_the_value(
    properties: dict[str, Any], value: float | None
) -> None:
    order = ("revenue", "value", "price", "total")
    assert money.value_of(mail(properties=properties), *order) == value


def test_products_have_a_value_together() -> None:
    items = [{"price": 19.99, "quantity": 3}, {"price": "0.1"}, {"price": "x"}, {"quantity": 4}]
    assert money.value_of_products(items) == 60.07
    assert money.value_of_products([{"quantity": 4}]) is None
    assert [money.quantity(item) for item in items] == [3, None, None, 4]
    assert money.quantity({"quantity": 0}) is None


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"currency": "EUR"}, "EUR"),
        ({"currency": " usd "}, "USD"),
        ({"currency": "JPY"}, "JPY"),
        ({"currency": "ZZZ"}, None),
        ({"currency": "€"}, None),
        ({"currency": "Euro"}, None),
        ({"currency": 978}, None),
        ({"currency": {}}, None),
        ({"currency": "EUR" * 1000}, None),
        ({"currency": None}, "CHF"),
        ({"currency": ""}, "CHF"),
        ({}, "CHF"),
        ({"products": [{"sku": "a"}, {"currency": "sek"}]}, "SEK"),
        ({"products": [{"currency": "kr"}]}, None),
        ({"currency": "EUR", "products": [{"currency": "SEK"}]}, "EUR"),
    ],
)
def test_currencies_are_those_of_iso_4217(properties: dict[str, Any], code: str | None) -> None:
    assert money.currency(mail(properties=properties), "CHF") == code
    assert money.currency(mail(), None) is None
    assert money.currency(mail()) == "USD"


@given(st.decimals(min_value=0, max_value=10**9, places=2), st.integers(1, 1000))
def test_money_is_counted_in_decimals(price: Decimal, quantity: int) -> None:
    found = mail(properties={"price": float(price), "quantity": quantity})
    assert money.value_of(found, "price") == float(price * quantity)
    assert money.decimal(str(price)) == price


# --- anything ------------------------------------------------------------------------------------

KEYS = ("email", "phone", "name", "firstName", "address", "city", "products", "price", "quantity",
        "currency", "order_id", "id", "ip", "page", "url", "traits", "clientIds")  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e308, 1e308) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(KEYS), anything, max_size=5)


@given(
    st.sampled_from(sorted(EVENT_TYPES)),
    st.sampled_from(["Product Viewed", "Order Completed", "", None]),
    st.tuples(objects, objects, objects, objects, objects),
)
def test_nothing_is_too_odd(
    type_: str, event: str | None, members: tuple[dict[str, Any], ...]
) -> None:
    traits, context, properties, integrations, person = members
    found = mail(
        type_, event, person, traits=traits, context=context, properties=properties,
        integrations=integrations,
    )  # fmt: skip
    texts = [
        *(ask(found) for ask in (fields.email, fields.phone, fields.order_id, fields.ip)),
        *(ask(found) for ask in (fields.user_agent, fields.url, fields.referrer, money.currency)),
        *fields.names(found),
        *fields.address(found),
        fields.trait(found, "name", "city"),
        fields.click_id(found, "gclid", "id", "name"),
        fields.identifier(found, "page.url.id", "address"),
    ]
    assert all(one is None or (isinstance(one, str) and one.strip() == one != "") for one in texts)
    for product in fields.products(found):
        assert fields.product_id(product) != ""
        assert money.quantity(product) != 0
    value = money.value_of(found, "price", "id", "quantity")
    together = money.value_of_products(fields.products(found))
    assert all(one is None or 0 <= one < money.AMOUNT_MAX for one in (value, together))
