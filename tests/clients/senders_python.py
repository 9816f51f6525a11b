"""
A program that uses other vendors' SDKs as people do, and writes down what each call said and what
became of it, as far as the SDK tells.

    senders_python.py CLIENT URL KEY OUTPUT COUNT PAUSE_MS
                      CLIENT: rudder, customerio, snowplow-get, snowplow-post
"""

import json
import sys
import time
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

TEXTS = [
    "plain",
    "Blåbærsyltetøy",
    "日本語",
    "😀 👩‍👩‍👧",
    "nul \u0000!",
    '"\\/\n\t{}[]',
]
WHEN = datetime(2020, 2, 29, 21, 59, 59, tzinfo=UTC)
Call = dict[str, Any]


def make(n: int) -> Call:
    """One call of every kind in ten; half of them of a time long ago."""
    properties = {
        "n": n,
        "text": TEXTS[n % 6],
        "big": 2**53 + 1 + n,
        "small": 1.5e-7,
        "nan": float("nan"),
        "list": [None, True, [], {}, ""],
        "nested": {"å": {"b": [{"c": n}]}},
    }
    call: Call = {
        "n": n,
        "type": "track",
        "name": f"Event {TEXTS[n % 4]}",
        "user": f"user-{n % 17}",
    }
    match n % 10:
        case 0:
            call |= {"type": "identify", "name": None}
        case 1:
            call |= {"type": "page", "name": "Docs"}
        case 2:
            call |= {"type": "group", "name": None, "group": f"group-{n}"}
        case 3:
            call |= {"user": None, "anonymous": f"anon-{n % 17}"}
    return call | {"properties": properties} | ({"when": WHEN.isoformat()} if n % 2 else {})


class Sender(Protocol):
    """One SDK; *calls* are changed where it cannot say what they say."""

    sent: list[int]
    failed: list[int]

    def send(self, call: Call) -> None: ...
    def end(self) -> None: ...


class Rudder:
    """rudder-sdk-python."""

    def __init__(self, url: str, key: str) -> None:
        from rudderstack.analytics.client import Client

        self.sent: list[int] = []
        self.failed: list[int] = []

        def failed(error: Exception, batch: list[Call]) -> None:
            self.failed += [one["_n"] for one in map(self._name, batch)]

        self._client = Client(key, host=url, on_error=failed, upload_interval=0.1, upload_size=15)

    @staticmethod
    def _name(message: Call) -> Call:
        body = message.get("properties") or message.get("traits") or message["context"]["traits"]
        return message | {"_n": body["n"]}

    def send(self, call: Call) -> None:
        client, user, properties = self._client, call["user"], call["properties"]
        when = {"timestamp": WHEN} if "when" in call else {}
        match call["type"]:
            case "identify":
                client.identify(user, properties, **when)
            case "page":
                client.page(user, None, call["name"], properties, **when)
            case "group":
                client.group(user, call["group"], properties, **when)
            case _ if user is None:
                anonymous = call["anonymous"]
                client.track(None, call["name"], properties, anonymous_id=anonymous, **when)
            case _:
                client.track(user, call["name"], properties, **when)
        self.sent.append(call["n"])

    def end(self) -> None:
        self._client.flush()
        self._client.join()
        self.sent = [n for n in self.sent if n not in self.failed]


class CustomerIo:
    """customerio, which waits for each answer."""

    def __init__(self, url: str, key: str) -> None:
        from customerio import CustomerIO

        self.sent: list[int] = []
        self.failed: list[int] = []
        parts = urlsplit(url)
        self._client = CustomerIO(key, "api-key", host=parts.hostname, port=parts.port)

    def send(self, call: Call) -> None:
        from customerio import CustomerIOException

        client, user, properties = self._client, call["user"], call["properties"]
        ulid = f"01E29XK5W1{call['n']:016}"
        when = WHEN if "when" in call else None
        try:
            if call["type"] == "identify":
                call.pop("when", None)  # it has no place for a time
                client.identify(user, **properties)
            elif call["type"] == "group":
                thing = {"object_type_id": "1", "object_id": call["group"]}
                operation = {
                    "type": "object",
                    "action": "identify",
                    "identifiers": thing,
                    "attributes": properties,
                    "cio_relationships": [{"identifiers": {"id": user}}],
                }
                client.batch([operation | ({"timestamp": int(when.timestamp())} if when else {})])
                call["properties"] = {"object_type_id": "1"} | properties
            elif call["type"] == "page":
                call.pop("when", None)
                client.pageview(user, call["name"], **properties)
                call["properties"] = {"url": call["name"]} | properties
            elif user is None:
                name = call["name"]
                client.track_anonymous(call["anonymous"], name, properties, ulid, when)
            else:
                client.track(user, call["name"], properties, ulid, when)
        except CustomerIOException:
            self.failed.append(call["n"])
        else:
            self.sent.append(call["n"])

    def end(self) -> None:
        pass


