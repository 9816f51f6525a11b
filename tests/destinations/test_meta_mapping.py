"""What an event becomes at Meta: the table of its names and data, whose it is, what is refused."""

import hashlib
import json
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.destinations.base import PREFERENCE_EVENT, Mail, Parcel, Refused, Skipped
from collector.destinations.meta import Meta, MetaSettings
from collector.destinations.meta.names import Names
from collector.destinations.meta.person import is_matchable
from collector.destinations.meta.privacy import clean_url, is_personal
from tests.destinations import fake_meta
from tests.destinations.contract import meta, outbound
from tests.destinations.events import AT, odd_events, stored
from tests.strategies import objects, valid

with warnings.catch_warnings():  # what it imports warns of itself
    warnings.simplefilter("ignore")
    from facebook_business.adobjects.serverside.action_source import ActionSource
    from facebook_business.adobjects.serverside.content import Content
    from facebook_business.adobjects.serverside.custom_data import CustomData
    from facebook_business.adobjects.serverside.event import Event
    from facebook_business.adobjects.serverside.user_data import UserData

AGENT = "Mozilla/5.0 (Macintosh)"
URL = "https://shop.example/jars"
WEB: dict[str, Any] = {"ip": "203.0.113.7", "userAgent": AGENT, "page": {"url": URL}}
IPHONE: dict[str, Any] = {
    "app": {"namespace": "com.shop", "version": "2.1", "build": "77"},
    "device": {"model": "iPhone17,3", "advertisingId": "AEBE-52", "adTrackingEnabled": True},
    "os": {"name": "iOS", "version": "26.0"},
    "screen": {"width": 390, "height": 844, "density": 3.0},
    "network": {"carrier": "T-Mobile"},
    "locale": "de-DE",
    "timezone": "Europe/Berlin",
}
JAR = {"product_id": "507f1f77", "sku": "G-32", "name": "Jar", "price": 19.5, "quantity": 2}
LID = {"sku": "L-7", "price": "4.25"}
JARS = [
    {"id": "507f1f77", "quantity": 2, "item_price": 19.5, "title": "Jar"},
    {"id": "L-7", "quantity": 1, "item_price": 4.25},
]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def build(**changes: Any) -> Meta:
    made: MetaSettings = meta("https://graph.test", **changes)
    return Meta(made, outbound(made))


