"""Customer.io's Track API: what is wrong is said where its clients look for it."""

from typing import Any

import pytest

from collector.ingest import SourceSettings
from collector.journal import JournalSettings
from tests.edge import Counted, Edge, MakeEdge
from tests.edge import read as read_json
from tests.ingest.trackapi import ID, SITE, ask, credentials, told, track
from tests.rawhttp import encode

PERSON = {"type": "person", "identifiers": {"id": "u"}}
EVENTS = "/api/v1/customers/u/events"
ENTITY = "/api/v2/entity"
CUSTOMERS = "/api/v1/customers/"


@pytest.fixture
async def crm(make_edge: MakeEdge) -> Edge:
    return await make_edge([SITE])


# --- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [EVENTS, "/api/v1/events", ENTITY, "/api/v2/batch"])
@pytest.mark.parametrize("key", ["site_id_1:wrong", "site_id_1", "site_id_1:", "other:api_key_1"])
async def test_wrong_credentials_are_401_and_told(crm: Edge, path: str, key: str) -> None:
    answer = await ask(crm, "POST", path, {"name": "E"}, key)
    assert answer.status == 401
    body = answer.json()
    assert body["meta"] == {"error": body["message"]}
    assert body["code"] == "unknown_write_key"
    (rejection,) = await crm.rejections()
    assert rejection.code == "unknown_write_key"
    assert "api_key_1" not in rejection.data.decode()


async def test_a_site_id_alone_takes_any_key(make_edge: MakeEdge) -> None:
    edge = await make_edge([SourceSettings(name="crm", write_key="site")])
    for key in ("site:any", "site:", "site:a:b"):
        assert (await ask(edge, "POST", EVENTS, {"name": "E"}, key)).status == 200
    assert (await ask(edge, "POST", EVENTS, {"name": "E"}, "other:any")).status == 401


# --- what is wrong -------------------------------------------------------------------------------

LONG = "x" * 600
WRONG: list[tuple[str, str, object, str, str]] = [
    ("POST", EVENTS, {}, "missing_event", "name"),
    ("POST", EVENTS, {"name": ""}, "missing_event", "name"),
    ("POST", EVENTS, {"name": {}}, "wrong_type", "name"),
    ("POST", EVENTS, {"name": "E", "data": 5}, "wrong_type", "data"),
    ("POST", EVENTS, {"name": "E", "type": "click"}, "unknown_type", "type"),
    ("POST", EVENTS, {"name": "E", "id": [1]}, "wrong_type", "id"),
    ("POST", EVENTS, b"{", "bad_json", ""),
    ("POST", EVENTS, b"[]", "not_an_object", ""),
    ("POST", EVENTS, b'{"name":"E","data":' + b"[" * 200 + b"]" * 200 + b"}", "too_deep", ""),
    ("POST", EVENTS, {"name": "x" * 2000}, "name_too_long", ""),
    ("POST", EVENTS, {"name": "E", "data": {"x": "x" * 270_000}}, "event_too_large", ""),
    ("POST", EVENTS, {"name": "E", "data": {"x": "x" * 263_000}}, "event_too_large", ""),
    ("POST", EVENTS, b'{"name":"E","data":{"n":1e999}}', "number_out_of_range", ""),
    ("PUT", CUSTOMERS + LONG, {}, "id_too_long", ""),
    ("PUT", CUSTOMERS + "u", {"anonymous_id": {}}, "wrong_type", "anonymous_id"),
    ("PUT", CUSTOMERS + "u", {"cio_relationships": 5}, "wrong_type", "cio_relationships"),
    ("PUT", CUSTOMERS + "u/devices", {}, "missing_device", "device"),
    ("PUT", CUSTOMERS + "u/devices", {"device": "t"}, "wrong_type", "device"),
    ("POST", "/api/v1/merge_customers", {}, "missing_identifier", "primary"),
    (
        *("POST", "/api/v1/merge_customers"),
        {"primary": {"id": "a", "email": "b"}, "secondary": {"id": "c"}},
        *("missing_identifier", "primary"),
    ),
    (
        *("POST", "/api/v1/merge_customers"),
        {"primary": {"id": "a"}, "secondary": {}},
        *("missing_identifier", "secondary"),
    ),
    ("POST", "/api/v1/push/events", {"delivery_id": "d"}, "missing_event", "metric"),
    ("POST", "/api/v1/segments/1/add_customers", {"ids": "u"}, "wrong_type", "ids"),
    ("POST", "/api/v1/segments/1/add_customers", {"ids": [{}]}, "wrong_type", "ids"),
    ("POST", "/api/v1/segments/1/add_customers", {"ids": [1] * 1001}, "too_many_events", "ids"),
    ("POST", ENTITY, {}, "unknown_type", "type"),
    ("POST", ENTITY, {"type": "thing"}, "unknown_type", "type"),
    ("POST", ENTITY, {"type": "person"}, "missing_identifier", "identifiers"),
    ("POST", ENTITY, PERSON, "unknown_action", "action"),
    ("POST", ENTITY, PERSON | {"action": "dance"}, "unknown_action", "action"),
    ("POST", ENTITY, PERSON | {"action": "delete_device"}, "missing_device", "device"),
    ("POST", ENTITY, {"type": "object", "action": "delete"}, "missing_identifier", "identifiers"),
    ("POST", "/api/v2/batch", {}, "missing_batch", "batch"),
    ("POST", "/api/v2/batch", b"", "bad_json", ""),
    ("POST", "/api/v2/batch", {"batch": {}}, "missing_batch", "batch"),
]


