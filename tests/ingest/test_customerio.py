"""Customer.io's Track API, version 1: recorded clients, and what each call becomes."""

from typing import Any

import pytest

from tests.edge import Edge, MakeEdge, read
from tests.ingest.trackapi import AT, ID, NOBODY, ODD, SITE, ask, credentials, take, told, track
from tests.rawhttp import encode
from tests.recordings import load


@pytest.fixture
async def crm(make_edge: MakeEdge) -> Edge:
    return await make_edge([SITE])


DEVICE = {"token": "device-1", "type": "ios"}
PAGE = "https://example.com/docs?q=1"
EVENTS = {
    "identify": {
        "type": "identify",
        "user_id": "user-1",
        "anonymous_id": "anon-1",
        "traits": {
            "email": "ada@example.com",
            "name": "Åda",
            "created_at": 1577836800,
            "plan": "pro",
            "nested": {"city": "Oslo"},
            "when": 1582934400,
        },
    },
    "odd": {
        "type": "identify",
        "user_id": "odd/id +ä%?#@example.com",
        "traits": {"email": "odd@example.com"},
    },
    "order": track("Order Completed", properties={"revenue": 19.99}, id=ID, at=AT),
    "odd event": track("Odd Id", user_id="odd/id +ä%?#@example.com", properties={"n": 1}),
    "backfilled": track("Backfilled", properties={"n": 2}, at=AT + 1),
    "page": {
        "type": "page",
        "name": PAGE,
        "user_id": "user-1",
        "properties": {"referrer": "https://example.com/", "url": PAGE},
        "context": {"page": {"url": PAGE}},
    },
    "short page": {
        "type": "page",
        "name": "/docs",
        "user_id": "user-1",
        "properties": {"url": "/docs"},
        "context": {"page": {"url": "/docs"}},
    },
    "anonymous": {
        "type": "track",
        "event": "Anonymous Only",
        "anonymous_id": "anon-1",
        "properties": {"n": 3},
    },
    "of nobody": {
        "type": "track",
        "event": "Invite Sent",
        "anonymous_id": NOBODY,
        "properties": {"recipient": "x@example.com"},
    },
    "push": {
        "type": "track",
        "event": "Report Delivery Event",
        "anonymous_id": NOBODY,
        "properties": {"deliveryId": "d1", "metric": "opened"},
        "context": {"device": {"token": "device-1"}},
        "at": AT,
    },
    "device": track(
        "Device Created or Updated", properties={"last_used": AT}, context={"device": DEVICE}
    ),
    "no device": track("Device Deleted", context={"device": {"token": "device-1"}}),
    "merge": {"type": "alias", "user_id": "user-1", "previous_id": "second@example.com"},
    "suppress": track("User Suppressed"),
    "unsuppress": track("User Unsuppressed"),
    "gold": {"type": "identify", "user_id": "user-1", "traits": {"tier": "gold"}},
    "batched": track("Batched", properties={"n": 4}, id=ID[:-1] + "3", at=AT),
    "acme": {
        "type": "group",
        "user_id": "user-1",
        "group_id": "acme",
        "traits": {"object_type_id": "1", "name": "Acme"},
    },
    "delete": track("User Deleted"),
}
PLAIN = ("email", "name", "created_at", "plan")
NODE = [
    {
        "type": "identify",
        "user_id": "user-1",
        "traits": {name: EVENTS["identify"]["traits"][name] for name in PLAIN},
    },
    *("odd", "order", "anonymous", "of nobody", "short page", "push"),
    EVENTS["device"] | {"properties": {"last_used": AT, "color": "red"}},
    *("no device", "merge", "suppress", "unsuppress", "delete"),
]
RECORDED: dict[str, list[Any]] = {
    "customerio-node/track-api": NODE,
    "customerio-python/track-api": [
        *("identify", "odd", "order", "odd event", "backfilled", "page"),
        EVENTS["anonymous"] | {"id": ID[:-1] + "2"},
        *("of nobody", "device", "no device", "merge", "suppress", "unsuppress"),
        *("gold", "batched", "acme", "delete"),
    ],
    "customerio-python/retry-503": [track("Retried")] * 2,
}


@pytest.mark.parametrize("name", RECORDED)
async def test_what_a_client_sent_is_an_event_as_it_said_it(crm: Edge, name: str) -> None:
    requests = load(name)
    client = "Node" if "node" in name else "Python"
    found = []
    for request in requests:
        answer = await crm.send(request.bytes)
        assert (answer.status, answer.json()) == (200, {})
        for event in await crm.events():
            assert read(event.context)["library"]["name"] == f"Customer.io {client} Client"
            assert event.source == "crm"
            found.append(told(event))
    wanted = [EVENTS[one] if isinstance(one, str) else one for one in RECORDED[name]]
    assert found == wanted


