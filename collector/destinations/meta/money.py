"""
Money: amounts and currencies, read as they are written and never guessed.

    19.99  "19.99"  " 20 "   ─▶   19.99  19.99  20.0        "1,299.00"  "$5"  NaN   ─▶   None

Units    currency units, not cents.
Errors   none: what is no plain decimal number is None.
"""

import re
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

AMOUNT_MAX: Final = 1e15  # beyond, a float no longer counts in cents
CURRENCIES_KEPT = 500  # looked up and remembered

_PLAIN = re.compile(r"[+-]?(?:\d{1,16}(?:\.\d{0,16})?|\.\d{1,16})", re.ASCII)


def decimal_of(value: Any) -> Decimal | None:
    """The number that *value* is or plainly says."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        if not -AMOUNT_MAX < value < AMOUNT_MAX:  # NaN compares false
            return None
        return Decimal(repr(value))
    if isinstance(value, str) and len(value) <= 40 and _PLAIN.fullmatch(text := value.strip()):
        found = Decimal(text)
        return found if abs(found) < AMOUNT_MAX else None
    return None


def number(amount: Decimal | None) -> float | int | None:
    """*amount* as JSON has it: 59.97 rather than 59.970000000000006; whole amounts as integers."""
    if amount is None:
        return None
    found = float(amount)
    return int(found) if found.is_integer() else found


def amount_of(value: Any) -> float | int | None:
    """The amount that *value* is or plainly says."""
    return number(decimal_of(value))


def count_of(value: Any) -> int | None:
    """The whole number of things from one up that *value* says."""
    found = decimal_of(value)
    if found is None or found < 1 or found != found.to_integral_value():
        return None
    return int(found)


@lru_cache(CURRENCIES_KEPT)
def is_currency(code: str) -> bool:
    """Whether *code* is one of ISO 4217."""
    import pycountry  # noqa: PLC0415  slow to load, for those who need it

    return len(code) == 3 and pycountry.currencies.get(alpha_3=code.upper()) is not None


def currency_of(value: Any) -> str | None:
    """The currency that *value* names, in upper case, or None if there is no such."""
    code = value.strip().upper() if isinstance(value, str) and len(value) <= 10 else ""
    return code if code and is_currency(code) else None
