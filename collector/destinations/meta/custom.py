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

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from collector.destinations.meta.hashing import text_of
from collector.destinations.meta.money import (
    amount_of,
    count_of,
    currency_of,
    decimal_of,
    number,
)
from collector.destinations.meta.names import LISTS, PURCHASE, REFUNDS, fold
from collector.destinations.meta.privacy import free_properties
from collector.destinations.meta.settings import MetaSettings, ValueSource
from collector.store.stored import Json

ITEMS_MAX = 500  # of one event; beyond, the value still counts all
DELIVERIES: Final = {"in_store", "curbside", "home_delivery"}
ITEM_IDS: Final = ("product_id", "productId", "id", "sku")
ORDER_IDS: Final = ("order_id", "orderId")

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
_LIST_VALUES: Final[tuple[ValueSource, ...]] = ("revenue", "value", "price", "total")
_OTHER_VALUES: Final[tuple[ValueSource, ...]] = ("revenue", "value", "price", "total")
_ORDERS: Final = {"InitiateCheckout", "AddPaymentInfo", PURCHASE}
_TEXTS: Final = ("content_name", "content_category", "content_type", "search_string")


def custom_data_of(
    event: str | None, name: str, properties: Json, settings: MetaSettings
) -> dict[str, Any]:
    """What Meta is told of *event*, which it calls *name*."""
    is_list = event is not None and fold(event) in LISTS
    items = list(_items(properties))
    found: dict[str, Any] = {}
    _put_value(found, event, name, properties, items, settings, is_list=is_list)
    _put_contents(found, name, properties, items, is_list=is_list)
    if order := order_id(properties, loose=name == PURCHASE):
        found["order_id"] = order
    if name == "Search" and (query := _query(properties.get("query"))):
        found["search_string"] = query
    for key in ("predicted_ltv", "net_revenue"):
        amount = amount_of(properties.get(key))
        if amount is not None:
            found[key] = amount
    if name == "CompleteRegistration" and isinstance(properties.get("status"), bool | str):
        found["status"] = properties["status"]
    for key in _TEXTS:  # the sender knows Meta's own names
        if text := text_of(properties.get(key)):
            found[key] = text
    for key, value in free_properties(properties, settings):
        found.setdefault(key, value)
    return found


def order_id(properties: Json, *, loose: bool = False) -> str | None:
    """The order's id; *loose* takes `id` for it too, as version 1 of the e-commerce events had."""
    names = (*ORDER_IDS, "id") if loose else ORDER_IDS
    return next((text for name in names if (text := text_of(properties.get(name)))), None)


def _items(properties: Json) -> Iterator[Json]:
    """The products of an event: its list, or itself where it is about a single one."""
    products = properties.get("products")
    if isinstance(products, list):
        yield from (item for item in products[:ITEMS_MAX] if isinstance(item, Mapping))
    elif isinstance(theirs := properties.get("contents"), list):  # as Meta has them
        yield from (item for item in theirs[:ITEMS_MAX] if isinstance(item, Mapping))
    elif any(text_of(properties.get(name)) for name in ("product_id", "productId", "sku")):
        yield properties
    elif text_of(properties.get("id")) and decimal_of(properties.get("price")) is not None:
        yield properties  # version 1


def _put_value(
    found: dict[str, Any],
    event: str | None,
    name: str,
    properties: Json,
    items: list[Json],
    settings: MetaSettings,
    *,
    is_list: bool,
) -> None:
    sources: tuple[ValueSource, ...] = _VALUES.get(name, _OTHER_VALUES)
    if is_list:
        sources = _LIST_VALUES
    elif settings.value_source and name in _ORDERS:
        sources = tuple(settings.value_source)
    by_quantity = settings.multiply_quantity and name not in {"ViewContent", "AddToWishlist"}
    value = next(
        (
            amount
            for source in sources
            if (amount := _amount(source, properties, items, by_quantity=by_quantity)) is not None
        ),
        None,
    )
    given = properties.get("currency")
    currency = currency_of(settings.currency_default if given is None else given)
    if value is not None and value < 0 and fold(event or "") not in REFUNDS:
        value = None
    if value is not None and currency is not None:
        found["value"] = number(value)
    if currency is not None:
        found["currency"] = currency


def _amount(
    source: ValueSource, properties: Json, items: list[Json], *, by_quantity: bool
) -> Decimal | None:
    if source == "price":
        price = decimal_of(properties.get("price"))
        if price is None or not by_quantity:
            return price
        return price * (count_of(properties.get("quantity")) or 1)
    if source == "products":
        prices = [
            price * (count_of(item.get("quantity")) or 1)
            for item in items
            if (price := decimal_of(item.get("price"))) is not None
        ]
        return sum(prices, Decimal(0)) if prices else None
    return decimal_of(properties.get(source))


def _put_contents(
    found: dict[str, Any], name: str, properties: Json, items: list[Json], *, is_list: bool
) -> None:
    contents = [content for item in items if (content := _content(item))]
    category = _category(properties)
    if contents:
        found["content_ids"] = [content["id"] for content in contents]
        found["contents"] = contents
        found["content_type"] = "product"
    elif is_list and category:
        found["content_ids"] = [category]
        found["content_type"] = "product_group"
    elif ids := [text for one in _list(properties.get("content_ids")) if (text := text_of(one))]:
        found["content_ids"] = ids
        found["content_type"] = "product"
    if name in {"InitiateCheckout", PURCHASE} and items:
        found["num_items"] = sum(count_of(item.get("quantity")) or 1 for item in items)
    if count := count_of(properties.get("num_items")):
        found["num_items"] = count
    if category is None and len(items) == 1:
        category = _category(items[0])
    if category:
        found["content_category"] = category
    product = items[0] if len(items) == 1 else {}
    if title := text_of(product.get("name")):
        found["content_name"] = title
    delivery = properties.get("delivery_category")
    if isinstance(delivery, str) and delivery in DELIVERIES:
        found["delivery_category"] = delivery


def _content(item: Json) -> dict[str, Any] | None:
    key = next((text for name in ITEM_IDS if (text := text_of(item.get(name)))), None)
    if key is None:
        return None
    found: dict[str, Any] = {"id": key, "quantity": count_of(item.get("quantity")) or 1}
    price = amount_of(item.get("price", item.get("item_price")))
    if price is not None and price >= 0:
        found["item_price"] = price
    for theirs, ours in (("title", "name"), ("description", "description"), ("brand", "brand")):
        if text := text_of(item.get(ours)):
            found[theirs] = text
    if category := _category(item):
        found["category"] = category
    delivery = item.get("delivery_category")
    if isinstance(delivery, str) and delivery in DELIVERIES:
        found["delivery_category"] = delivery
    return found


def _category(layer: Json) -> str | None:
    """One category as it is, several joined by commas."""
    for value in (layer.get("category"), layer.get("categories")):
        if isinstance(value, list):
            if texts := [text for one in value[:ITEMS_MAX] if (text := text_of(one))]:
                return ",".join(texts)
        elif text := text_of(value):
            return text
    return None


def _list(value: Any) -> list[Any]:
    return value[:ITEMS_MAX] if isinstance(value, list) else []


def _query(value: Any) -> str | None:
    """What was searched for, as text: a query may be an object."""
    if isinstance(value, Mapping | list) and value:
        return msgspec.json.encode(value).decode()
    return text_of(value)
