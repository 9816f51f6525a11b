"""What is sent to Meta, what its answers mean, and that one bad event costs no other."""

import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from collector.destinations.base import TAKEN, Mail, Parcel, Refused
from collector.destinations.meta import Meta, MetaSettings
from collector.destinations.meta.verdict import judge_answer
from collector.destinations.outbound import Answer
from collector.errors import Ambiguous, Denied, Unacceptable, Unreachable
from tests.destinations import fake_meta, vendors
from tests.destinations.contract import meta, outbound
from tests.destinations.events import stored
from tests.destinations.fake_meta import DAY, MetaApi

NOW = 1_790_000_000.0
WEB: dict[str, Any] = {"userAgent": "Mozilla/5.0", "page": {"url": "https://shop.example/"}}


class Rig:
    def __init__(self, api: MetaApi, **changes: Any) -> None:
        self.now = NOW
        self.api = api
        api.now = lambda: self.now
        self.settings = meta(api.url, **changes)
        self.http = outbound(self.settings)
        self.destination = Meta(self.settings, self.http, now=lambda: self.now)

    def parcel(self, age_seconds: float = 1, event: str = "Lead", **properties: Any) -> Parcel:
        at = int((NOW - age_seconds) * 1e6)
        row = stored(
            message_id=f"m{age_seconds}{event}",
            timestamp=at,
            event=event,
            user_id="u1",
            context=WEB,
            properties=properties,
        )
        found = self.destination.map(Mail(row, {}, restricted=False))
        assert isinstance(found, Parcel), found
        return found


@asynccontextmanager
async def rigged(**changes: Any) -> AsyncIterator[Rig]:
    async with MetaApi() as api:
        made = Rig(api, **changes)
        await made.destination.open()
        yield made
        await made.destination.close()
        await made.http.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rigged() as made:
        yield made


# --- the request ----------------------------------------------------------------------------------


async def test_a_batch_is_one_request(rig: Rig) -> None:
    parcels = [rig.parcel(1), rig.parcel(2)]
    assert await rig.destination.send(parcels) == [TAKEN, TAKEN]
    [request] = rig.api.requests
    proof = hmac.new(
        MetaApi.app_secret.encode(), MetaApi.token.encode(), hashlib.sha256
    ).hexdigest()
    assert request.path == f"/v25.0/{MetaApi.dataset_id}/events?appsecret_proof={proof}"
    assert MetaApi.token not in request.path
    assert request.headers["Authorization"] == f"Bearer {MetaApi.token}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == b'{"data":[%s,%s]}' % (parcels[0].payload, parcels[1].payload)


async def test_a_request_says_who_sends_and_which_upload_it_is() -> None:
    async with rigged(partner_agent="collector", upload_tag="till 7", app_secret="") as rig:
        await rig.destination.send([rig.parcel()])
        body = rig.api.requests[0].json()
        assert (body["partner_agent"], body["upload_tag"]) == ("collector", "till 7")
        assert "test_event_code" not in body
        assert "?" not in rig.api.requests[0].path


async def test_another_version_and_address_are_settings() -> None:
    async with rigged(version="v26.0") as rig:
        await rig.destination.send([rig.parcel()])
        assert rig.api.requests[0].path.startswith("/v26.0/")


async def test_a_resent_event_counts_once(rig: Rig) -> None:
    await rig.destination.send([rig.parcel(1)])
    await rig.destination.send([rig.parcel(2), rig.parcel(1)])
    assert len(rig.api.events) == 2
    assert rig.parcel(1).key == "Lead:m1Lead"


async def test_a_full_batch_is_taken(rig: Rig) -> None:
    parcels = [rig.parcel(age) for age in range(1, 1001)]
    assert await rig.destination.send(parcels) == [TAKEN] * 1000
    assert len(rig.api.events) == 1000
    with pytest.raises(msgspec.ValidationError, match="1000"):
        msgspec.convert(
            {"type": "meta", "name": "m", "dataset_id": "1", "access_token": "t",
             "batch_events_max": 1001},
            MetaSettings,
        )  # fmt: skip


# --- one bad event --------------------------------------------------------------------------------


async def test_what_would_have_all_refused_is_refused_alone(rig: Rig) -> None:
    parcels = [
        rig.parcel(1),
        rig.parcel(8 * DAY),
        rig.parcel(-3_600),
        rig.parcel(61 * DAY, action_source="physical_store"),
        rig.parcel(63 * DAY, action_source="physical_store"),
        rig.parcel(2),
    ]
    outcomes = await rig.destination.send(parcels)
    reasons = [found.reason if isinstance(found, Refused) else "" for found in outcomes]
    assert reasons == ["", "too_old", "in_future", "", "too_old", ""]
    assert len(rig.api.requests[0].json()["data"]) == 3
    assert len(rig.api.events) == 3


async def test_a_clock_a_little_ahead_is_no_offence(rig: Rig) -> None:
    assert await rig.destination.send([rig.parcel(-59)]) == [TAKEN]


