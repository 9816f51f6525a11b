"""
Custom data: `custom_data`, what an event says of products, money and itself.

    Product Viewed      one item           value = price
    Product Added       one item           value = price × quantity
    Checkout Started    all items          value = revenue, value
    Order Completed     all items          value = revenue, value, total

Shapes   `content_ids` and `contents` hold the items that have an id; what has none is left out,
         since Meta refuses an item without, and with it the whole request. A value goes only with
         a currency, as Meta asks. Free properties are text, numbers, booleans and lists of these;
         what is personal stays behind, see `privacy.py`.
Units    currency units.
Errors   none here; `event.py` refuses a purchase without value or currency.
Source   Meta, "Conversions API: Custom Data Parameters"; Segment, "V2 Ecommerce Events"
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from collector.destinations import fields
from collector.destinations.base import Mail
from collector.destinations.meta.hashing import text_of
from collector.destinations.meta.names import LISTS, PURCHASE, REFUNDS
from collector.destinations.meta.privacy import free_properties
from collector.destinations.meta.settings import MetaSettings, ValueSource
from collector.destinations.money import amount, currency, value_of, value_of_products
from collector.store.stored import Json

ITEMS_MAX = 500  # of one event that are named; its value counts all
DELIVERIES: Final = frozenset({"in_store", "curbside", "home_delivery"})
CONTENT_TYPES: Final = frozenset(
    {
        "destination",
        "flight",
        "home_listing",
        "hotel",
        "offline_product",
        "product",
        "product_group",
        "vehicle",
        "vehicle_offer",
    }
)

# Where the value stands, by Meta's name for the event.
_VALUES: Final[Mapping[str, tuple[ValueSource, ...]]] = {
    "Search": ("value",),
    "ViewContent": ("price", "value"),
    "AddToCart": ("price", "value"),
    "AddToWishlist": ("price", "value", "products"),
    "InitiateCheckout": ("revenue", "value"),
    "AddPaymentInfo": ("value",),
    PURCHASE: ("revenue", "value", "total"),
}
_OTHER_VALUES: Final[tuple[ValueSource, ...]] = ("revenue", "value", "price", "total")
_ONE_EACH: Final = frozenset({"ViewContent", "AddToWishlist"})  # whose price counts once
_ORDERS: Final = frozenset({"InitiateCheckout", "AddPaymentInfo", PURCHASE})
_COUNTED: Final = frozenset({"InitiateCheckout", PURCHASE})
_TEXTS: Final = ("content_name", "content_category", "search_string")  # the sender knows Meta's


def custom_data_of(mail: Mail, name: str, settings: MetaSettings) -> dict[str, Any]:
    """What Meta is told of the event of *mail*, which it calls *name*."""
    properties = mail.event.properties
    is_list = fields.folded(mail.event.event or "") in LISTS
    items = fields.products(mail)
    found: dict[str, Any] = {}
    worth = _value(mail, name, items, settings, is_list=is_list)
    code = currency(mail, settings.currency_default.upper() or None)
    if code is not None:
        if worth is not None:
            found["value"] = worth
        found["currency"] = code
    _put_contents(found, name, properties, items, is_list=is_list)
    if order := fields.order_id(mail):
        found["order_id"] = order
    if name == "Search" and (query := _query(properties.get("query"))):
        found["search_string"] = query
    for key in ("predicted_ltv", "net_revenue"):
        said = amount(properties.get(key), negative=True)
        if said is not None:
            found[key] = said
    if name == "CompleteRegistration" and isinstance(properties.get("status"), bool | str):
        found["status"] = properties["status"]
    for key in _TEXTS:
        if text := text_of(properties.get(key)):
            found[key] = text
    for key, value in free_properties(properties, settings):
        found.setdefault(key, value)
    return found


def _value(
    mail: Mail, name: str, items: list[Json], settings: MetaSettings, *, is_list: bool
) -> int | float | None:
    sources: tuple[ValueSource, ...] = _VALUES.get(name, _OTHER_VALUES)
    if is_list:
        sources = _OTHER_VALUES
    elif settings.value_source and name in _ORDERS:
        sources = tuple(settings.value_source)
    one_each = name in _ONE_EACH or not settings.multiply_quantity
    refund = fields.folded(mail.event.event or "") in REFUNDS
    for source in sources:
        if source == "products":
            found = value_of_products(items)
        elif source == "price" and one_each:
            found = amount(mail.event.properties.get("price"))
        else:
            found = value_of(mail, source, negative=refund)
        if found is not None:
            return found
    return None


def _put_contents(
    found: dict[str, Any], name: str, properties: Json, items: list[Json], *, is_list: bool
) -> None:
    contents = [content for item in items[:ITEMS_MAX] if (content := _content(item))]
    category = _category(properties)
    if contents:
        found["content_ids"] = [content["id"] for content in contents]
        found["contents"] = contents
        found["content_type"] = "product"
    elif is_list and category:
        found["content_ids"] = [category]
        found["content_type"] = "product_group"
    elif ids := _texts(properties.get("content_ids")):  # as Meta has it
        found["content_ids"] = ids
        found["content_type"] = "product"
    if name in _COUNTED and items:
        found["num_items"] = sum(map(_quantity, items))
    if count := _whole(properties.get("num_items")):
        found["num_items"] = count
    single = items[0] if len(items) == 1 else {}
    if category := category or _category(single):
        found["content_category"] = category
    if title := text_of(single.get("name")):
        found["content_name"] = title
    kind = properties.get("content_type")
    if isinstance(kind, str) and kind in CONTENT_TYPES:
        found["content_type"] = kind
    if delivery := _delivery(properties):
        found["delivery_category"] = delivery


def _content(item: Json) -> dict[str, Any] | None:
    key = fields.product_id(item)
    if key is None:
        return None
    found: dict[str, Any] = {"id": key, "quantity": _quantity(item)}
    price = amount(item.get("price"))
    if price is not None:
        found["item_price"] = price
    for theirs, ours in (("title", "name"), ("description", "description"), ("brand", "brand")):
        if text := text_of(item.get(ours)):
            found[theirs] = text
    if category := _category(item):
        found["category"] = category
    if delivery := _delivery(item):
        found["delivery_category"] = delivery
    return found


def _whole(value: Any) -> int | None:
    """The whole number of things that *value* says."""
    found = amount(value)
    return found if isinstance(found, int) and found else None


def _quantity(item: Json) -> int:
    """How many pieces: Meta counts whole ones, and one where nothing is said."""
    return _whole(item.get("quantity")) or 1


def _category(layer: Json) -> str | None:
    """One category as it is, several joined by commas."""
    for value in (layer.get("category"), layer.get("categories")):
        if found := ",".join(_texts(value)) or text_of(value):
            return found
    return None


def _texts(value: Any) -> list[str]:
    few = value[:ITEMS_MAX] if isinstance(value, list) else []
    return [text for one in few if (text := text_of(one))]


def _delivery(layer: Json) -> str | None:
    said = layer.get("delivery_category")
    return said if isinstance(said, str) and said in DELIVERIES else None


def _query(value: Any) -> str | None:
    """What was searched for, as text: a query may be an object."""
    if isinstance(value, dict | list) and value:
        return msgspec.json.encode(value).decode()
    return text_of(value)
