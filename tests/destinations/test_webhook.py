"""Webhooks: the body to the byte, what it is signed with, and which settings make no sense."""

import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations import webhook as module
from collector.destinations.base import TAKEN, Mail, Parcel, Skipped
from collector.destinations.webhook import (
    WebhookSettings,
    header_value,
    sign,
    sign_as_segment,
)
from collector.store.stored import NOTHING, StoredEvent
from tests.destinations import vendors
from tests.destinations.contract import HOOK_SECRETS, Case, Rig, outbound, webhook
from tests.destinations.contract import rig as make_rig
from tests.destinations.events import odd_events, stored
from tests.destinations.vendors import Hook


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    case = Case("webhook", Hook, lambda url: webhook(url, **settings), HOOK_SECRETS)
    async with make_rig(case) as made:
        yield made


ORDER = stored(
    message_id="m-1",
    user_id="u1",
    anonymous_id="a1",
    received_at=1_790_000_000_123_456,
    timestamp=1_789_999_999_000_000,
    original_timestamp=1_789_999_990_000_000,
    sent_at=1_789_999_991_000_000,
    context=b'{"ip": "1.2.3.4", "consent": {"categoryPreferences": {"Ads": false}}}',
    properties='{"total": 20.10, "n": 9007199254740993, "name": "<b>&\u2028ü</b>"}'.encode(),
    integrations=b'{"All": true}',
    extra=b'{"channel": "web", "collector": {"flags": ["clock_unusable"]}, "writeKey": "wk"}',
)
ORDER_BODY = (
    '{"messageId":"m-1","type":"track","event":"Order Completed","userId":"u1","anonymousId":"a1",'
    '"timestamp":"2026-09-21T14:13:19.000Z","originalTimestamp":"2026-09-21T14:13:10.000Z",'
    '"sentAt":"2026-09-21T14:13:11.000Z","receivedAt":"2026-09-21T14:13:20.123Z",'
    '"context":{"ip": "1.2.3.4", "consent": {"categoryPreferences": {"Ads": false}}},'
    '"properties":{"total": 20.10, "n": 9007199254740993, "name": "<b>&\u2028ü</b>"},'
    '"integrations":{"All": true},"channel":"web","version":2}'
).encode()
HOME = stored(message_id="m-2", type="page", event=None, name="Home", user_id="u1", timestamp=0)
HOME_BODY = (
    b'{"messageId":"m-2","type":"page","name":"Home","userId":"u1",'
    b'"timestamp":"1970-01-01T00:00:00.000Z","receivedAt":"2026-09-21T14:13:20.123Z","version":2}'
)


async def test_the_body_is_the_event_as_segment_has_it_with_all_its_digits() -> None:
    async with rig() as made:
        assert await made.send([made.map(ORDER), made.map(HOME)]) == [TAKEN, TAKEN]
        bodies = [request.body for request in made.vendor.requests]
    assert bodies == [ORDER_BODY, HOME_BODY]


async def test_a_batch_is_an_array() -> None:
    async with rig(batch=True) as made:
        await made.send([made.map(ORDER), made.map(HOME)])
        (request,) = made.vendor.requests
    assert request.body == b"[" + ORDER_BODY + b"," + HOME_BODY + b"]"
    assert "Idempotency-Key" not in request.headers


async def test_a_request_says_what_it_is_and_who_sends_it() -> None:
    async with rig(method="PUT", headers={"X-Token": "t0ken", "Authorization": "Bearer x"}) as made:
        await made.send([made.map(ORDER)])
        (request,) = made.vendor.requests
    assert (request.method, request.path) == ("PUT", "/hook?a=1")
    assert {
        name: value
        for name, value in request.headers.items()
        if name not in {"Host", "User-Agent", "Accept", "Accept-Encoding"}
    } == {
        "Content-Type": "application/json",
        "Content-Length": str(len(ORDER_BODY)),
        "Idempotency-Key": "m-1",
        "X-Token": "t0ken",
        "Authorization": "Bearer x",
    }
    assert request.headers["User-Agent"].startswith("collector/")


async def test_a_content_type_of_ones_own_is_the_only_one() -> None:
    async with rig(headers={"content-type": "application/vnd.shop+json"}) as made:
        made.vendor.fault = vendors.status(200)
        await made.send([made.map(ORDER)])
        (request,) = made.vendor.requests
    assert request.headers.getall("Content-Type") == ["application/vnd.shop+json"]


def test_people_who_opted_out_of_sharing_are_not_sent_without_a_flag() -> None:
    settings = webhook("https://hook.test")
    mail = Mail(ORDER, NOTHING, restricted=True)
    assert settings.build(outbound(settings)).map(mail) == Skipped("opt_out")


# --- signatures -----------------------------------------------------------------------------------

VECTOR = (
    b'{"type":"track","userId":"u1","event":"Order Completed",'
    b'"properties":{"order_id":"o1","total":20}}'
)


def test_signatures_are_those_of_the_vectors() -> None:
    assert sign_as_segment(b"s3cret", VECTOR) == "45b121c86250c388834a8485abd838d3cd797351"
    plain = hmac.new(b"s3cret", VECTOR, hashlib.sha256).hexdigest()
    assert plain == "439a246402c2d87a44fe6b0843031aabcb589bb9972b606cd989fb70abcc8b86"
    expected = hmac.new(b"s3cret", b"1790000000." + VECTOR, hashlib.sha256).hexdigest()
    assert sign(b"s3cret", VECTOR, 1_790_000_000) == f"t=1790000000,v1={expected}"