async def test_an_event_that_gets_too_old_on_its_way_is_not_sent(rig: Rig) -> None:
    almost = rig.parcel(7 * DAY - 0.5)
    [found] = await rig.destination.send([almost])
    assert isinstance(found, Refused)
    assert not rig.api.requests  # nothing is left to send


async def test_an_event_too_old_after_it_waited_is_refused(rig: Rig) -> None:
    parcel = rig.parcel(6 * DAY)
    rig.now += 2 * DAY
    [found] = await rig.destination.send([parcel])
    assert isinstance(found, Refused)
    assert found.reason == "too_old"


async def test_what_meta_refuses_all_the_same_can_be_found_by_bisection(rig: Rig) -> None:
    bad = rig.parcel(3)._replace(payload=rig.parcel(3).payload.replace(b'"u', b'"x', 1))
    good = rig.parcel(1)
    with pytest.raises(Unacceptable) as raised:
        await rig.destination.send([good, bad])
    assert raised.value.code == "invalid_event"
    assert not rig.api.events
    assert await rig.destination.send([good]) == [TAKEN]


# --- tests ----------------------------------------------------------------------------------------


async def test_a_test_goes_where_meta_shows_tests(rig: Rig) -> None:
    assert await rig.destination.send([rig.parcel()], test=True) == [TAKEN]
    assert len(rig.api.test_events) == 1
    assert not rig.api.events
    await rig.destination.send([rig.parcel()])
    assert "test_event_code" not in rig.api.requests[1].json()


async def test_without_a_code_there_is_no_test() -> None:
    async with rigged(test_event_code="") as rig:
        [found] = await rig.destination.send([rig.parcel()], test=True)
        assert isinstance(found, Refused)
        assert found.reason == "no_test_mode"
        assert "test_event_code" in found.detail
        assert not rig.api.requests


# --- what Meta refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"access_token": "expired"}, "access_token"),
        ({"app_secret": "another app's"}, "app_secret"),
        ({"dataset_id": "999"}, "dataset_id"),
    ],
)
async def test_a_wrong_setting_pauses_and_names_itself(changes: Any, said: str) -> None:
    async with rigged(**changes) as rig:
        with pytest.raises(Denied, match=said):
            await rig.destination.send([rig.parcel()])


async def test_an_app_that_asks_for_proof_gets_it() -> None:
    async with rigged(app_secret="") as rig:
        rig.api.asks_proof = True
        with pytest.raises(Denied, match="app_secret"):
            await rig.destination.send([rig.parcel()])


@pytest.mark.parametrize("code", [1, 2, 341, 368, 5000, 21009, 4, 17, 32, 613, 80003, 80004])
async def test_limits_and_troubles_of_theirs_are_waited_for(rig: Rig, code: int) -> None:
    for status in (400, 403, 500):
        rig.api.fault = fake_meta.failing(code, status=status)
        with pytest.raises(Unreachable):
            await rig.destination.send([rig.parcel()])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "17"}, 17),
        (
            {"X-Business-Use-Case-Usage": json.dumps(
                {"1": [{"type": "ads_management", "estimated_time_to_regain_access": 3},
                       {"estimated_time_to_regain_access": 2}]}
            )},
            180,
        ),
        ({"X-Business-Use-Case-Usage": '{"1": [{"estimated_time_to_regain_access": 0}]}'}, None),
        (
            {"X-Business-Use-Case-Usage": '{"1": [{"estimated_time_to_regain_access": 1e9}]}'},
            86_400,
        ),
        ({"X-Business-Use-Case-Usage": '[{"1": "x"}]'}, None),
        ({"X-Business-Use-Case-Usage": "{"}, None),
    ],
)  # fmt: skip
async def test_a_limit_is_waited_for_as_long_as_meta_says(
    rig: Rig, headers: dict[str, str], seconds: float | None
) -> None:
    rig.api.fault = fake_meta.failing(17, headers=headers)
    with pytest.raises(Unreachable) as raised:
        await rig.destination.send([rig.parcel()])
    assert raised.value.seconds == seconds
    assert raised.value.code == "rate_limited"


@pytest.mark.parametrize(
    ("code", "subcode", "error", "reason"),
    [
        (190, 460, Denied, "token_refused"),
        (190, None, Denied, "token_refused"),
        (102, None, Denied, "token_refused"),
        (3, None, Denied, "dataset_refused"),
        (10, None, Denied, "dataset_refused"),
        (200, None, Denied, "dataset_refused"),
        (294, None, Denied, "dataset_refused"),
        (803, None, Denied, "dataset_refused"),
        (100, 33, Denied, "dataset_refused"),
        (2635, None, Denied, "version_refused"),
        (100, 2804003, Unacceptable, "too_old"),
        (100, 2804001, Unacceptable, "invalid_event"),
        (100, 2804007, Unacceptable, "invalid_event"),
        (100, 2804016, Unacceptable, "invalid_event"),
        (100, 2804017, Unacceptable, "invalid_event"),
        (100, 2804019, Unacceptable, "invalid_event"),
        (100, 2804048, Unacceptable, "invalid_event"),
        (100, None, Unacceptable, "invalid_event"),
        (105, None, Unacceptable, "invalid_event"),
        (777, None, Unacceptable, "refused"),
    ],
)
async def test_the_table_of_errors(
    rig: Rig, code: int, subcode: int | None, error: type[Exception], reason: str
) -> None:
    for status in (400, 200):
        rig.api.fault = fake_meta.failing(code, subcode, status=status)
        with pytest.raises(error) as raised:
            await rig.destination.send([rig.parcel()])
        assert getattr(raised.value, "code", None) == reason
        assert "AbC_1-23" in str(raised.value) or code == 777  # what Meta's support asks for


