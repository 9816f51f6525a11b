"""Customer.io's Track API, version 2: what each operation becomes."""

from typing import Any

import pytest

from tests.edge import Edge, MakeEdge
from tests.ingest.trackapi import AT, ID, NOBODY, SITE, take, told, track


@pytest.fixture
async def crm(make_edge: MakeEdge) -> Edge:
    return await make_edge([SITE])


PERSON = {"type": "person", "identifiers": {"id": "u"}}
THING = {"type": "object", "identifiers": {"object_type_id": "1", "object_id": "acme"}}
TIES = {"cio_relationships": [{"identifiers": {"object_type_id": "1", "object_id": "acme"}}]}
PEOPLE = {"cio_relationships": [{"identifiers": {"id": "u"}}, {"identifiers": {"email": "e@x"}}]}
MEMBER = {"type": "group", "group_id": "acme", "traits": {"object_type_id": "1"}}
GONE = {"object_id": "acme", "object_type_id": "1"}
OPERATIONS: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        PERSON | {"action": "identify", "attributes": {"a": 1}} | TIES,
        [{"type": "identify", "user_id": "u", "traits": {"a": 1}}, MEMBER | {"user_id": "u"}],
    ),
    (
        {"type": "person", "action": "identify", "identifiers": {"email": "e@x"}},
        [{"type": "identify", "user_id": "e@x", "traits": {"email": "e@x"}}],
    ),
    (
        {"type": "person", "action": "delete", "identifiers": {"cio_id": "0300"}},
        [track("User Deleted", user_id="cio_0300")],
    ),
    (
        PERSON | {"action": "event", "name": "E", "id": ID, "timestamp": AT}
        | {"attributes": {"n": 1}},
        [track("E", user_id="u", id=ID, at=AT, properties={"n": 1})],
    ),
    (
        {"type": "person", "action": "event", "identifiers": {"anonymous_id": "a"}, "name": "E"},
        [{"type": "track", "event": "E", "anonymous_id": "a"}],
    ),
    (PERSON | {"action": "screen", "name": "S"}, [{"type": "screen", "name": "S", "user_id": "u"}]),
    (
        PERSON | {"action": "page", "name": "/p"},
        [
            {
                "type": "page", "name": "/p", "user_id": "u", "properties": {"url": "/p"},
                "context": {"page": {"url": "/p"}},
            }
        ],
    ),
    (PERSON | {"action": "add_relationships"} | TIES, [MEMBER | {"user_id": "u"}]),
    (
        PERSON | {"action": "delete_relationships"} | TIES,
        [track("Relationship Deleted", user_id="u", group_id="acme", properties=GONE)],
    ),
    (
        PERSON | {"action": "add_device", "device": {"id": "t", "platform": "ios", "x": 1}},
        [
            track(
                "Device Created or Updated",
                user_id="u",
                properties={"x": 1},
                context={"device": {"token": "t", "type": "ios"}},
            )
        ],
    ),
    (
        PERSON | {"action": "delete_device", "device": {"id": "t"}},
        [track("Device Deleted", user_id="u", context={"device": {"token": "t"}})],
    ),
    (
        {"type": "person", "action": "merge", "primary": {"id": "u"}, "secondary": {"cio_id": "3"}},
        [{"type": "alias", "user_id": "u", "previous_id": "cio_3"}],
    ),
    (PERSON | {"action": "suppress"}, [track("User Suppressed", user_id="u")]),
    (PERSON | {"action": "unsuppress"}, [track("User Unsuppressed", user_id="u")]),
    (
        THING | {"action": "identify", "attributes": {"name": "Acme"}} | PEOPLE,
        [
            MEMBER | {"user_id": "u", "traits": {"object_type_id": "1", "name": "Acme"}},
            MEMBER | {"user_id": "e@x", "context": {"traits": {"email": "e@x"}}},
        ],
    ),
    (
        THING | {"action": "identify_anonymous"}
        | {"cio_relationships": [{"identifiers": {"anonymous_id": "a"}}]},
        [MEMBER | {"anonymous_id": "a"}],
    ),
    (THING | {"action": "identify"}, [MEMBER | {"anonymous_id": NOBODY}]),
    (
        THING | {"action": "delete"},
        [
            {
                "type": "track", "event": "Object Deleted", "group_id": "acme",
                "anonymous_id": NOBODY, "properties": GONE,
            }
        ],
    ),
    (
        THING
        | {"action": "add_relationships", "cio_relationships": PEOPLE["cio_relationships"][:1]},
        [MEMBER | {"user_id": "u"}],
    ),
    (
        THING | {"action": "delete_relationships"}
        | {"cio_relationships": PEOPLE["cio_relationships"][:1]},
        [track("Relationship Deleted", user_id="u", group_id="acme", properties=GONE)],
    ),
    (
        {
            "type": "delivery", "action": "event", "identifiers": {"id": "d"}, "name": "opened",
            "attributes": {"device_id": "t", "href": "h"}, "timestamp": AT,
        },
        [
            {
                "type": "track", "event": "Report Delivery Event", "anonymous_id": NOBODY,
                "properties": {"href": "h", "deliveryId": "d", "metric": "opened"},
                "context": {"device": {"token": "t"}}, "at": AT,
            }
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "wanted"), OPERATIONS)
async def test_an_operation_is_an_event_alone_and_in_a_batch(
    crm: Edge, operation: dict[str, Any], wanted: list[dict[str, Any]]
) -> None:
    assert [told(one) for one in await take(crm, "POST", "/api/v2/entity", operation)] == wanted
    (*_, last) = await take(
        crm, "POST", "/api/v2/batch", {"batch": [PERSON | {"action": "delete"}]}
    )
    found = await take(crm, "POST", "/api/v2/batch", {"batch": [operation]})
    assert [told(one) for one in found] == wanted
    assert told(last) == track("User Deleted", user_id="u")