def map_(
    event: str | None = "Order Completed",
    properties: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    *,
    person: dict[str, Any] | None = None,
    restricted: bool = False,
    columns: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    made = {"user_id": "u1"} | (columns or {})
    row = stored(
        event=event,
        properties=properties or {},
        context=WEB if context is None else context,
        **made,
    )
    found = build(**changes).map(Mail(row, person or {}, restricted))
    return json.loads(found.payload) if isinstance(found, Parcel) else found


def custom(event: str | None, properties: dict[str, Any], **changes: Any) -> Any:
    found = map_(event, properties, **changes)
    assert isinstance(found, dict), found
    return found["event_name"], found.get("custom_data", {})


def user(context: dict[str, Any] | None = None, **changes: Any) -> Any:
    found = map_("Signed Up", changes.pop("properties", None), context, **changes)
    assert isinstance(found, dict), found
    return found["user_data"]


# --- the whole event ------------------------------------------------------------------------------


def test_a_purchase_on_a_website() -> None:
    context = WEB | {"traits": {"email": "John_Smith@gmail.com"}}
    properties = {"order_id": "o1", "revenue": 43.25, "currency": "eur", "products": [JAR, LID]}
    assert map_("Order Completed", properties, context) == {
        "event_name": "Purchase",
        "event_time": AT // 1_000_000,
        "event_id": "m-1",
        "action_source": "website",
        "event_source_url": URL,
        "user_data": {
            "em": ["62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f"],
            "external_id": [sha("u1")],
            "client_ip_address": "203.0.113.7",
            "client_user_agent": AGENT,
        },
        "custom_data": {
            "value": 43.25,
            "currency": "EUR",
            "content_ids": ["507f1f77", "L-7"],
            "contents": JARS,
            "content_type": "product",
            "num_items": 3,
            "order_id": "o1",
        },
    }


def test_the_sdk_makes_the_same_of_it() -> None:
    context = WEB | {
        "traits": {
            "email": "Ann@Example.com",
            "phone": "+1 650 555 1212",
            "firstName": "Ann",
            "lastName": "Lee",
            "address": {"city": "New York", "state": "ny", "zip": "10001-7", "country": "us"},
        },
        "fbp": "fb.1.1596403881668.1116446470",
        "fbc": "fb.1.1554763741205.AbCdEf",
    }
    properties = {"order_id": "o1", "revenue": 43.25, "currency": "EUR", "products": [JAR, LID]}
    theirs = Event(
        event_name="Purchase",
        event_time=AT // 1_000_000,
        event_id="m-1",
        event_source_url=URL,
        action_source=ActionSource.WEBSITE,
        user_data=UserData(
            emails=["Ann@Example.com"],
            phones=["+1 650 555 1212"],
            first_names=["Ann"],
            last_names=["Lee"],
            cities=["New York"],
            states=["ny"],
            zip_codes=["10001-7"],
            country_codes=["us"],
            external_ids=[sha("u1")],  # which the SDK leaves to its caller
            client_ip_address="203.0.113.7",
            client_user_agent=AGENT,
            fbp="fb.1.1596403881668.1116446470",
            fbc="fb.1.1554763741205.AbCdEf",
        ),
        custom_data=CustomData(
            value=43.25,
            currency="EUR",
            content_ids=["507f1f77", "L-7"],
            contents=[
                Content(product_id="507f1f77", quantity=2, item_price=19.5, title="Jar"),
                Content(product_id="L-7", quantity=1, item_price=4.25),
            ],
            content_type="product",
            num_items=3,
            order_id="o1",
        ),
    ).normalize()
    # The SDK writes currencies in lower case, pages and examples of Meta's in upper: both count.
    theirs["custom_data"]["currency"] = theirs["custom_data"]["currency"].upper()
    assert map_("Order Completed", properties, context) == theirs


# --- names, products and money --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "properties", "name", "data"),
    [
        (
            "Products Searched",
            {"query": "blue jars", "value": 3, "currency": "EUR"},
            "Search",
            {"search_string": "blue jars", "value": 3, "currency": "EUR"},
        ),
        (
            "Product List Viewed",
            {"list_id": "hot", "category": "Deals", "products": [JAR, LID]},
            "ViewContent",
            {
                "content_ids": ["507f1f77", "L-7"],
                "contents": JARS,
                "content_type": "product",
                "content_category": "Deals",
                "list_id": "hot",
            },
        ),
        (
            "Product List Viewed",
            {"category": "Deals"},
            "ViewContent",
            {
                "content_ids": ["Deals"],
                "content_type": "product_group",
                "content_category": "Deals",
            },
        ),
        (
            "Product Viewed",
            JAR | {"currency": "usd", "value": 39, "category": ["Home", "Jars"], "brand": "Jarly"},
            "ViewContent",
            {
                "value": 19.5,
                "currency": "USD",
                "content_ids": ["507f1f77"],
                "contents": [
                    JARS[0] | {"brand": "Jarly", "category": "Home,Jars"},
                ],
                "content_type": "product",
                "content_category": "Home,Jars",
                "content_name": "Jar",
            },
        ),
        (
            "Product Added",
            JAR | {"cart_id": "c1", "currency": "USD"},
            "AddToCart",
            {
                "value": 39,
                "currency": "USD",
                "content_ids": ["507f1f77"],
                "contents": JARS[:1],
                "content_type": "product",
                "content_name": "Jar",
                "cart_id": "c1",
            },
        ),
        (
            "Product Added to Wishlist",
            {"wishlist_id": "w1", "currency": "USD", "products": [JAR, LID]},
            "AddToWishlist",
            {
                "value": 43.25,
                "currency": "USD",
                "content_ids": ["507f1f77", "L-7"],
                "contents": JARS,
                "content_type": "product",
                "wishlist_id": "w1",
            },
        ),
        (
            "Checkout Started",
            {"order_id": "o1", "value": 30, "revenue": "25.00", "currency": "USD", "tax": 2,
             "products": [JAR, LID]},
            "InitiateCheckout",
            {
                "value": 25,
                "currency": "USD",
                "content_ids": ["507f1f77", "L-7"],
                "contents": JARS,
                "content_type": "product",
                "num_items": 3,
                "order_id": "o1",
                "tax": 2,
            },
        ),
        (
            "Payment Info Entered",
            {"checkout_id": "k1", "value": 30, "currency": "USD", "payment_method": "visa card"},
            "AddPaymentInfo",
            {"value": 30, "currency": "USD", "checkout_id": "k1", "payment_method": "visa card"},
        ),
        (
            "Order Completed",
            {"orderId": "o1", "total": 27.5, "currency": "USD", "coupon": "hasbros",
             "products": [JAR, {"name": "no id"}]},
            "Purchase",
            {
                "value": 27.5,
                "currency": "USD",
                "content_ids": ["507f1f77"],
                "contents": JARS[:1],
                "content_type": "product",
                "num_items": 3,
                "order_id": "o1",
                "coupon": "hasbros",
                "total": 27.5,
            },
        ),
        (
            "Signed Up",
            {"type": "invited", "first_name": "Peter", "email": "p@x.co", "status": True},
            "CompleteRegistration",
            {"type": "invited", "status": True},
        ),
        ("Lead", {"predicted_ltv": "120.5"}, "Lead", {"predicted_ltv": 120.5}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_the_table_of_events(
    event: str, properties: dict[str, Any], name: str, data: dict[str, Any]
) -> None:
    assert custom(event, properties) == (name, data)


@pytest.mark.parametrize("kind", ["page", "screen"])
def test_pages_and_screens_are_views(kind: str) -> None:
    columns = {"type": kind, "name": "Jars"}
    assert map_(None, columns=columns)["event_name"] == "PageView"
    assert map_(None, columns=columns, page_views=False) == Skipped("no_mapping")


@pytest.mark.parametrize("kind", ["identify", "group", "alias"])
def test_what_is_said_of_people_is_no_event_at_meta(kind: str) -> None:
    assert map_(None, columns={"type": kind}, custom_events=True) == Skipped("no_mapping")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("product_viewed", "ViewContent"),
        ("viewedProduct", "ViewContent"),
        ("Viewed Product", "ViewContent"),
        ("product.viewed", "ViewContent"),
        ("Viewed Product Category", "ViewContent"),
        ("Completed Order", "Purchase"),
        ("order-completed", "Purchase"),
        ("add_to_cart", "AddToCart"),
        ("Product Added from Wishlist to Cart", "AddToCart"),
        ("Started Order", "InitiateCheckout"),
        ("Subscribe", "Subscribe"),
        ("start_trial", "StartTrial"),
        ("Product Viewed Twice", None),
        ("Order Refunded", None),
        ("", None),
    ],
)
def test_an_event_is_known_however_it_is_written(written: str, name: str | None) -> None:
    assert Names({}, unknown=None, custom=False).of(written) == name


def test_names_of_your_own_come_first() -> None:
    names = {"Deal Won": "Purchase", "Product Viewed": "SawIt", "Signed Up": ""}
    found = Names(names, unknown=None, custom=True)
    assert found.of("deal_won") == "Purchase"
    assert found.of("Product Viewed") == "SawIt"
    assert found.of("Signed Up") is None
    assert found.of(" Deal Lost ") == "Deal Lost"


def test_events_without_a_name_at_meta_stay_unless_they_may_go() -> None:
    assert map_("Video Playback Started") == Skipped("no_mapping")
    assert map_("Video Playback Started", custom_events=True)["event_name"] == (
        "Video Playback Started"
    )
    assert map_(PREFERENCE_EVENT, custom_events=True) == Skipped("no_mapping")
    assert map_(None, custom_events=True) == Skipped("no_mapping")


def test_what_an_order_is_worth_can_be_chosen() -> None:
    order = {"revenue": 20, "total": 27.5, "currency": "EUR", "products": [JAR, LID]}
    values = {
        source: custom("Order Completed", order, value_source=[source])[1].get("value")
        for source in ("revenue", "total", "products")
    }
    assert values == {"revenue": 20, "total": 27.5, "products": 43.25}
    added = JAR | {"currency": "EUR", "price": 19.99, "quantity": 3}
    assert custom("Product Added", added)[1]["value"] == 59.97  # and no 59.970000000000006
    assert custom("Product Added", added, multiply_quantity=False)[1]["value"] == 19.99


def test_a_value_goes_only_with_a_currency() -> None:
    assert "value" not in custom("Product Added", JAR)[1]
    assert "value" not in custom("Product Added", JAR | {"currency": "Taler"})[1]
    assert custom("Product Added", JAR, currency_default="eur")[1]["currency"] == "EUR"


def test_less_than_nothing_is_worth_only_in_a_refund() -> None:
    refund = {"revenue": -5, "currency": "EUR"}
    assert custom("Order Refunded", refund, custom_events=True)[1]["value"] == -5
    assert "value" not in custom("Cart Viewed", refund, custom_events=True)[1]
    found = map_("Order Completed", refund)
    assert isinstance(found, Refused)
    assert found.reason == "missing_required:value"


# --- whose it was ---------------------------------------------------------------------------------


def test_everything_that_is_known_of_a_person() -> None:
    traits = {
        "email": "a@x.co",
        "phone": "020 7946 0018",
        "name": "Mary Valéry",
        "gender": "female",
        "birthday": "1997-02-16",
        "address": {
            "city": "New York",
            "state": "New York",
            "postalCode": 2139,
            "country": "USA",
        },
    }
    assert user(WEB | {"traits": traits}, columns={"anonymous_id": "A 1"}) == {
        "em": [sha("a@x.co")],
        "fn": [sha("mary")],
        "ln": [sha("valéry")],
        "ge": [sha("f")],
        "db": [sha("19970216")],
        "ct": [sha("newyork")],
        "st": [sha("ny")],
        "zp": [sha("02139")],
        "country": [sha("us")],
        "external_id": [sha("u1"), sha("a1")],
        "client_ip_address": "203.0.113.7",
        "client_user_agent": AGENT,
    }


def test_where_a_persons_facts_are_looked_up_first() -> None:
    inner, given_, known = {"email": "b@x.co"}, {"email": "c@x.co"}, {"email": "d@x.co"}
    own = {"traits": {"email": "a@x.co"}}
    context = WEB | {"traits": inner}
    assert user(context, columns=own, properties=given_, person=known)["em"] == [sha("a@x.co")]
    assert user(context, properties=given_, person=known)["em"] == [sha("b@x.co")]
    assert user(properties=given_, person=known)["em"] == [sha("c@x.co")]
    assert user(person=known)["em"] == [sha("d@x.co")]
    assert user(WEB | {"traits": {"email": " "}}, person=known)["em"] == [sha("d@x.co")]


def test_a_phone_is_of_the_address_else_of_the_default_country() -> None:
    traits = {"phone": "0176 12345678"}
    assert "ph" not in user(WEB | {"traits": traits})
    german = WEB | {"traits": traits | {"address": {"country": "Germany"}}}
    assert user(german)["ph"] == [sha("4917612345678")]
    assert user(german, phone_country_default="CH")["ph"] == [sha("4917612345678")]
    assert user(WEB | {"traits": traits}, phone_country_default="DE")["ph"] == [
        sha("4917612345678")
    ]


def test_the_name_of_a_product_is_nobodys() -> None:
    assert "fn" not in user(properties={"name": "Red Jar"})
    assert "fn" not in user(WEB | {"traits": {"name": "Anna Maria Jar"}})
    assert user(person={"name": "Ann Lee"})["ln"] == [sha("lee")]


def test_ids_that_meta_made_go_as_they_are() -> None:
    fbp, fbc = "fb.1.1596403881668.1116446470", "fb.1.1554763741205.AbCdEf"
    for context in (
        {"fbp": fbp, "fbc": fbc},
        {"cookies": {"_fbp": fbp, "_fbc": fbc}},
        {"clientIds": {"fbp": fbp, "fbc": fbc}},
    ):
        found = user(WEB | context)
        assert (found["fbp"], found["fbc"]) == (fbp, fbc)
    found = user(properties={"fbp": fbp, "lead_id": "525645896321548", "subscription_id": "s1"})
    assert (found["fbp"], found["lead_id"]) == (fbp, 525645896321548)
    assert found["subscription_id"] == "s1"
    options = {"integrations": {"Facebook Conversions API": {"fbp": fbp}, "All": True}}
    assert user(columns=options)["fbp"] == fbp


def test_a_click_becomes_an_fbc_with_its_case_unchanged() -> None:
    landing = {"page": {"url": f"{URL}?a=1&fbclid=IwAR0aBcD-_9&b=2"}}
    assert user(WEB | landing)["fbc"] == f"fb.1.{AT // 1000}.IwAR0aBcD-_9"
    assert user(WEB | {"clickIds": {"fbclid": "Xy"}})["fbc"] == f"fb.1.{AT // 1000}.Xy"
    assert user(WEB | landing | {"fbc": "fb.1.1.Z"})["fbc"] == "fb.1.1.Z"


@pytest.mark.parametrize(
    ("ip", "sent"),
    [
        ("2001:db8:85a3::8a2e:370:7334", "2001:db8:85a3::8a2e:370:7334"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("0.0.0.0", None),
        ("10.1.2.3", None),
        ("127.0.0.1", None),
        ("::1", None),
        ("unknown", None),
        (7, None),
    ],
)
def test_only_addresses_that_people_have_are_sent(ip: Any, sent: str | None) -> None:
    assert user(WEB | {"ip": ip}).get("client_ip_address") == sent


def test_external_ids_go_as_the_page_sends_them() -> None:
    columns = {"user_id": "User 1", "anonymous_id": "A-1"}
    assert user(columns=columns)["external_id"] == [sha("user1"), sha("a-1")]
    assert user(columns=columns, hash_external_id=False)["external_id"] == ["User 1", "A-1"]
    assert user(columns=columns, external_ids=["user_id"])["external_id"] == [sha("user1")]
    mail = {"user_id": "Ann@x.co"}
    assert user(columns=mail, hash_external_id=False)["external_id"] == [sha("ann@x.co")]


@pytest.mark.parametrize(
    ("traits", "taken"),
    [
        ({}, False),
        ({"gender": "f"}, False),
        ({"gender": "f", "address": {"city": "Ulm", "country": "DE", "zip": "89073"}}, False),
        ({"birthday": "1997-02-16"}, False),
        ({"firstName": "Ann", "lastName": "Lee"}, True),
        ({"birthday": "1997-02-16", "address": {"zip": "89073"}}, True),
        ({"email": "a@x.co"}, True),
    ],
)
def test_who_could_be_anybody_is_refused(traits: dict[str, Any], taken: bool) -> None:
    context = {"userAgent": AGENT, "page": {"url": URL}, "traits": traits}
    found = map_("Signed Up", {}, context, columns={"user_id": None})
    assert isinstance(found, dict) == taken
    if not taken:
        assert found.reason == "missing_identifier"


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ("", False),
        ("client_user_agent", False),
        ("ct country st zp ge client_user_agent", False),
        ("db client_user_agent", False),
        ("fn ge", False),
        ("ln ge", False),
        ("fn ln", True),
        ("db zp", True),
        ("client_ip_address", True),
        ("external_id", True),
    ],
)
def test_what_meta_says_is_too_broad_to_match(keys: str, taken: bool) -> None:
    assert is_matchable(dict.fromkeys(keys.split())) == taken


