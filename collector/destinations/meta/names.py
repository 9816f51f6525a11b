"""
Names: what Meta calls an event.

    "Product Viewed", "product_viewed", "Viewed Product"   ─▶   ViewContent

Matching   as Segment's libraries do: object and action in either order, words apart by space,
           underscore, hyphen, dot or nothing, in any case; and all of the name, so that
           "Viewed Product Category" is no "Viewed Product". Meta's own names are known as well.
Source     Segment, "V2 Ecommerce Events"; Meta, "Conversions API: Standard Events"
"""

from collections.abc import Iterable, Mapping
from typing import Final

from collector.destinations.fields import folded

NAME_CHARS_MAX = 200  # of a custom event

STANDARD: Final = frozenset(
    {
        "AddPaymentInfo",
        "AddToCart",
        "AddToWishlist",
        "CompleteRegistration",
        "Contact",
        "CustomizeProduct",
        "Donate",
        "FindLocation",
        "InitiateCheckout",
        "Lead",
        "PageView",
        "Purchase",
        "Schedule",
        "Search",
        "StartTrial",
        "SubmitApplication",
        "Subscribe",
        "ViewContent",
    }
)
PAGE_VIEW: Final = "PageView"
PURCHASE: Final = "Purchase"
OTHER: Final = "Other"

# Segment's (object, action), and Meta's name.
_PAIRS: Final = {
    ("products", "searched"): "Search",
    ("product list", "viewed"): "ViewContent",
    ("product category", "viewed"): "ViewContent",
    ("product", "viewed"): "ViewContent",
    ("product", "added"): "AddToCart",
    ("product", "added to wishlist"): "AddToWishlist",
    ("wishlist product", "added to cart"): "AddToCart",
    ("checkout", "started"): "InitiateCheckout",
    ("order", "started"): "InitiateCheckout",
    ("payment info", "entered"): "AddPaymentInfo",
    ("order", "completed"): "Purchase",
    ("", "signed up"): "CompleteRegistration",
}
_ALIASES: Final = {
    "product added to cart from wishlist": "AddToCart",
    "product added from wishlist to cart": "AddToCart",
}


def _known(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {folded(written): meant for written, meant in pairs}


_NAMES: Final = {
    **{name.lower(): name for name in STANDARD},
    **_known((f"{a} {b}", name) for (a, b), name in _PAIRS.items()),
    **_known((f"{b} {a}", name) for (a, b), name in _PAIRS.items()),
    **_known(_ALIASES.items()),
}
REFUNDS: Final = frozenset(map(folded, ("Order Refunded", "Refunded Order")))
LISTS: Final = frozenset(
    map(
        folded,
        (
            "Product List Viewed",
            "Viewed Product List",
            "Product Category Viewed",
            "Viewed Product Category",
        ),
    )
)


class Names:
    """The names of one destination: its own first, then those everyone knows."""

    def __init__(self, own: Mapping[str, str], *, unknown: str | None, custom: bool) -> None:
        """*unknown* is the name of what has none; *custom* lets such events keep their own."""
        self._exact = dict(own)
        self._folded = {folded(event): name for event, name in own.items()}
        self._unknown = unknown
        self._custom = custom

    def of(self, event: str) -> str | None:
        """Meta's name of the track event *event*, or None if it has none."""
        plain = folded(event)
        own = self._exact.get(event, self._folded.get(plain))
        if own is not None:
            return own or None
        if known := _NAMES.get(plain):
            return known
        if self._unknown is not None:
            return self._unknown
        return event.strip()[:NAME_CHARS_MAX] or None if self._custom else None