class Snowplow:
    """snowplow-tracker."""

    def __init__(self, url: str, key: str, method: str) -> None:
        from snowplow_tracker import Emitter, Tracker

        self.sent: list[int] = []
        self.failed: list[int] = []
        self._numbers: dict[str | None, int] = {}
        self._ids: list[str] = []  # of what arrived, as the SDK says
        self._failed: list[str] = []  # by GET it forgets what failed if a later one did not

        def sent(payloads: list[Call]) -> None:
            self._ids += [payload["eid"] for payload in payloads]

        def failed(_: int, payloads: list[Call]) -> None:
            self._failed += [payload["eid"] for payload in payloads]

        parts = urlsplit(url)
        assert parts.hostname
        self._emitter = Emitter(
            parts.hostname,
            "http",
            parts.port,
            method,
            None,
            sent,
            failed,
            max_retry_delay_seconds=1,
        )
        self._tracker = Tracker("ns", self._emitter, app_id=key)

    def send(self, call: Call) -> None:
        from snowplow_tracker import (
            PageView,
            SelfDescribing,
            SelfDescribingJson,
            StructuredEvent,
            Subject,
        )

        number, properties = call["n"], call["properties"]
        properties["nan"] = None  # it knows no NaN
        subject = Subject().set_platform("srv")
        if call["user"] is None:
            subject.set_domain_user_id(call["anonymous"])
        else:
            subject.set_user_id(call["user"])
        more = {
            "event_subject": subject,
            "context": [SelfDescribingJson("iglu:com.example/ctx/jsonschema/1-0-0", properties)],
            "true_timestamp": int(WHEN.timestamp() * 1000) if "when" in call else None,
        }
        if call["type"] == "page":
            event: Any = PageView("https://example.com/docs", "Docs", **more)
            call["properties"] = {
                "url": "https://example.com/docs",
                "title": "Docs",
                "path": "/docs",
            }
        elif call["type"] == "track" and number % 3:
            event = StructuredEvent("shop", call["name"], "label", value=float(number), **more)
            call["properties"] = {"category": "shop", "label": "label", "value": float(number)}
        else:
            call |= {"type": "track", "name": "order", "group": None}
            schema = "iglu:com.example/order/jsonschema/1-0-0"
            event = SelfDescribing(SelfDescribingJson(schema, properties), **more)
        call["entity"] = properties
        self._numbers[self._tracker.track(event)] = number

    def end(self) -> None:
        emitter = self._emitter
        while True:
            with emitter.lock:  # nothing is on its way now
                if not emitter.event_store.size() and not emitter.retry_timer.is_active():
                    break
                emitter.flush()
            time.sleep(0.05)
        self.sent = [self._numbers[id_] for id_ in self._ids]
        self.failed = [self._numbers[id_] for id_ in set(self._failed) - set(self._ids)]


def main() -> None:
    client, url, key, output, count, pause_ms = sys.argv[1:]
    sender: Sender
    if client == "rudder":
        sender = Rudder(url, key)
    elif client == "customerio":
        sender = CustomerIo(url, key)
    else:
        sender = Snowplow(url, key, client.removeprefix("snowplow-"))
    calls = []
    for n in range(1, int(count) + 1):
        call = make(n)
        sender.send(call)
        calls.append(call)
        time.sleep(int(pause_ms) / 1000)
    sender.end()
    with open(output, "w") as file:
        json.dump({"calls": calls, "sent": sender.sent, "failed": sender.failed}, file)


if __name__ == "__main__":
    main()
