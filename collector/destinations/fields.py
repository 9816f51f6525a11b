"""
Fields: where an event says who its person is, and what it is about. The one place that knows.

    email, phone            traits ─▶ context.traits ─▶ properties ─▶ person
    names, address, trait   traits ─▶ context.traits ─▶ person
    order_id                properties.order_id, orderId, of an order of version 1: id
    product_id              product_id, productId, id, sku
    products                properties.products, or properties as the one that was viewed or added
    url                     context.page.url ─▶ properties.url
    click_id                the query of url ─▶ context.clickIds ─▶ as identifier
    identifier              properties ─▶ context.clientIds ─▶ integrations.<Name>

The person is what identify calls said so far (`Mail.person`), asked last: the event knows better.
The traits of a group call describe the group, so nobody's name or email is taken from there.

Shapes   text is trimmed; empty text, and the words `undefined` and `null` that scripts write, are
         no text. Whole numbers are ids and phone numbers too. An email that was hashed by the
         sender comes back as it is.
Bounds   text of at most 8,192 characters; of an address, 200 parameters.
Errors   none, whatever stands where text belongs.
Source   Segment, "Spec: Identify", "V2 Ecommerce Events"; Jitsu's `clientIds`
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from collector.destinations.base import Mail
from collector.store.stored import NOTHING, Json

TEXT_CHARS_MAX: Final = 8_192
PARAMETERS_MAX: Final = 200
INTEGER_MAX: Final = 2**53  # beyond, a float is no number that anybody wrote

NOBODY: Final = frozenset({"", "undefined", "null"})
FIRST_NAMES: Final = ("firstName", "first_name", "firstname")
LAST_NAMES: Final = ("lastName", "last_name", "lastname")
CLICK_IDS: Final = ("fbclid", "gclid", "gbraid", "wbraid", "ttclid", "epik", "msclkid")

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_HASHED: Final = re.compile(r"[0-9a-fA-F]{64}|[A-Za-z0-9+/]{43}=")  # SHA-256 in hex or base64
_PHONE: Final = re.compile(r"[0-9]")


class Address(NamedTuple):
    """Where a person lives, as far as it is known."""

    street: str | None = None
    city: str | None = None
    state: str | None = None
    postal_code: str | None = None
    country: str | None = None


def text(value: Any) -> str | None:
    """*value* as text that says something, whole numbers written out."""
    if isinstance(value, str):
        found = value.strip()
        return None if found in NOBODY or len(found) > TEXT_CHARS_MAX else found
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) <= INTEGER_MAX:
        value = int(value)
    if isinstance(value, int) and abs(value) < 10**40:
        return str(value)
    return None


def first(members: Json, *names: str) -> str | None:
    """The first of *names* in *members* that says something."""
    for name in names:
        found = text(members.get(name))
        if found is not None:
            return found
    return None


# --- the person ----------------------------------------------------------------------------------


def _places(mail: Mail, *, properties: bool = False) -> Iterator[Json]:
    """Where the person is described, the nearest first."""
    event = mail.event
    if event.type != "group":
        yield event.traits
    yield _object(event.context.get("traits"))
    if properties:
        yield event.properties
    yield mail.person


def trait(mail: Mail, *names: str) -> str | None:
    """The first of *names* among the person's traits, in the nearest place that has one."""
    for place in _places(mail):
        found = first(place, *names)
        if found is not None:
            return found
    return None


def email(mail: Mail, *, user_id: bool = False) -> str | None:
    """The person's email, or its hash; with *user_id* also a user id that is one."""
    for place in _places(mail, properties=True):
        found = text(place.get("email"))
        if found is not None and (_EMAIL.fullmatch(found) or _HASHED.fullmatch(found)):
            return found
    found = text(mail.event.user_id) if user_id else None
    return found if found is not None and _EMAIL.fullmatch(found) else None


def phone(mail: Mail) -> str | None:
    """The person's phone number as it was written, or its hash."""
    for place in _places(mail, properties=True):
        found = text(place.get("phone"))
        if found is not None and _PHONE.search(found):
            return found
    return None


def names(mail: Mail) -> tuple[str | None, str | None]:
    """First and last name; a whole `name` is split only if it has two words."""
    one = other = None
    for place in _places(mail):
        here, there = first(place, *FIRST_NAMES), first(place, *LAST_NAMES)
        if here is None and there is None:
            whole = (text(place.get("name")) or "").split()
            if len(whole) == 2:
                here, there = whole
        one, other = one or here, other or there
        if one and other:
            break
    return one, other