@pytest.mark.parametrize(("method", "path", "body", "code", "field"), WRONG)
async def test_what_is_wrong_is_told_where_the_clients_look(
    crm: Edge, method: str, path: str, body: object, code: str, field: str
) -> None:
    refused = Counted("collector_ingest_refused_requests_total", reason=code)
    answer = await ask(crm, method, path, body)
    told_ = answer.json()
    assert (answer.status, told_["code"]) == (400, code)
    assert told_["meta"] == {"error": told_["message"]}
    assert told_["errors"] == [{"reason": code, "field": field, "message": told_["message"]}]
    assert refused.moved == 1
    (rejection,) = await crm.rejections()
    assert (rejection.code, rejection.accepted) == (code, False)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CUSTOMERS + "u", 405),
        ("POST", CUSTOMERS + "u", 405),
        ("PUT", EVENTS, 405),
        ("GET", "/api/v2/batch", 405),
        ("PUT", "/api/v1/customers", 404),
        ("PUT", "/api/v1/customers/", 404),
        ("PUT", "/api/v1/customers//", 404),
        ("PUT", "/api/v1/customers//events", 404),
        ("POST", "/api/v1/customers/u/dance", 404),
        ("DELETE", "/api/v1/customers/u/devices", 405),
        ("DELETE", "/api/v1/customers/u/devices/a/b", 404),
        ("POST", "/api/v1/segments/1/other", 404),
        ("POST", "/api/v1/beta", 404),
    ],
)
async def test_other_paths_and_methods_are_not_there(
    crm: Edge, method: str, path: str, status: int
) -> None:
    answer = await ask(crm, method, path, {})
    assert answer.status == status
    assert await crm.results() == []