# --- where it happened ----------------------------------------------------------------------------


def test_where_an_event_happened_is_what_its_sender_says() -> None:
    for where in ("email", "phone_call", "chat", "system_generated", "other", "Physical_Store "):
        found = map_("Lead", {"action_source": where}, {})
        assert found["action_source"] == where.strip().lower()
        assert "event_source_url" not in found
    found = map_("Lead", {"action_source": "the moon"})
    assert isinstance(found, Refused)
    assert found.reason == "unknown_action_source"
    assert map_("Lead", {"action_source": 7}).reason == "unknown_action_source"


def test_where_an_event_happened_is_else_what_is_set_for_its_source() -> None:
    changes: dict[str, Any] = {"action_sources": {"till": "physical_store"}}
    till = {"source": "till"}
    assert map_("Lead", columns=till, **changes)["action_source"] == "physical_store"
    assert map_("Lead", **changes)["action_source"] == "website"
    assert map_("Lead", action_source="chat")["action_source"] == "chat"
    assert map_("Lead", context=IPHONE)["action_source"] == "app"
    browser = IPHONE | WEB
    assert map_("Lead", context=browser)["action_source"] == "website"


@pytest.mark.parametrize(
    ("context", "field"),
    [
        ({"page": {"url": URL}}, "client_user_agent"),
        ({"userAgent": AGENT}, "event_source_url"),
        ({"userAgent": AGENT, "page": {"url": "about:blank"}}, "event_source_url"),
    ],
)
def test_what_a_website_has_to_say(context: dict[str, Any], field: str) -> None:
    assert map_("Lead", {}, context).reason == f"missing_required:{field}"


