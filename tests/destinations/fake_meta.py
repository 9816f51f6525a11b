"""
Meta's Conversions API, as far as it refuses: one invalid event, and nothing of the request counts.

Its rules are written down here a second time, from Meta's pages and not from our code.
"""

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from collector.store.stored import StoredEvent
from tests.destinations.events import stored
from tests.destinations.vendors import Received, Vendor

HASH = re.compile(r"[0-9a-f]{64}")
HASH_OF_NOTHING = hashlib.sha256(b"").hexdigest()
HASHED: Final = {"em", "ph", "fn", "ln", "ge", "db", "ct", "st", "zp", "country"}
PLAIN: Final = {"client_ip_address", "client_user_agent", "fbc", "fbp", "subscription_id", "madid"}
PLAIN |= {"anon_id", "ctwa_clid", "page_id", "partner_id", "partner_name", "ig_sid"}
PLAIN |= {"page_scoped_user_id", "ig_account_id", "whatsapp_business_account_id"}
INTEGERS: Final = {"lead_id", "fb_login_id"}
ACTION_SOURCES: Final = {"email", "website", "app", "phone_call", "chat", "physical_store"}
ACTION_SOURCES |= {"system_generated", "business_messaging", "other"}
TOO_BROAD: Final = (
    {"ct", "country", "st", "zp", "ge", "client_user_agent"},
    {"db", "client_user_agent"},
    {"fn", "ge"},
    {"ln", "ge"},
)
EVENT_KEYS: Final = {"event_name", "event_time", "event_id", "action_source", "event_source_url"}
EVENT_KEYS |= {"referrer_url", "user_data", "custom_data", "app_data", "opt_out"}
EVENT_KEYS |= {"messaging_channel", "data_processing_options"}
EVENT_KEYS |= {"data_processing_options_country", "data_processing_options_state"}
CONTENT_TYPES: Final = {"product", "product_group", "hotel", "flight", "destination", "vehicle"}
CONTENT_TYPES |= {"vehicle_offer", "home_listing", "offline_product"}
DAY = 86_400
INVALID, OLD, LACKING, BROAD = 2804016, 2804003, 2804019, 2804050


class Invalid(Exception):
    def __init__(self, subcode: int, said: str) -> None:
        super().__init__(said)
        self.subcode = subcode


class MetaApi(Vendor):
    """One dataset, its token, and what it has received."""

    token = "EAAB-token-of-a-system-user"
    app_secret = "app-5ecret-of-meta"
    dataset_id = "1234567890"
    test_event_code = "TEST123"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.events: dict[tuple[str, str], dict[str, Any]] = {}  # by what it dedupes on
        self.test_events: list[dict[str, Any]] = []
        self.asks_proof = False
        self.now: Callable[[], float] = time.time

    @staticmethod
    def sample() -> Sequence[StoredEvent]:
        """Events that it takes today: it takes none that are older than a week."""
        now = int(time.time() * 1e6)
        web = {"userAgent": "Mozilla/5.0", "page": {"url": "https://shop.example/"}}
        order = {"order_id": "ö2 😀", "total": 20.10, "currency": "EUR", "seconds": 2**60}
        return (
            stored(message_id="m-1", timestamp=now, user_id="u1", context=web, properties=order),
            stored(
                message_id="m-2", timestamp=now, type="page", user_id="u2", event=None, context=web
            ),
            stored(
                message_id="m 3%é",
                timestamp=now,
                anonymous_id="a1",
                event="Product Viewed",
                context=web,
            ),
            stored(
                message_id="m-4",
                timestamp=now - 10 * DAY * 1_000_000,
                user_id="u4",
                event="Lead",
                properties={"action_source": "physical_store"},
            ),
        )

    def take(self, received: Received) -> web.Response:
        parts = urlsplit(received.path)
        if not re.fullmatch(r"/v\d+\.0/\d+/events", parts.path) or received.method != "POST":
            return error(2500, message="Unknown path components")
        if received.headers.get("Authorization") != f"Bearer {self.token}":
            return error(190, 463, status=401, message="Error validating access token")
        proof = parse_qs(parts.query).get("appsecret_proof", [""])[0]
        wanted = hmac.new(self.app_secret.encode(), self.token.encode(), hashlib.sha256).hexdigest()
        if (proof or self.asks_proof) and proof != wanted:
            return error(100, message="Invalid appsecret_proof provided in the API argument")
        if parts.path.split("/")[2] != self.dataset_id:
            return error(100, 33, message="Object does not exist or missing permissions")
        body = received.json()
        events = body.get("data")
        if not isinstance(events, list) or not 1 <= len(events) <= 1000:
            return error(100, INVALID, message="Too many or no events")
        unknown = set(body) - {"data", "test_event_code", "partner_agent", "upload_tag"}
        if unknown:
            return error(100, INVALID, message=f"Unknown {unknown}")
        try:
            for event in events:
                check(event, self.now())
        except Invalid as invalid:
            return error(100, invalid.subcode, message=f"Invalid parameter: {invalid} {event}")
        if code := body.get("test_event_code"):
            if code != self.test_event_code:
                return error(100, INVALID, message="No such test")
            self.test_events += events
        else:
            for event in events:
                self.events.setdefault((event["event_name"], event.get("event_id", "")), event)
        return web.json_response(
            {"events_received": len(events), "messages": [], "fbtrace_id": "AbC123"}
        )


