"""Every name of an event leads to one standard name, and nothing else does."""

from collections import Counter

import pytest

from collector.refine.names import SPECS, STANDARD, names_of, snake

KNOWN = [
    ("Order Completed", "Order Completed"),
    ("Completed Order", "Order Completed"),
    ("order_completed", "Order Completed"),
    ("completedOrder", "Order Completed"),
    ("OrderCompleted", "Order Completed"),
    ("Order completed", "Order Completed"),
    ("Viewed Product", "Product Viewed"),
    ("Viewed Product Category", "Product List Viewed"),
    ("Started Order", "Checkout Started"),
    ("Product Added From Wishlist To Cart", "Wishlist Product Added to Cart"),
    ("Product Added to Cart from Wishlist", "Wishlist Product Added to Cart"),
    ("product_added_to_wishlist", "Product Added to Wishlist"),
    ("unsubscribed", "Unsubscribed"),
]


@pytest.mark.parametrize(("name", "standard"), KNOWN)
def test_a_name_is_known(name: str, standard: str) -> None:
    assert STANDARD[name] == standard


@pytest.mark.parametrize("name", ["", "Order", "Order Completed ", "Order  Completed", "Purchase"])
def test_what_no_spec_names_is_not_guessed(name: str) -> None:
    assert name not in STANDARD


def test_no_name_means_two_events() -> None:
    counts = Counter(name for standard in SPECS for name in names_of(standard))
    assert [name for name, count in counts.items() if count > 1] == []
    slugs = {standard: {snake(name) for name in names_of(standard)} for standard in SPECS}
    counts = Counter(slug for found in slugs.values() for slug in found)
    assert [slug for slug, count in counts.items() if count > 1] == []


def test_names_become_names_of_tables() -> None:
    assert snake("Order Completed") == snake("orderCompleted") == "order_completed"
    assert snake("HTMLLoaded") == "html_loaded"
    assert snake("a.b-c  d") == "a_b_c_d"