def test_what_an_app_has_to_say() -> None:
    assert map_("Lead", {}, IPHONE)["app_data"] == {
        "advertiser_tracking_enabled": 1,
        "application_tracking_enabled": 1,
        "extinfo": [
            "i2", "com.shop", "2.1", "77", "26.0", "iPhone17,3", "de-DE", "", "T-Mobile",
            "390", "844", "3", "", "", "", "Europe/Berlin",
        ],
    }  # fmt: skip
    assert map_("Lead", {}, IPHONE)["user_data"]["madid"] == "aebe-52"
    refused = IPHONE | {"device": {"advertisingId": "AEBE-52", "adTrackingEnabled": False}}
    assert map_("Lead", {}, refused)["app_data"]["advertiser_tracking_enabled"] == 0
    assert "madid" not in map_("Lead", {}, refused)["user_data"]
    no_system = map_("Lead", {"action_source": "app"}, {})
    assert no_system.reason == "missing_required:extinfo"


def test_messages_have_their_channel() -> None:
    told = {"action_source": "business_messaging", "messaging_channel": "whatsapp"}
    found = map_("Lead", told | {"ctwa_clid": "ARA", "page_id": "9"}, {})
    assert found["messaging_channel"] == "whatsapp"
    assert found["user_data"]["ctwa_clid"] == "ARA"
    assert "page_id" not in user(properties={"page_id": "9"})  # a page of the shop's


