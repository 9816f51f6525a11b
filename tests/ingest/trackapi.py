"""What the tests of Customer.io's Track API share: a site, how it is asked, what an event says."""

import base64
import json
from typing import Any

from collector.event import Event, Rejection
from collector.ingest import SourceSettings
from tests.edge import Edge, read
from tests.rawhttp import Answer, encode

SITE = SourceSettings(name="crm", write_key="site_id_1:api_key_1")
ID = "01E29XK5W0000000000000TRK1"
AT = 1_582_977_599
ODD = "odd%2Fid%20%2B%C3%A4%25%3F%23%40example.com"
NOBODY = "00000000-0000"  # stands for an id that was made here


def credentials(text: str = SITE.write_key) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


async def ask(
    edge: Edge, method: str, path: str, body: object = None, key: str = SITE.write_key
) -> Answer:
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = credentials(key) | {"Content-Type": "application/json"}
    return await edge.send(encode(method, path, headers, data))


async def take(edge: Edge, method: str, path: str, body: object = None) -> list[Event]:
    answer = await ask(edge, method, path, body)
    assert (answer.status, answer.json()) == (200, {})
    return await edge.events()


def told(event: Event | Rejection) -> dict[str, Any]:
    """What *event* says, without what every event has and what was made here."""
    assert isinstance(event, Event), event
    found: dict[str, Any] = {"type": event.type}
    for name in ("event", "name", "user_id", "anonymous_id", "group_id", "previous_id"):
        if value := getattr(event, name):
            found[name] = value
    for name in ("properties", "traits", "context"):
        if value := read(getattr(event, name)):
            found[name] = value
    found.get("context", {}).pop("library", None)
    if not found.get("context"):
        found.pop("context", None)
    if event.timestamp != event.received_at:
        assert event.timestamp == event.original_timestamp
        found["at"] = event.timestamp / 1_000_000
    if not event.message_id.startswith("srv-"):
        found["id"] = event.message_id
    if event.user_id is None and event.message_id.startswith("srv-"):
        seed = event.message_id[4:20]
        if event.anonymous_id and event.anonymous_id.replace("-", "").startswith(seed[:8]):
            found["anonymous_id"] = NOBODY
    return found


def track(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "track", "event": name, "user_id": "user-1"} | more