@pytest.mark.parametrize("batch", [False, True])
async def test_segments_signature_is_of_the_body_or_of_the_first_element_alone(
    batch: bool,
) -> None:
    async with rig(batch=batch, signature="segment", secret="s3cret") as made:
        await made.send([made.map(ORDER), made.map(HOME)])
        signatures = [request.headers["X-Signature"] for request in made.vendor.requests]
    expected = [sign_as_segment(b"s3cret", body) for body in (ORDER_BODY, HOME_BODY)]
    assert signatures == (expected[:1] if batch else expected)


@pytest.mark.parametrize("batch", [False, True])
async def test_the_v2_signature_is_of_the_time_and_the_bytes_that_are_sent(
    batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "time", lambda: 1_790_000_000.9)
    async with rig(batch=batch, signature="v2", secret="s3cret") as made:
        await made.send([made.map(ORDER), made.map(HOME)])
        requests = made.vendor.requests
    for request in requests:
        parts = dict(part.split("=") for part in request.headers["X-Signature-256"].split(","))
        signed = f"{parts['t']}.".encode() + request.body
        assert parts["t"] == "1790000000"
        assert parts["v1"] == hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()


async def test_nothing_is_signed_unless_it_is_asked_for() -> None:
    async with rig() as made:
        await made.send([made.map(ORDER)])
        assert not [name for name in made.vendor.requests[0].headers if "Signature" in name]


# --- odd events -----------------------------------------------------------------------------------


@given(st.text())
def test_an_id_of_any_characters_is_a_header_of_its_own(text: str) -> None:
    value = header_value(text)
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()
    assert header_value(text + "%") != value
    assert (value == text) or "%" in value or not text


@given(odd_events)
def test_the_body_is_json_that_says_what_was_stored(event: StoredEvent) -> None:
    settings = webhook("https://hook.test")
    parcel = settings.build(outbound(settings)).map(Mail(event, NOTHING, restricted=False))
    assert isinstance(parcel, Parcel)
    sent = json.loads(parcel.payload)
    assert parcel.key == sent["messageId"] == event.message_id
    for name, text in (("context", event.context_text), ("properties", event.properties_text)):
        assert sent.get(name) == (None if text is None else json.loads(text))


# --- settings -------------------------------------------------------------------------------------


def settings_of(**fields: Any) -> WebhookSettings:
    return msgspec.convert(
        {"type": "webhook", "name": "hook", "url": "https://hook.test/"} | fields, WebhookSettings
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "hook.test"}, "http"),
        ({"url": "https://u:p@hook.test/"}, "header"),
        ({"signature": "v2"}, "secret"),
        ({"signature": "sha1"}, "signature"),
        ({"method": "GET"}, "method"),
        ({"headers": {"X Y": "1"}}, "X Y"),
        ({"headers": {"X-Y": "ü"}}, "ASCII"),
        ({"headers": {"X-Y": "1\r\nX-Z: 2"}}, "ASCII"),
        ({"headers": {"content-length": "1"}}, "content-length"),
        ({"headers": {"X-Signature": "1"}}, "X-Signature"),
        ({"headers": {f"X-{n}": "1" for n in range(51)}}, "50"),
        ({"batch_events_max": 4_001}, "4000"),
        ({"private_addresses": ["10.0.0.0/99"]}, "10.0.0.0/99"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        settings_of(**fields)


def test_events_go_alone_unless_batches_are_asked_for() -> None:
    assert settings_of().batch_events_max == 1
    assert settings_of(batch_events_max=7).batch_events_max == 1
    assert settings_of(batch=True).batch_events_max == 1_000
    assert settings_of(batch=True, batch_events_max=4_000).batch_events_max == 4_000
    assert settings_of().timeout_seconds == 5.0


def test_secrets_are_known_and_not_shown() -> None:
    settings = settings_of(secret="s3cret-a", headers={"X-A": "s3cret-b"})
    assert settings.secret_values() == ("s3cret-a", "s3cret-b")
    assert "s3cret" not in f"{settings} {settings!r}"
    assert "secret='***', " in repr(settings)


# --- the examples of the documentation ------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs" / "destinations" / "webhook.md").read_text()


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_python_example_verifies_what_is_sent() -> None:
    names: dict[str, Any] = {}
    exec(example("python"), names)
    now = int(time.time())
    header = sign(b"s3cret", ORDER_BODY, now)
    assert names["verify"](b"s3cret", header, ORDER_BODY)
    assert not names["verify"](b"s3cret", header, ORDER_BODY + b" ")
    assert not names["verify"](b"other", header, ORDER_BODY)
    assert not names["verify"](b"s3cret", sign(b"s3cret", ORDER_BODY, now - 400), ORDER_BODY)


@pytest.mark.skipif(shutil.which("node") is None, reason="runs an example in Node")
def test_the_node_example_verifies_what_is_sent() -> None:
    now = int(time.time())
    calls = [
        (b"s3cret", sign(b"s3cret", ORDER_BODY, now), ORDER_BODY, True),
        (b"s3cret", sign(b"s3cret", ORDER_BODY, now), ORDER_BODY + b" ", False),
        (b"other", sign(b"s3cret", ORDER_BODY, now), ORDER_BODY, False),
        (b"s3cret", sign(b"s3cret", ORDER_BODY, now - 400), ORDER_BODY, False),
        (b"s3cret", f"t={now},v1=ab", ORDER_BODY, False),
    ]
    lines = [
        f"console.log(verify({secret.decode()!r}, {header!r}, Buffer.from({body.hex()!r}, 'hex')))"
        for secret, header, body, _ in calls
    ]
    program = "\n".join([example("js"), *lines])
    shown = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(expected).lower() for *_, expected in calls]
