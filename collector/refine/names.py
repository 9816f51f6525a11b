"""
Names: the events that specs name, and what else they were and are called.

    "Completed Order", "order_completed", "orderCompleted"   ─▶   "Order Completed"

By exact match: every other name that is understood stands in `STANDARD`, so that an index on the
name finds them all, and nothing is taken for what it may not be. What is stored keeps the name
that was sent.

Shapes   a spec's name in its own case; the names of Segment's first e-commerce spec and those that
         say action and object the other way round; each also as `Order completed`,
         `order completed`, `order_completed`, `orderCompleted`, `OrderCompleted`.
Errors   none: an event that no spec knows has no standard name.
Source   Segment, "V2 Ecommerce Events", "V1 Ecommerce Events", "Email Spec", "Native Mobile Spec",
         "A/B Testing Events", "B2B SaaS Spec", "Live Chat Spec", "Video Spec"
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

# By spec: what it calls an event, and the event's other names.
ECOMMERCE: Final[Mapping[str, tuple[str, ...]]] = {
    "Products Searched": ("Searched Products",),
    "Product List Viewed": (
        "Viewed Product List",
        "Viewed Product Category",
        "Product Category Viewed",
    ),
    "Product List Filtered": ("Filtered Product List",),
    "Promotion Viewed": ("Viewed Promotion",),
    "Promotion Clicked": ("Clicked Promotion",),
    "Product Clicked": ("Clicked Product",),
    "Product Viewed": ("Viewed Product",),
    "Product Added": ("Added Product",),
    "Product Removed": ("Removed Product",),
    "Cart Viewed": ("Viewed Cart",),
    "Checkout Started": ("Started Checkout", "Started Order", "Order Started"),
    "Checkout Step Viewed": ("Viewed Checkout Step",),
    "Checkout Step Completed": ("Completed Checkout Step",),
    "Payment Info Entered": ("Entered Payment Info",),
    "Order Completed": ("Completed Order",),
    "Order Updated": ("Updated Order",),
    "Order Refunded": ("Refunded Order",),
    "Order Cancelled": ("Cancelled Order", "Order Canceled", "Canceled Order"),
    "Coupon Entered": ("Entered Coupon",),
    "Coupon Applied": ("Applied Coupon",),
    "Coupon Denied": ("Denied Coupon",),
    "Coupon Removed": ("Removed Coupon",),
    "Product Added to Wishlist": ("Added Product to Wishlist",),
    "Product Removed from Wishlist": ("Removed Product from Wishlist",),
    "Wishlist Product Added to Cart": (
        "Added to Cart Wishlist Product",
        "Product Added to Cart from Wishlist",
        "Product Added from Wishlist to Cart",
    ),
    "Product Shared": ("Shared Product",),
    "Cart Shared": ("Shared Cart",),
    "Product Reviewed": ("Reviewed Product",),
}
EMAIL: Final[Mapping[str, tuple[str, ...]]] = {
    "Email Delivered": (),
    "Email Bounced": (),
    "Email Opened": (),
    "Email Link Clicked": (),
    "Email Marked as Spam": (),
    "Unsubscribed": (),
}
MOBILE: Final[Mapping[str, tuple[str, ...]]] = {
    "Application Installed": (),
    "Application Opened": (),
    "Application Updated": (),
    "Application Backgrounded": (),
    "Application Foregrounded": (),
    "Application Uninstalled": (),
    "Application Crashed": (),
    "Install Attributed": (),
    "Push Notification Received": (),
    "Push Notification Tapped": (),
    "Push Notification Bounced": (),
    "Deep Link Opened": (),
    "Deep Link Clicked": (),
}
CAMPAIGN: Final[Mapping[str, tuple[str, ...]]] = {
    "Experiment Viewed": (),
    "Account Created": (),
    "Account Deleted": (),
    "Signed Up": (),
    "Signed In": (),
    "Signed Out": (),
    "Invite Sent": (),
    "Account Added User": (),
    "Account Removed User": (),
    "Trial Started": (),
    "Trial Ended": (),
    "Live Chat Conversation Started": (),
    "Live Chat Conversation Ended": (),
    "Live Chat Message Sent": (),
    "Live Chat Message Received": (),
}
VIDEO: Final[Mapping[str, tuple[str, ...]]] = {
    "Video Playback Started": (),
    "Video Playback Paused": (),
    "Video Playback Interrupted": (),
    "Video Playback Buffer Started": (),
    "Video Playback Buffer Completed": (),
    "Video Playback Seek Started": (),
    "Video Playback Seek Completed": (),
    "Video Playback Resumed": (),
    "Video Playback Completed": (),
    "Video Playback Exited": (),
    "Video Content Started": (),
    "Video Content Playing": (),
    "Video Content Completed": (),
    "Video Ad Started": (),
    "Video Ad Playing": (),
    "Video Ad Completed": (),
}
SPECS: Final[Mapping[str, tuple[str, ...]]] = {**ECOMMERCE, **EMAIL, **MOBILE, **CAMPAIGN, **VIDEO}


def spellings(name: str) -> Iterator[str]:
    """*name*, and how else its words are written."""
    words = name.split()
    titles = [word[:1].upper() + word[1:] for word in words]
    lower = [word.lower() for word in words]
    yield name
    yield " ".join(titles)
    yield " ".join([titles[0], *lower[1:]])
    yield " ".join(lower)
    yield "_".join(lower)
    yield "".join([lower[0], *titles[1:]])
    yield "".join(titles)


def names_of(standard: str) -> tuple[str, ...]:
    """Every name of the event that a spec calls *standard*, that one first."""
    every = (standard, *SPECS[standard])
    return tuple(dict.fromkeys(spelt for name in every for spelt in spellings(name)))


# From each name that is understood to the spec's.
STANDARD: Final[Mapping[str, str]] = MappingProxyType(
    {name: standard for standard in SPECS for name in names_of(standard)}
)


def snake(name: str) -> str:
    """*name* as tables and columns are called: `orderCompleted` is `order_completed`."""
    parted = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", name)
    return re.sub(r"[^A-Za-z0-9]+", "_", parted).strip("_").lower()