def address(mail: Mail) -> Address:
    """The address in the nearest place that has one; two places never make one address."""
    for place in _places(mail):
        found = _object(place.get("address"))
        read = Address(
            street=first(found, "street"),
            city=first(found, "city"),
            state=first(found, "state"),
            postal_code=first(found, "postalCode", "postal_code", "zip"),
            country=first(found, "country"),
        )
        if any(read):
            return read
    return Address()


# --- what was bought -----------------------------------------------------------------------------


@lru_cache(1_024)
def folded(name: str) -> str:
    """*name* of an event without what senders write in different ways."""
    return re.sub(r"[ _.\-]", "", name).lower()


ORDERS: Final = frozenset(
    folded(name)
    for action in ("Completed", "Updated", "Refunded", "Cancelled")
    for name in (f"Order {action}", f"{action} Order")
)
ONE_PRODUCT: Final = frozenset(
    folded(name)
    for name in (
        *("Product Viewed", "Viewed Product", "Product Clicked", "Clicked Product"),
        *("Product Added", "Added Product", "Product Removed", "Removed Product"),
        *("Product Added to Wishlist", "Product Removed from Wishlist"),
        *("Wishlist Product Added to Cart", "Product Added to Cart from Wishlist"),
        "Product Added from Wishlist to Cart",
    )
)


def order_id(mail: Mail) -> str | None:
    """The order's id; a bare `id` only on an order event, elsewhere it is a product's."""
    properties = mail.event.properties
    found = first(properties, "order_id", "orderId")
    if found is None and folded(mail.event.event or "") in ORDERS:
        found = text(properties.get("id"))
    return found


def product_id(product: Json) -> str | None:
    """The id of one of `products`."""
    return first(product, "product_id", "productId", "id", "sku")


def products(mail: Mail) -> list[Json]:
    """The products that the event is about; read only."""
    properties = mail.event.properties
    listed = properties.get("products")
    if isinstance(listed, list):
        return [product for product in listed if isinstance(product, dict)]
    if mail.event.type == "track" and folded(mail.event.event or "") in ONE_PRODUCT:
        return [properties] if properties else []
    return []


# --- device and page -----------------------------------------------------------------------------


def ip(mail: Mail) -> str | None:
    """The person's address; `0.0.0.0` asks for none to be recorded."""
    found = text(mail.event.context.get("ip"))
    if found is None:
        return None
    try:
        return None if ip_address(found).is_unspecified else found
    except ValueError:
        return None


def user_agent(mail: Mail) -> str | None:
    """What the person's browser calls itself."""
    return first(mail.event.context, "userAgent", "user_agent")


def url(mail: Mail) -> str | None:
    """The address of the page."""
    return first(_page(mail), "url") or first(mail.event.properties, "url")


def referrer(mail: Mail) -> str | None:
    """The page that led there."""
    return first(_page(mail), "referrer")


def click_id(mail: Mail, name: str, *integrations: str) -> str | None:
    """The ad network's id *name* (one of CLICK_IDS, say) of the click that led to the event."""
    found = _parameter(text(_page(mail).get("url")), name)
    if found is None:
        found = first(_object(mail.event.context.get("clickIds")), name)
    return found or identifier(mail, name, *integrations)


def identifier(mail: Mail, name: str, *integrations: str) -> str | None:
    """
    An id that a vendor's own script gave the person's browser, such as `fbp` or `ga4.clientId`.

    *integrations* are the vendor's names in the sender's `integrations`.
    """
    event = mail.event
    found = _at(event.properties, name) or _at(_object(event.context.get("clientIds")), name)
    for integration in integrations:
        found = found or _at(_object(event.integrations.get(integration)), name)
    return found


def _page(mail: Mail) -> Json:
    return _object(mail.event.context.get("page"))


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else NOTHING


def _at(members: Json, path: str) -> str | None:
    *way, name = path.split(".")
    for step in way:
        members = _object(members.get(step))
    return text(members.get(name))


def _parameter(address_: str | None, name: str) -> str | None:
    """The first parameter *name* of a query, in upper or lower case."""
    name = name.lower()
    if address_ is None or name not in address_.lower():
        return None
    query = address_.partition("?")[2].partition("#")[0]
    parts = "&".join(query.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX])
    return next(_said(parse_qsl(parts, errors="replace"), name), None)


def _said(pairs: Iterable[tuple[str, str]], name: str) -> Iterator[str]:
    for key, value in pairs:
        if key.lower() == name and (found := text(value)) is not None:
            yield found
