"""Consent: a browser that objects to sale and sharing says so on every event it sends."""

import base64
import json
from typing import Any

import msgspec
import pytest

from collector.event import Envelope, Event, decode_envelope, encode_envelope
from collector.ingest.cors import ALLOWED_HEADERS
from collector.refine import refine
from tests.edge import BROWSER, FULL, Edge, read
from tests.fuzz.targets import LIMITS

GPC = {"Sec-GPC": "1"}


async def taken(edge: Edge, context: object, **headers: str) -> Any:
    body = FULL if context is None else FULL | {"context": context}
    return read((await edge.take(body, **headers)).context)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ({"gpc": False}, {"gpc": True}),
        ({"gpc": "no", "tcf": "CP"}, {"gpc": True, "tcf": "CP"}),
        ({"categoryPreferences": {"ads": True}},
         {"categoryPreferences": {"ads": True}, "gpc": True}),
        # What says nothing, or cannot be read, must not become a consent that was never asked for.
        ({}, {"categoryPreferences": {}, "gpc": True}),
        (None, {"categoryPreferences": {}, "gpc": True}),
        ("yes", {"categoryPreferences": {}, "gpc": True}),
        ([{"gpc": False}], {"categoryPreferences": {}, "gpc": True}),
    ],
)  # fmt: skip
async def test_the_header_becomes_a_member_and_the_others_stay(
    edge: Edge, sent: object, stored: object
) -> None:
    context = await taken(edge, {"consent": sent, "locale": "de"}, Sec_GPC="1", User_Agent=BROWSER)
    assert context == {
        "consent": stored, "locale": "de", "ip": "127.0.0.1", "userAgent": BROWSER
    }  # fmt: skip


@pytest.mark.parametrize("context", [None, {}, {"ip": "0.0.0.0"}])
async def test_an_event_without_consent_gets_one(edge: Edge, context: object) -> None:
    assert (await taken(edge, context, Sec_GPC="1"))["consent"] == {"gpc": True}


@pytest.mark.parametrize("value", ["0", "", "true", "11", "1, 1"])
async def test_only_a_one_is_an_objection(edge: Edge, value: str) -> None:
    assert "consent" not in await taken(edge, {"ip": "0.0.0.0"}, Sec_GPC=value)


@pytest.mark.parametrize("said", [None, {"gpc": True}, {"gpc": False}])
async def test_a_server_source_speaks_for_its_persons_itself(edge: Edge, said: object) -> None:
    context = {"locale": "de"} | ({} if said is None else {"consent": said})
    body = FULL | {"context": context}
    assert (await edge.post("/v1/track", body, GPC, key="secret-1")).status == 200
    assert read((await edge.event()).context) == context


async def test_it_holds_for_each_event_of_a_batch(edge: Edge) -> None:
    own = {"consent": {"categoryPreferences": {"ads": False}}}
    batch = {
        "context": {"consent": {"categoryPreferences": {"ads": True}}},
        "batch": [{"type": "page"}, {"type": "track", "event": "E", "context": own}],
    }
    assert (await edge.post("/v1/batch", batch, GPC)).status == 200
    found = [read(event.context)["consent"] for event in await edge.events()]
    assert found == [
        {"categoryPreferences": {"ads": True}, "gpc": True},
        {"categoryPreferences": {"ads": False}, "gpc": True},
    ]


async def test_images_carry_it_too(edge: Edge) -> None:
    data = base64.urlsafe_b64encode(json.dumps(FULL | {"writeKey": "demo"}).encode()).decode()
    for path in (f"/v1/pixel/track?data={data}", "/px.gif?wk=demo&e=E"):
        assert (await edge.get(path, GPC)).header("X-Collector") == "stored"
        assert read((await edge.event()).context)["consent"] == {"gpc": True}


def test_no_page_may_send_it_by_script() -> None:
    assert "gpc" not in ALLOWED_HEADERS


def test_frames_of_before_are_still_read() -> None:
    envelope = Envelope("shop", "track", 1, bytes(16), b'{"event":"E"}', True, gpc=True)
    members = msgspec.msgpack.decode(encode_envelope(envelope))
    del members[Envelope.__struct_fields__.index("gpc") + 1 :]  # what came after it
    assert members.pop() is True
    old = decode_envelope(msgspec.msgpack.encode(members))
    assert old.gpc is False
    (event,) = refine(old, LIMITS)
    assert isinstance(event, Event)
    assert event.context is None