def error(
    code: int,
    subcode: int | None = None,
    *,
    status: int = 400,
    message: str = "Invalid parameter",
    is_transient: bool = False,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """An error as the Graph API writes it."""
    found: dict[str, Any] = {
        "message": message,
        "type": "OAuthException",
        "code": code,
        "is_transient": is_transient,
        "fbtrace_id": "AbC_1-23",
    }
    if subcode is not None:
        found["error_subcode"] = subcode
    return web.json_response({"error": found}, status=status, headers=headers)


def failing(*args: Any, **kwargs: Any) -> Any:
    """A fault: every request is answered with this error."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return error(*args, **kwargs)

    return answer


def check(event: Any, now: float) -> None:
    """Raise Invalid unless Meta takes *event*."""
    _want(isinstance(event, dict) and not set(event) - EVENT_KEYS, INVALID, "keys")
    for key in ("event_name", "event_time", "action_source", "user_data"):
        _want(key in event, LACKING, key)
    name, at, where = event["event_name"], event["event_time"], event["action_source"]
    _want(isinstance(name, str) and bool(name.strip()), INVALID, "event_name")
    _want(type(at) is int, INVALID, "event_time")
    _want(where in ACTION_SOURCES, INVALID, "action_source")
    _want(now - at <= (62 if where == "physical_store" else 7) * DAY, OLD, "event_time too old")
    _want(at - now <= 60, INVALID, "event_time in the future")
    _want(isinstance(event.get("event_id", ""), str), INVALID, "event_id")
    _check_user(event["user_data"])
    if where == "website":
        _want(bool(event["user_data"].get("client_user_agent")), LACKING, "client_user_agent")
        _want(str(event.get("event_source_url")).startswith("http"), LACKING, "event_source_url")
    if where == "app":
        app = event.get("app_data", {})
        _want(app.get("advertiser_tracking_enabled") in (0, 1), LACKING, "tracking")
        info = app.get("extinfo")
        _want(isinstance(info, list) and len(info) == 16 and bool(info[4]), LACKING, "extinfo")
        _want(all(isinstance(fact, str) for fact in info), INVALID, "extinfo")
        _want(info[0] in {"i2", "a2"}, INVALID, "extinfo")
    if "data_processing_options" in event:
        _want(event["data_processing_options"] in ([], ["LDU"]), INVALID, "ldu")
    _check_custom(name, event.get("custom_data", {}))


def _check_user(user: Any) -> None:
    _want(isinstance(user, dict) and bool(user), BROAD, "user_data")
    _want(not set(user) - HASHED - PLAIN - INTEGERS - {"external_id"}, INVALID, f"{set(user)}")
    for key in HASHED & set(user):
        values = user[key] if isinstance(user[key], list) else [user[key]]
        _want(bool(values), INVALID, key)
        for value in values:
            _want(isinstance(value, str) and bool(HASH.fullmatch(value)), INVALID, key)
            _want(value != HASH_OF_NOTHING, INVALID, key)
    for key in PLAIN & set(user):
        _want(isinstance(user[key], str) and bool(user[key]), INVALID, key)
    for key in INTEGERS & set(user):
        _want(type(user[key]) is int, INVALID, key)
    if "client_ip_address" in user:
        try:
            ipaddress.ip_address(user["client_ip_address"])
        except ValueError:
            raise Invalid(INVALID, "client_ip_address") from None
    _want(not any(set(user) <= broad for broad in TOO_BROAD), BROAD, "too broad")


def _check_custom(name: str, custom: Any) -> None:
    _want(isinstance(custom, dict), INVALID, "custom_data")
    for key in ("value", "net_revenue", "predicted_ltv"):
        _want(_is_number(custom.get(key, 0)), INVALID, key)
    _want(bool(re.fullmatch("[A-Za-z]{3}", custom.get("currency", "USD"))), INVALID, "currency")
    _want("value" not in custom or "currency" in custom, LACKING, "currency")
    if name == "Purchase":
        _want({"value", "currency"} <= set(custom), LACKING, "value and currency")
    contents = custom.get("contents", [])
    _want(isinstance(contents, list), INVALID, "contents")
    for item in contents:
        _want(isinstance(item.get("id"), str) and bool(item["id"]), INVALID, "contents.id")
        _want(type(item.get("quantity", 1)) is int, INVALID, "contents.quantity")
        _want(_is_number(item.get("item_price", 0)), INVALID, "contents.item_price")
    ids = custom.get("content_ids", [])
    _want(isinstance(ids, list) and all(type(one) is str for one in ids), INVALID, "content_ids")
    _want(custom.get("content_type", "product") in CONTENT_TYPES, INVALID, "content_type")
    for key in ("content_name", "content_category", "order_id", "search_string"):
        _want(isinstance(custom.get(key, ""), str), INVALID, key)
    _want(type(custom.get("num_items", 1)) is int, INVALID, "num_items")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _want(held: bool, subcode: int, said: str) -> None:
    if not held:
        raise Invalid(subcode, said)