def test_an_offline_destination_is_a_shops_till() -> None:
    changes: dict[str, Any] = {"offline": True, "events": ["Order Completed", "Table *"]}
    order = {"order_id": "o1", "revenue": 5, "currency": "EUR"}
    found = map_("Order Completed", order, {}, **changes)
    assert (found["event_name"], found["action_source"]) == ("Purchase", "physical_store")
    assert map_("Table Booked", {}, {}, **changes)["event_name"] == "Other"
    assert map_(None, columns={"type": "page"}, **changes) == Skipped("no_mapping")
    with pytest.raises(ValueError, match="set `events`"):
        build(offline=True)


def test_how_old_an_event_may_be() -> None:
    web = build().map(Mail(stored(user_id="u", event="Lead", context=WEB), {}, restricted=False))
    assert isinstance(web, Parcel)
    assert web.age_seconds_max == 7 * 86_400
    till = build(action_source="physical_store").map(
        Mail(stored(user_id="u", event="Lead"), {}, restricted=False)
    )
    assert isinstance(till, Parcel)
    assert till.age_seconds_max == 62 * 86_400


# --- what is refused, what stays behind -----------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"revenue": 5}, "missing_required:currency"),
        ({"revenue": 5, "currency": "Taler"}, "invalid_currency"),
        ({"revenue": 5, "currency": 7}, "invalid_currency"),
        ({"currency": "EUR"}, "missing_required:value"),
        ({"currency": "EUR", "revenue": "1.299,00"}, "missing_required:value"),
    ],
)
def test_a_purchase_has_a_value_and_a_currency(properties: dict[str, Any], reason: str) -> None:
    found = map_("Order Completed", properties)
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert found.detail