@pytest.mark.parametrize(
    ("status", "is_transient", "error"),
    [
        (400, True, Unreachable),
        (500, True, Unreachable),
        (500, False, Ambiguous),
        (401, False, Denied),
        (403, False, Denied),
        (429, False, Unreachable),
        (404, False, Unacceptable),
    ],
)
async def test_a_code_that_nobody_listed_is_as_transient_as_meta_says(
    rig: Rig, status: int, is_transient: bool, error: type[Exception]
) -> None:
    rig.api.fault = fake_meta.failing(99_999, status=status, is_transient=is_transient)
    with pytest.raises(error):
        await rig.destination.send([rig.parcel()])


@pytest.mark.parametrize("status", [200, 400, 403, 500, 502])
async def test_a_page_instead_of_json_leaves_doubt(rig: Rig, status: int) -> None:
    rig.api.fault = vendors.status(status, "<!DOCTYPE html><title>Error</title>")
    with pytest.raises(Ambiguous):
        await rig.destination.send([rig.parcel()])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        '"ok"',
        '{"events_received":0}',
        '{"events_received":2}',
        '{"events_received":true}',
        '{"events_received":"1"}',
        '{"error":"no"}',
        '{"error":{}}',
        '{"error":{"code":"190"}}',
        '{"error":{"code":null,"error_subcode":[]}}',
    ],
)
async def test_a_success_that_is_none_is_not_taken_for_one(rig: Rig, body: str) -> None:
    rig.api.fault = vendors.status(200, body)
    with pytest.raises((Ambiguous, Unacceptable)):
        await rig.destination.send([rig.parcel()])


async def test_what_meta_quotes_of_an_event_is_in_no_error(rig: Rig) -> None:
    rig.api.fault = fake_meta.failing(100, 2804016, message="Invalid parameter: em=ann@x.co")
    with pytest.raises(Unacceptable) as raised:
        await rig.destination.send([rig.parcel()])
    assert "ann@x.co" not in repr(raised.value)


def test_a_trace_that_is_none_is_not_shown() -> None:
    body = b'{"error":{"code":190,"fbtrace_id":"a\\n\\u001b[31mb"}}'
    with pytest.raises(Denied) as raised:
        judge_answer(Answer(400, CIMultiDictProxy(CIMultiDict()), body), 1)
    assert "a31mb" in raised.value.detail


# --- settings -------------------------------------------------------------------------------------


def test_secrets_are_not_shown() -> None:
    shown = repr(meta("https://graph.test"))
    assert MetaApi.token not in shown
    assert MetaApi.app_secret not in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_url": "graph.facebook.com"}, "https"),
        ({"access_token": "tök"}, "access_token"),
        ({"currency_default": "TALER"}, "4217"),
        ({"phone_country_default": "Germany"}, "3166"),
        ({"offline": True}, "events"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_start(changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        meta("https://graph.test", **changes)


def test_defaults_are_those_of_an_advertising_network() -> None:
    found = msgspec.convert(
        {"type": "meta", "name": "m", "dataset_id": "1", "access_token": "t"}, MetaSettings
    )
    assert (found.purpose, found.bots, found.batch_events_max) == ("advertising", "skip", 1000)
    assert isinstance(found.build(outbound(found)), Meta)


@pytest.mark.parametrize("bad", [{"dataset_id": "act_1"}, {"version": "25"}, {"dataset": "1"}])
def test_a_misspelt_setting_is_found(bad: dict[str, Any]) -> None:
    given = {"type": "meta", "name": "m", "dataset_id": "1", "access_token": "t"} | bad
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, MetaSettings)


def test_each_reason_has_its_row_in_the_docs() -> None:
    page = Path("docs/destinations/meta.md").read_text(encoding="utf-8")
    package = Path("collector/destinations/meta").glob("*.py")
    code = "".join(path.read_text(encoding="utf-8") for path in package)
    reasons = set(re.findall(r'(?:Refused|Skipped)\(\s*"(\w+)"', code))
    assert {"no_mapping", "too_old", "missing_identifier"} <= reasons
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []


def test_mapping_is_quick() -> None:
    """A courier maps on the loop that also takes events: a thousand in well under a second."""
    destination = Meta(settings := meta("https://graph.test"), outbound(settings))
    row = stored(user_id="u1", event="Lead", context=WEB, properties={"a": 1})
    started = time.perf_counter()
    for _ in range(1_000):
        destination.map(Mail(row, {}, restricted=False))
    assert time.perf_counter() - started < 2