# --- version 1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "id_"),
    [
        (ODD, "odd/id +ä%?#@example.com"),
        ("%2F", "/"),
        ("a%252Fb", "a%2Fb"),
        ("a+b", "a+b"),
        ("cio_03000001", "cio_03000001"),
        ("%FF", "\ufffd"),
        ("devices", "devices"),
    ],
)
async def test_an_id_in_a_path_is_decoded_once(crm: Edge, sent: str, id_: str) -> None:
    for slash in ("", "/"):
        path = b"/api/v1/customers/" + sent.encode() + slash.encode()
        answer = await crm.send(encode("PUT", path, credentials(), b'{"a":1}'))
        assert answer.status == 200
        assert (await crm.event()).user_id == id_


async def test_control_members_of_attributes_are_no_traits(crm: Edge) -> None:
    attributes = {
        "email": "a@example.com",
        "anonymous_id": "anon",
        "_update": True,
        "_timestamp": AT,
        "cio_relationships": {
            "action": "add_relationships",
            "relationships": [
                {
                    "identifiers": {"object_type_id": "1", "object_id": "acme"},
                    "relationship_attributes": {"role": "admin"},
                }
            ],
        },
        "big": 12345678901234567890,
    }
    person, group = await take(crm, "PUT", "/api/v1/customers/u", attributes)
    assert told(person) == {
        "type": "identify",
        "user_id": "u",
        "anonymous_id": "anon",
        "traits": {"email": "a@example.com", "big": 12345678901234567890},
        "context": {"customerio": {"update": True}},
        "at": AT,
    }
    assert told(group) == {
        "type": "group",
        "user_id": "u",
        "group_id": "acme",
        "traits": {"object_type_id": "1"},
        "context": {"customerio": {"relationship": {"role": "admin"}}},
        "at": AT,
    }
    attributes["cio_relationships"]["action"] = "delete_relationships"  # type: ignore[index]
    _, gone = await take(crm, "PUT", "/api/v1/customers/u", attributes)
    assert told(gone)["event"] == "Relationship Deleted"
    assert told(gone)["properties"] == {"object_id": "acme", "object_type_id": "1"}


@pytest.mark.parametrize(
    ("id_", "kept"),
    [
        (ID, True),
        (ID.lower(), True),
        ("1", False),
        (7, False),
        (ID + "0", False),
        ("9" * 26, False),
    ],
)
async def test_only_a_ulid_is_a_message_id(crm: Edge, id_: object, kept: bool) -> None:
    (event,) = await take(crm, "POST", "/api/v1/customers/u/events", {"name": "E", "id": id_})
    assert (event.message_id == str(id_)) is kept
    if not kept:  # one that somebody counts up would swallow other people's events
        assert read(event.context)["customerio"] == {"id": str(id_)}


async def test_a_screen_is_a_screen_and_an_event_may_be_of_both(crm: Edge) -> None:
    body = {"name": "Home", "type": "screen", "anonymous_id": "a", "data": {"n": 1}}
    (event,) = await take(crm, "POST", "/api/v1/customers/u/events", body)
    assert told(event) == {
        "type": "screen",
        "name": "Home",
        "user_id": "u",
        "anonymous_id": "a",
        "properties": {"n": 1},
    }


async def test_segments_and_metrics(crm: Edge) -> None:
    path = "/api/v1/segments/7/"
    found = await take(crm, "POST", path + "add_customers", {"ids": ["a", 2]})
    assert [told(event) for event in found] == [
        track("Segment Entered", user_id=user, properties={"segment_id": "7"})
        for user in ("a", "2")
    ]
    body = {"ids": ["a@example.com"]}
    (event,) = await take(crm, "POST", path + "remove_customers?id_type=email", body)
    assert (event.event, event.user_id) == ("Segment Exited", "a@example.com")
    assert await take(crm, "POST", path + "add_customers", {"ids": []}) == []
    metric = {"delivery_id": "d", "metric": "bounced", "recipient": "x", "reason": "y"}
    (event,) = await take(crm, "POST", "/api/v1/metrics", metric | {"timestamp": AT})
    assert told(event)["properties"] == {
        "deliveryId": "d",
        "metric": "bounced",
        "recipient": "x",
        "reason": "y",
    }


async def test_the_region_is_here_for_who_has_the_key(crm: Edge) -> None:
    answer = await ask(crm, "GET", "/api/v1/accounts/region")
    assert answer.status == 200
    assert answer.json()["url"] == "collector.test"
    assert answer.json()["region"] == "us"
    assert (await ask(crm, "GET", "/api/v1/accounts/region", key="site_id_1:no")).status == 401
    assert await ask(crm, "POST", "/api/v1/accounts/region")