def test_personal_properties_stay_behind() -> None:
    properties = {
        "first_name": "Ann",
        "lastName": "Lee",
        "Phone-Number": "1",
        "zip": "1",
        "birthday": "1",
        "share_message": "hi",
        "note": "write to ann@x.co",
        "paid_with": "4111 1111 1111 1111",
        "card": 4111111111111111,
        "nested": {"a": 1},
        "colour": "blue",
        "ages": [1, 2],
        "people": ["ann@x.co"],
        "gift": True,
        "weight": 1.5,
    }
    kept = {"colour": "blue", "ages": [1, 2], "gift": True, "weight": 1.5}
    assert custom("Lead", properties)[1] == kept
    assert custom("Lead", properties, free_properties="none")[1] == {}
    listed: dict[str, Any] = {
        "free_properties": "listed",
        "free_properties_listed": ["colour", "zip"],
    }
    assert custom("Lead", properties, **listed)[1] == {"colour": "blue"}
    assert custom("Lead", properties, personal_properties=["Colour"])[1] == {
        key: value for key, value in kept.items() if key != "colour"
    }
    assert custom("Lead", properties, impersonal_properties=["zip"])[1] == kept | {"zip": "1"}


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (f"{URL}?utm_source=x&fbclid=Ab", f"{URL}?utm_source=x&fbclid=Ab"),
        (f"{URL}?email=a@x.co&a=1", f"{URL}?a=1"),
        (f"{URL}?a=1&u=a%40x.co", f"{URL}?a=1"),
        (f"{URL}?token=abc", URL),
        (f"{URL}#secret", URL),
        ("https://ann:pw@shop.example/a", "https://shop.example/a"),
        ("https://shop.example/of/ann@x.co", "https://shop.example/"),
        ("android-app://com.shop", None),
        ("https://[", None),
        ("/relative", None),
        (7, None),
    ],
)
def test_addresses_of_pages_go_without_what_is_personal(url: Any, sent: str | None) -> None:
    assert clean_url(url) == sent


