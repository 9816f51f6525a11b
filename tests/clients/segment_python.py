"""
A program that uses segment-analytics-python as people do, and writes down what the SDK told it.

    segment_python.py HOST OUTPUT COUNT KEY='VALUE'…      options of the client, as JSON

Runs in a process of its own: the SDK keeps connections and threads for as long as the process.
"""

import json
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from segment.analytics.client import Client
from segment.analytics.request import DatetimeSerializer

ZONES = [UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))]
TEXTS = [
    "plain",
    "Blåbærsyltetøy",
    "日本語",
    "😀 👩‍👩‍👧",
    "half \ud83d",
    "nul \u0000!",
    '"\\/\n\t{}[]',
]


def event(client: Client, n: int) -> tuple[bool, dict[str, Any]]:
    """Make the call number *n*; every kind of call, with everything that JSON and Python allow."""
    user: Any = n if n % 5 == 0 else f"user-{n % 17}"
    common: dict[str, Any] = {
        "timestamp": None
        if n % 4 == 0
        else datetime(2020, 2, 29, 23, 59, 59, 123_456, ZONES[n % 3]) + timedelta(seconds=n),
        "integrations": {"All": False, "Mixpanel": {"n": n}} if n % 6 == 0 else None,
        "context": {"ip": "203.0.113.7", "n": n, "text": TEXTS[n % 7]} if n % 3 == 0 else None,
    }
    if n % 8 == 1:
        common["message_id"] = n if n % 16 == 1 else f"mine-{n}"
    properties: dict[str, Any] = {
        "n": n,
        "text": TEXTS[n % 7],
        "big": 2**53 + 1 + n,
        "huge": 10**30 + n,
        "small": 1.5e-7,
        "price": Decimal("19.99"),
        "nan": float("nan"),
        "list": [float("inf"), None, True, [], {}, ""],
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "nested": {"å": {"b": [{"c": n}]}},
    }
    if n % 50 == 7:
        properties["pad"] = "x" * 30_000
    match n % 12:
        case 0:
            return client.identify(user, {"email": f"u{n}@example.com", "n": n}, **common)
        case 1:
            return client.page(user, None if n % 24 == 1 else "Docs", "Page", properties, **common)
        case 2:
            return client.screen(user, "Settings", None, properties, **common)
        case 3:
            return client.group(user, n if n % 24 == 3 else f"group-{n}", {"n": n}, **common)
        case 4:
            return client.alias(n if n % 24 == 4 else f"anon-{n}", user, **common)
        case 5:
            return client.track(None, "Anonymous", properties, anonymous_id=f"anon-{n}", **common)
        case _:
            return client.track(user, f"Event {TEXTS[n % 7]}", properties, **common)


def main() -> None:
    host, output, count, *options = sys.argv[1:]
    settings = {name: json.loads(value) for name, _, value in (o.partition("=") for o in options)}
    errors: list[str] = []

    def failed(error: Exception, batch: list[dict[str, Any]]) -> None:
        errors.extend(message["messageId"] for message in batch)

    client = Client("demo", host=host, on_error=failed, max_queue_size=100_000, **settings)
    sent: list[dict[str, Any]] = []
    for n in range(1, int(count) + 1):
        try:
            taken, message = event(client, n)
        except Exception as exc:  # noqa: BLE001  sync_mode raises what went wrong
            errors.append(repr(exc))
            continue
        assert taken
        sent.append(message)
    if not settings.get("sync_mode"):
        client.shutdown()
    with open(output, "w") as file:
        json.dump({"sent": sent, "errors": errors}, file, cls=DatetimeSerializer)


if __name__ == "__main__":
    main()
