"""Events as analytics.js sends them, of about 1.2 KB, with message ids that can be told apart."""

import json

MARK = b"MMMMMMMMMMMM"  # replaced by a text of the same length in each request

_CONTEXT = {
    "page": {
        "path": "/products/monopoly-3rd-edition",
        "referrer": "https://www.search.example/",
        "search": "?utm_source=news&utm_campaign=spring%20sale",
        "title": "Monopoly: 3rd Edition | Shop",
        "url": "https://shop.example/products/monopoly-3rd-edition?utm_source=news",
    },
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36",
    "locale": "en-US",
    "library": {"name": "analytics.js", "version": "next-1.84.3"},
    "campaign": {"source": "news", "name": "spring sale"},
    "timezone": "Europe/Berlin",
}
_PROPERTIES = {
    "order_id": "50314b8e9bcf000000000000",
    "affiliation": "Shop",
    "value": 30,
    "revenue": 25.00,
    "shipping": 3,
    "tax": 2,
    "discount": 2.5,
    "coupon": "hasbros",
    "currency": "USD",
    "products": [
        {
            "product_id": "507f1f77bcf86cd799439011",
            "sku": "45790-32",
            "name": "Monopoly: 3rd Edition",
            "price": 19,
            "quantity": 1,
            "category": "Games",
            "url": "https://shop.example/products/monopoly-3rd-edition",
        }
    ],
}


def event(index: int, user: int = 0) -> dict[str, object]:
    """A track event of about 1.2 KB; its message id holds MARK and *index*."""
    return {
        "timestamp": "2026-11-22T00:02:36.007Z",
        "integrations": {"Segment.io": True},
        "event": "Order Completed",
        "type": "track",
        "properties": _PROPERTIES,
        "context": _CONTEXT,
        "messageId": f"ajs-next-1763769756007-{MARK.decode()}-{index:03d}",
        "anonymousId": f"a7c0a6b2-0b0c-4b1c-9d0a-{user:012d}",
        "userId": f"user-{user:06d}",
        "_metadata": {"bundled": ["Segment.io"], "unbundled": [], "bundledIds": []},
    }


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def single() -> bytes:
    """The body of POST /v1/t with one event."""
    return _encode({**event(0), "writeKey": "demo", "sentAt": "2026-11-22T00:02:36.048Z"})


def batch(events: int) -> bytes:
    """The body of POST /v1/batch with so many."""
    wanted = [event(index, index) for index in range(events)]
    return _encode({"batch": wanted, "writeKey": "demo", "sentAt": "2026-11-22T00:02:36.048Z"})


PIXEL = (
    "/v1/pixel/track?data=eyJ3cml0ZUtleSI6ImRlbW8iLCJ1c2VySWQiOiJ1c2VyLTEiLCJldmVudCI6IkVtYWls"
    "IE9wZW5lZCIsInByb3BlcnRpZXMiOnsic3ViamVjdCI6IlRoZSBEYWlseSIsImNhbXBhaWduX2lkIjoxMjN9fQ"
)
