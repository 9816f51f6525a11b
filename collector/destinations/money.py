"""
Money: amounts and currencies of an event, read as they are written and never guessed.

    19.99   "19.99"   " 20 "        19.99   19.99   20
    "1,299.00"   "$5"   "1e3"   NaN   true   {}        no amount

`value_of` takes the first field that has an amount, in the order that a vendor's page asks for:

    Meta                revenue, value, price, total
    GA4                 total
    Google Ads          total, revenue, value
    Klaviyo             revenue, total
    TikTok, Pinterest   total, revenue, value
    Amplitude           revenue, total

Units    currency units, not cents. Counted in decimals: 3 × 19.99 is 59.97.
Bounds   amounts below 10^15, which a float still counts in cents.
Errors   none: what is no amount, or no currency, is None.
Source   Segment, "V2 Ecommerce Events"; ISO 4217
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from collector.destinations.base import Mail
from collector.destinations.fields import products
from collector.store.stored import Json

AMOUNT_MAX: Final = 10**15
TEXT_CHARS_MAX: Final = 40
CURRENCY: Final = "USD"  # what Segment takes an amount for that names none

_PLAIN: Final = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,18})?|\.\d{1,18})", re.ASCII)


def decimal(value: Any, *, negative: bool = False) -> Decimal | None:
    """The amount that *value* is or plainly says; below zero only where *negative* is asked for."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        if not -AMOUNT_MAX < value < AMOUNT_MAX:  # NaN is neither
            return None
        found = Decimal(repr(value))
    elif isinstance(value, str) and len(value) <= TEXT_CHARS_MAX:
        text = value.strip()
        if not _PLAIN.fullmatch(text):
            return None
        found = Decimal(text)
    else:
        return None
    if found < 0 and not negative:
        return None
    return found or Decimal(0)  # there is no -0 of money


def number(amount: Decimal) -> int | float:
    """*amount* as JSON has it; whole ones as integers."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def amount(value: Any, *, negative: bool = False) -> int | float | None:
    """As `decimal`, for JSON."""
    found = decimal(value, negative=negative)
    return None if found is None else number(found)


def quantity(product: Json) -> int | float | None:
    """How many of *product*: more than none, if it says so."""
    return amount(product.get("quantity")) or None


def value_of(mail: Mail, *fields: str, negative: bool = False) -> int | float | None:
    """
    The first amount among *fields* of the properties.

    `price` counts once for each piece that `quantity` names. Ask with *negative* for refunds.
    """
    properties = mail.event.properties
    for field in fields:
        found = decimal(properties.get(field), negative=negative)
        if found is None:
            continue
        if field == "price":
            found *= decimal(properties.get("quantity")) or 1
        if found < AMOUNT_MAX:
            return number(found)
    return None


def value_of_products(items: Iterable[Json]) -> int | float | None:
    """The sum of price × quantity over those that have a price; None if none has."""
    total: Decimal | None = None
    for item in items:
        price = decimal(item.get("price"))
        if price is not None:
            total = (total or 0) + price * (decimal(item.get("quantity")) or 1)
    return None if total is None or total >= AMOUNT_MAX else number(total)


def currency(mail: Mail, default: str | None = CURRENCY) -> str | None:
    """
    The currency of the event's amounts, or *default* if it names none.

    The event's products are asked if the event does not say. None if what it names is no currency
    of ISO 4217: an amount in it is worth nothing that we know.
    """
    said = mail.event.properties.get("currency")
    if said is None or said == "":
        said = next((c for item in products(mail) if (c := item.get("currency"))), None)
    if said is None:
        return default
    if not isinstance(said, str) or len(said) > TEXT_CHARS_MAX:
        return None
    code = said.strip().upper()
    return code if code in currencies() else None


@lru_cache(1)
def currencies() -> frozenset[str]:
    """The codes of ISO 4217."""
    import pycountry  # noqa: PLC0415  for destinations that ask

    return frozenset(currency.alpha_3 for currency in pycountry.currencies)