def test_what_is_personal_is_found_quickly() -> None:
    assert not is_personal("a@" * 2000)
    assert not is_personal("%40" * 1300)
    assert not is_personal("1 " * 2000)
    assert is_personal("x" * 900 + "ann@x.co")


def test_people_who_opted_out_go_with_limited_data_use() -> None:
    limited = {
        "data_processing_options": ["LDU"],
        "data_processing_options_country": 0,
        "data_processing_options_state": 0,
    }
    assert map_("Lead", restricted=True).items() >= limited.items()
    assert not set(limited) & set(map_("Lead"))
    california = map_("Lead", ldu_always=True, ldu_country=1, ldu_state=1000)
    assert california["data_processing_options_country"] == 1
    assert california["data_processing_options_state"] == 1000
    with pytest.raises(ValueError, match="ldu_country"):
        build(ldu_state=1000)
    with pytest.raises(ValueError, match="1010"):
        build(ldu_state=7, ldu_country=1)


def test_what_the_page_has_to_send_as_its_event_id() -> None:
    order = {"order_id": "o1", "revenue": 5, "currency": "EUR"}
    assert map_("Order Completed", order)["event_id"] == "m-1"
    assert map_("Order Completed", order, event_id="order_id")["event_id"] == "o1"
    assert map_("Checkout Started", order, event_id="order_id")["event_id"] == "m-1"
    own = order | {"event_id": "e1"}
    assert map_("Order Completed", own, event_id="order_id")["event_id"] == "e1"


# --- odd data -------------------------------------------------------------------------------------

everything: dict[str, Any] = {
    "custom_events": True,
    "action_source": "other",
    "currency_default": "EUR",
    "phone_country_default": "DE",
}


@settings(max_examples=300)
@given(odd_events, objects(valid), st.booleans())
def test_odd_data_never_raises_and_meta_takes_what_is_made_of_it(
    event: Any, person: bytes, restricted: bool
) -> None:
    found = build(**everything).map(Mail(event, json.loads(person), restricted))
    if isinstance(found, Parcel):
        sent = json.loads(found.payload)
        fake_meta.check(sent, sent["event_time"])


odd: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["EUR", "12.5", "a@b.co", "+491761234567", "DE", "f", "app", "iOS", URL]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def keyed(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, odd))


item = keyed("product_id", "id", "sku", "price", "quantity", "name", "category", "brand")
odd_properties = st.builds(
    lambda a, b, c: a | {"products": b} | c,
    keyed(
        "order_id", "revenue", "value", "total", "currency", "query", "event_id", "action_source",
        "fbc", "fbp", "email", "phone", "content_type", "num_items", "opt_out", "lead_id", "url",
        "contents", "content_ids", "categories", "predicted_ltv", "status", "delivery_category",
    ),
    odd | st.lists(item | odd, max_size=3),
    item,
)  # fmt: skip
odd_traits = keyed(
    "email", "phone", "name", "firstName", "last_name", "gender", "birthday", "city", "country"
) | st.builds(lambda a: {"address": a}, keyed("city", "state", "zip", "country") | odd)
odd_context = st.builds(
    lambda a, b, c: a | {"traits": b} | c,
    keyed("ip", "userAgent", "page", "device", "os", "app", "screen", "network", "cookies"),
    odd_traits | odd,
    st.sampled_from([{}, WEB, IPHONE]),
)


@settings(max_examples=400)
@given(
    st.sampled_from(
        [
            "Order Completed",
            "Product Added",
            "Products Searched",
            "Product List Viewed",
            "Signed Up",
        ]
    ),
    odd_properties,
    odd_context,
    odd_traits,
    st.sampled_from(["auto", "app", "website", "physical_store", "business_messaging"]),
)
def test_odd_values_in_known_places_never_raise_and_meta_takes_the_rest(
    event: str, properties: Any, context: Any, person: Any, where: str
) -> None:
    found = map_(event, properties, context, person=person, action_source=where)
    if isinstance(found, dict):
        fake_meta.check(found, found["event_time"])