async def test_when_the_disk_is_full_the_clients_are_told_when_to_try_again(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge([SITE], JournalSettings(total_bytes_max=1))
    await ask(edge, "POST", EVENTS, {"name": "E"})  # the first still fits
    for path in (EVENTS, ENTITY, "/api/v2/batch"):
        answer = await ask(edge, "POST", path, {"name": "E"})
        assert (answer.status, answer.json()["code"]) == (503, "journal_full")
        assert int(answer.header("Retry-After") or 0) > 0
        assert answer.json()["meta"]["error"]


async def test_a_body_that_is_too_large_is_413_and_ends_the_connection(crm: Edge) -> None:
    request = encode("POST", EVENTS, credentials() | {"Content-Length": "99999999"}, b"{")
    answer = await crm.send(request)
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
    assert answer.json()["meta"]["error"]
    assert answer.header("Connection") == "close"


# --- batches -------------------------------------------------------------------------------------


async def test_a_batch_with_bad_operations_is_207_and_names_them(crm: Edge) -> None:
    good = PERSON | {"action": "event", "name": "Good"}
    batch: list[Any] = [good, {}, good | {"id": ID}, 5, good | {"name": "x" * 2000}, good]
    answer = await ask(crm, "POST", "/api/v2/batch", {"batch": batch})
    assert answer.status == 207
    errors = answer.json()["errors"]
    assert [(error["batch_index"], error["reason"]) for error in errors] == [
        (1, "unknown_type"),
        (3, "not_an_object"),
        (4, "name_too_long"),
    ]
    assert errors[0]["field"] == "type"
    assert all(len(error["message"]) > 10 for error in errors)
    results = await crm.results()
    assert crm.journal.accepted == {"crm": 6}
    assert len(results) == 6
    assert [told(one)["event"] for one in results if not hasattr(one, "code")] == ["Good"] * 3
    assert {one.code for one in results if hasattr(one, "code")} == {
        *("unknown_type", "not_an_object", "name_too_long"),
    }


async def test_an_operation_that_becomes_two_events_is_named_once_for_each(crm: Edge) -> None:
    ties = {"cio_relationships": [{"identifiers": {"object_id": "x" * 600}}]}
    batch = [PERSON | {"action": "identify"} | ties, PERSON | {"action": "delete"}]
    answer = await ask(crm, "POST", "/api/v2/batch", {"batch": batch})
    assert answer.status == 207
    assert [error["batch_index"] for error in answer.json()["errors"]] == [0]
    assert len(await crm.results()) == 3


async def test_a_batch_of_nothing_but_bad_operations_is_kept(crm: Edge) -> None:
    answer = await ask(crm, "POST", "/api/v2/batch", {"batch": [{}, {"type": "person"}]})
    assert answer.status == 207
    assert [one.code for one in await crm.rejections()] == ["unknown_type", "missing_identifier"]
    answer = await ask(crm, "POST", "/api/v2/batch", {"batch": []})
    assert (answer.status, answer.json()) == (200, {})
    assert await crm.results() == []


async def test_a_batch_becomes_no_more_events_than_it_may(make_edge: MakeEdge) -> None:
    edge = await make_edge([SITE], batch_events_max=3)
    two = PERSON | {
        "action": "identify",
        "cio_relationships": [{"identifiers": {"object_id": "o"}}],
    }
    one = PERSON | {"action": "delete"}
    answer = await ask(edge, "POST", "/api/v2/batch", {"batch": [two, two, one]})
    assert answer.status == 207
    (error,) = answer.json()["errors"]
    assert (error["batch_index"], error["reason"]) == (1, "too_many_events")
    assert len(await edge.events()) == 3


async def test_broken_json_in_a_batch_costs_only_its_own(crm: Edge) -> None:
    event = (
        b'{"type":"person","action":"event","name":"E","identifiers":{"id":"u"},"attributes":%s}'
    )
    body = b'{"batch":[%s,%s,%s]}' % (
        event % b'{"n":NaN}',
        event % b"{]",
        event % b'{"s":"\\ud83d"}',
    )
    answer = await ask(crm, "POST", "/api/v2/batch", body)
    assert answer.status in {207, 400}
    if answer.status == 207:
        assert [read_json(one.properties) for one in await crm.events()]
    answer = await ask(crm, "POST", ENTITY, event % b'{"n":NaN,"s":"\\ud83d\\u0000x"}')
    assert answer.status == 200
    assert track("E", user_id="u", properties={"n": None, "s": "\ufffdx"}) in [
        told(one) for one in await crm.events()
    ]
