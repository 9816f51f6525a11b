"""
Samples: one event of each type, about nobody, to try a destination with.

Shapes   as they would be stored; the id is new each time, the time is now.
"""

import json
import secrets
import time
from typing import Any

from collector.store.stored import StoredEvent

CONTEXT = {
    "ip": "203.0.113.7",
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "locale": "en-US",
    "page": {"url": "https://shop.example/checkout", "path": "/checkout", "title": "Checkout"},
}
TRAITS = {
    "email": "test@example.com",
    "firstName": "Test",
    "lastName": "Person",
    "phone": "+12025550123",
    "address": {"city": "Springfield", "postalCode": "12345", "country": "US"},
}
ORDER = {
    "order_id": "test-order",
    "currency": "USD",
    "revenue": 19.9,
    "total": 24.9,
    "tax": 2.0,
    "shipping": 3.0,
    "products": [
        {"product_id": "test-1", "sku": "T-1", "name": "Test", "price": 9.95, "quantity": 2}
    ],
}
PERSON = {"email": "test@example.com"}


MEMBERS: dict[str, dict[str, Any]] = {
    "track": {"event": "Order Completed", "properties": ORDER},
    "identify": {"traits": TRAITS},
    "page": {"name": "Checkout", "properties": CONTEXT["page"]},
    "screen": {"name": "Checkout", "properties": {"title": "Checkout"}},
    "group": {"group_id": "test-group", "traits": {"name": "Test Company"}},
    "alias": {"previous_id": "test-before"},
}


def sample(type_: str) -> StoredEvent:
    """An event of that type."""
    now = time.time_ns() // 1_000
    members: dict[str, Any] = {
        name: json.dumps(value).encode() if isinstance(value, dict) else value
        for name, value in MEMBERS[type_].items()
    }
    return StoredEvent(
        seq=0,
        received_at=now,
        timestamp=now,
        original_timestamp=now,
        sent_at=now,
        message_id=f"test-{secrets.token_hex(8)}",
        type=type_,
        user_id="test-user",
        anonymous_id="test-anonymous",
        context=json.dumps(CONTEXT | {"traits": PERSON}).encode(),
        **members,
    )
