"""Tracking: Segment's HTTP API as its SDKs use it, and what becomes of what they leave out."""

import asyncio
import json
import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from collector.event import Event, Rejection
from collector.ingest import SourceSettings
from tests.edge import BACKEND, BROWSER, FULL, SHOP, Edge, MakeEdge, read
from tests.rawhttp import Answer, Wire, basic, encode

SHORT = {"t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias"}
CALLS = SHORT | {name: name for name in SHORT.values()}
SUCCESS = b'{"success":true}'


def refused(answer: Answer) -> str:
    told = answer.json()
    assert (answer.status, told["success"]) == (400, False)
    assert len(told["message"]) > 10
    return str(told["code"])


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "/in/here", "/quiet"])
@pytest.mark.parametrize("name", CALLS)
async def test_each_call_has_a_long_and_a_short_path_below_each_prefix(
    make_edge: MakeEdge, name: str, prefix: str, slash: str
) -> None:
    edge = await make_edge(path_prefix="/in/here", neutral_path_prefix="/quiet")
    answer = await edge.post(f"{prefix}/v1/{name}{slash}", FULL)
    assert (answer.status, answer.body) == (200, SUCCESS)
    assert answer.header("Content-Type") == "application/json"
    assert (await edge.event()).type == CALLS[name]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "/x"])
@pytest.mark.parametrize("name", ["batch", "b", "import"])
async def test_batches_have_three_paths(edge: Edge, name: str, prefix: str, slash: str) -> None:
    batch = {"batch": [FULL | {"type": kind} for kind in SHORT.values()]}
    answer = await edge.post(f"{prefix}/v1/{name}{slash}", batch)
    assert (answer.status, answer.body) == (200, SUCCESS)
    assert [event.type for event in await edge.events()] == list(SHORT.values())


async def test_without_a_second_prefix_there_is_none(make_edge: MakeEdge) -> None:
    edge = await make_edge(neutral_path_prefix="")
    assert (await edge.post("/x/v1/track", FULL)).status == 404
    assert (await edge.post("/v1/track", FULL)).status == 200


async def test_the_path_says_the_type_whatever_the_body_says(edge: Edge) -> None:
    for other in ("page", "nothing", None, "", 5):
        answer = await edge.post("/v1/track", FULL | {"type": other})
        assert answer.status == 200
        assert (await edge.event()).type == "track"


async def test_metrics_of_sdks_need_no_key_and_leave_nothing(edge: Edge) -> None:
    for body in ({"series": [{"type": "Counter"}]}, {"series": []}, {}):
        answer = await edge.post("/v1/m", body, key=None)
        assert (answer.status, answer.body) == (200, SUCCESS)
    assert await edge.results() == []


async def test_health_says_that_events_are_taken(edge: Edge) -> None:
    for path in ("/health", "/health/", "/x/health"):
        assert (await edge.get(path)).json() == {"status": "ok"}


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "text/plain",
        "text/plain;charset=ISO-8859-1",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "image/png",
        "\udcff",
        "",
    ],
)
async def test_a_body_is_json_whatever_it_is_called(edge: Edge, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = json.dumps({"event": "Åäö 日本 😀", "userId": "u"}, ensure_ascii=False).encode()
    assert (await edge.post("/v1/track", body, headers)).status == 200
    assert (await edge.event()).event == "Åäö 日本 😀"


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("space", [b"", b" \r\n\t"])
async def test_what_stands_around_a_body_is_passed_over(
    edge: Edge, bom: bytes, space: bytes
) -> None:
    body = bom + space + b'{"event":"E"}' + space
    assert (await edge.post("/v1/track", body)).status == 200
    body = bom + space + b'{"batch":[{"type":"track","event":"E"}]}' + space
    assert (await edge.post("/v1/batch", body)).status == 200
    assert [event.event for event in await edge.events()] == ["E", "E"]


@pytest.mark.parametrize(
    ("body", "single", "batch"),
    [
        (b"", "empty_body", "empty_body"),
        (b"  ", "empty_body", "empty_body"),
        (b"null", "not_an_object", "bad_json"),
        (b"[]", "not_an_object", "bad_json"),
        (b"[{}]", "not_an_object", "bad_json"),
        (b'"text"', "not_an_object", "bad_json"),
        (b"42", "not_an_object", "bad_json"),
        (b"true", "not_an_object", "bad_json"),
        (b"{", "bad_json", "bad_json"),
        (b'{"event":"E"', "bad_json", "bad_json"),
        (b'{"event":"E"}{"event":"F"}', "bad_json", "bad_json"),
        (b'{"event":"E"} x', "bad_json", "bad_json"),
        (b"event=E&userId=u", "bad_json", "bad_json"),
        (b"<xml/>", "bad_json", "bad_json"),
        (b"{}", "missing_event", "missing_batch"),
        (b'{"batch":null}', "missing_event", "missing_batch"),
        (b'{"batch":{}}', "missing_event", "missing_batch"),
        (b'{"batch":"text"}', "missing_event", "missing_batch"),
        (b'{"event":"E","batch":5}', "", "missing_batch"),
        (b'{"batch":[{"type":"track"', "bad_json", "bad_json"),
    ],
)
async def test_what_is_malformed_is_named(edge: Edge, body: bytes, single: str, batch: str) -> None:
    answer = await edge.post("/v1/track", body)
    if single:
        assert refused(answer) == single
    else:
        assert answer.status == 200
    for path in ("/v1/batch", "/v1/import"):
        assert refused(await edge.post(path, body)) == batch
    assert all(not rejection.accepted for rejection in await edge.rejections())


async def test_a_message_says_where_json_ends_to_be_any(edge: Edge) -> None:
    told = (await edge.post("/v1/track", b'{"event": nope}')).json()
    assert "byte 10" in told["message"]


async def test_a_batch_of_nothing_is_taken(edge: Edge) -> None:
    answer = await edge.post("/v1/batch", {"batch": []})
    assert (answer.status, answer.body) == (200, SUCCESS)
    assert (await edge.post("/v1/batch", {"batch": []}, key="nobody")).status == 401
    assert await edge.events() == []


async def test_what_is_wrong_in_a_batch_is_named_by_its_index(edge: Edge) -> None:
    good = {"type": "track", "event": "Good", "userId": "u"}
    bad: list[tuple[Any, str]] = [
        ({"event": "E"}, "missing_type"),
        ({"type": "", "event": "E"}, "missing_type"),
        ({"type": None, "event": "E"}, "missing_type"),
        ({"type": "Track", "event": "E"}, "unknown_type"),
        ({"type": "batch"}, "unknown_type"),
        ({"type": 5}, "unknown_type"),
        ({"type": "track"}, "missing_event"),
        ({"type": "track", "event": ""}, "missing_event"),
        ({"type": "track", "event": None}, "missing_event"),
        ({"type": "group", "userId": "u"}, "missing_group_id"),
        ({"type": "group", "groupId": ""}, "missing_group_id"),
        ({"type": "alias", "previousId": "p"}, "missing_user_id"),
        ({"type": "alias", "userId": "u"}, "missing_previous_id"),
        ({"type": "track", "event": "E", "userId": 1.5}, "wrong_type"),
        ({"type": "track", "event": ["E"]}, "wrong_type"),
        ({"type": "track", "event": "E", "properties": "text"}, "wrong_type"),
        (None, "not_an_object"),
        ([], "not_an_object"),
        ("text", "not_an_object"),
        (5, "not_an_object"),
    ]
    events = [good, *(event for pair in bad for event in (pair[0], good))]
    answer = await edge.post("/v1/batch", {"batch": events})
    told = answer.json()
    assert (answer.status, told["success"], told["rejected_count"]) == (200, True, len(bad))
    assert [(r["index"], r["code"]) for r in told["rejected"]] == [
        (2 * number + 1, code) for number, (_, code) in enumerate(bad)
    ]
    assert all(len(r["message"]) > 10 for r in told["rejected"])
    results = await edge.results()
    assert sum(isinstance(result, Event) for result in results) == len(bad) + 1
    rejections = [result for result in results if isinstance(result, Rejection)]
    assert sorted(r.code for r in rejections) == sorted(code for _, code in bad)
    assert all(r.accepted and r.data for r in rejections)
    for event, code in bad:  # alone each is a 400 with the same word
        if isinstance(event, dict) and event.get("type") in {"track", "group", "alias"}:
            assert refused(await edge.post(f"/v1/{event['type']}", event)) == code


async def test_a_batch_of_bad_events_alone_is_taken_and_explained(edge: Edge) -> None:
    answer = await edge.post("/v1/batch", {"batch": [{"type": "nothing"}, 5]})
    assert answer.status == 200
    assert answer.json()["rejected_count"] == 2
    assert len(await edge.rejections()) == 2


async def test_many_bad_events_cost_linear_time(edge: Edge) -> None:
    answer = await edge.post("/v1/batch", {"batch": [{"type": "nothing", "a": "x" * 200}] * 10_000})
    assert answer.json()["rejected_count"] == 10_000
    began = time.perf_counter()
    assert len(await edge.rejections()) == 10_000
    assert time.perf_counter() - began < 2.0


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["messageId", "userId", "anonymousId", "groupId", "previousId"])
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("text", "text"),
        (42, "42"),
        (0, "0"),
        (-7, "-7"),
        (42.0, "42"),
        (2**53 + 1, str(2**53 + 1)),
        (2**63, str(2**63)),
        (2**64 + 1, str(2**64 + 1)),
        (12345678901234567890123456789, "12345678901234567890123456789"),
        ("007", "007"),
        (" spaced ", " spaced "),
        ("日本 😀", "日本 😀"),
        ("a" * 512, "a" * 512),
    ],
)
async def test_ids_are_kept_and_whole_numbers_become_text(
    edge: Edge, field: str, sent: object, kept: str
) -> None:
    column = "".join("_" + c.lower() if c.isupper() else c for c in field)
    event = {"type": "group", "groupId": "g", "userId": "u"} | {field: sent}
    assert (await edge.post("/v1/group", event)).body == SUCCESS
    assert (await edge.post("/v1/batch", {"batch": [event]})).body == SUCCESS
    for result in await edge.events():
        assert getattr(result, column) == kept


@pytest.mark.parametrize("field", ["messageId", "userId", "anonymousId", "groupId", "previousId"])
@pytest.mark.parametrize("sent", [1.5, -0.1, 1e-9, True, False, {}, [], {"id": 1}, ["u"]])
async def test_what_is_no_id_is_refused_and_the_field_is_named(
    edge: Edge, field: str, sent: object
) -> None:
    answer = await edge.post("/v1/page", {"userId": "u"} | {field: sent})
    assert refused(answer) == "wrong_type"
    assert field in answer.json()["message"]


async def test_what_an_sdk_leaves_out_is_filled_in(edge: Edge) -> None:
    before = time.time_ns() // 1000
    event = await edge.take({"event": "E"})
    assert event.message_id
    assert uuid.UUID(event.anonymous_id).version == 4
    assert event.user_id is None
    assert before <= event.received_at <= time.time_ns() // 1000
    assert event.timestamp == event.received_at
    assert (event.original_timestamp, event.sent_at) == (None, None)
    for absent in (None, ""):
        names = ("messageId", "userId", "anonymousId", "timestamp", "sentAt")
        other = await edge.take({"event": "E"} | dict.fromkeys(names, absent))
        assert other.message_id not in {"", event.message_id}
        assert other.anonymous_id not in {"", event.anonymous_id}
        assert other.timestamp == other.received_at
        assert other.extra is None


async def test_an_id_is_made_only_where_there_is_none(edge: Edge) -> None:
    assert (await edge.take({"event": "E", "userId": "u"})).anonymous_id is None
    assert (await edge.take({"event": "E", "anonymousId": "a"})).user_id is None


async def test_message_ids_that_are_made_never_meet(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        for _ in range(20):
            body = json.dumps({"batch": [{"type": "track", "event": "E"}] * 20}).encode()
            await wire.send(encode("POST", "/v1/batch", {"Authorization": basic("demo")}, body))
            assert (await wire.answer()).status == 200
    events = await edge.events()
    assert len({event.message_id for event in events}) == 400


async def test_the_same_frame_gives_the_same_ids_again(edge: Edge) -> None:
    await edge.post("/v1/batch", {"batch": [{"type": "track", "event": "E"}] * 3})
    first = await edge.events()
    edge._read = 0
    assert await edge.events() == first


async def test_an_alias_without_a_previous_id_replaces_the_anonymous_one(edge: Edge) -> None:
    event = await edge.take({"userId": "u", "anonymousId": "a"}, "/v1/alias")
    assert (event.user_id, event.previous_id, event.anonymous_id) == ("u", "a", "a")


@pytest.mark.parametrize(
    ("sent", "kept"), [("5", "5"), (5, "5"), (5.5, "5.5"), (10**20, "1" + "0" * 20)]
)
async def test_numbers_as_names_become_text(edge: Edge, sent: object, kept: str) -> None:
    event = await edge.take({"event": sent, "name": sent, "category": sent})
    assert (event.event, event.name, event.category) == (kept, kept, kept)


# --- what goes to the JSON columns ---------------------------------------------------------------


async def test_what_the_sender_wrote_is_kept_to_the_letter(edge: Edge) -> None:
    text = (
        b'{"event":"E","userId":"u","properties":{"big":9007199254740993,"pi":3.14159265358979323846,'
        b'"e":1e2,"neg":-0,"u":"\\u00e5\\n","deep":[[{"a":null}]],"dup":1,"dup":2},'
        b'"integrations":{"All":false,"Meta":{"x":1}},"channel":"server","_metadata":{"n":1},'
        b'"version":2,"custom":[1,"a"]}'
    )
    assert (await edge.post("/v1/track", text)).status == 200
    event = await edge.event()
    assert event.properties is not None
    assert b"9007199254740993" in event.properties
    assert b"3.14159265358979323846" in event.properties
    assert read(event.properties)["u"] == "å\n"
    assert read(event.properties)["dup"] == 2
    assert read(event.integrations) == {"All": False, "Meta": {"x": 1}}
    assert read(event.extra) == {
        "channel": "server",
        "_metadata": {"n": 1},
        "version": 2,
        "custom": [1, "a"],
    }


async def test_the_write_key_is_not_kept(edge: Edge) -> None:
    event = await edge.take(FULL | {"writeKey": "demo", "other": 1})
    assert read(event.extra) == {"other": 1}


@pytest.mark.parametrize("field", ["properties", "traits", "context", "integrations"])
async def test_objects_may_be_absent_null_or_as_php_writes_them(edge: Edge, field: str) -> None:
    for sent in (None, [], {}):
        event = await edge.take(FULL | {field: sent}, User_Agent=BROWSER)
        value = read(getattr(event, field))
        if field == "context":
            assert value == {"ip": "127.0.0.1", "userAgent": BROWSER}
        else:
            assert value in (None, {})
    for wrong in ("text", 5, 1.5, True, [1], ["a"]):
        answer = await edge.post("/v1/track", FULL | {field: wrong})
        assert refused(answer) == "wrong_type"
        assert field in answer.json()["message"]


async def test_identify_traits_are_found_in_the_context(edge: Edge) -> None:
    """RudderStack's SDKs put them there and nowhere else."""
    traits = {"email": "a@example.com"}
    for body in (
        {"context": {"traits": traits}},
        {"context": {"traits": traits}, "traits": {}},
        {"context": {"traits": traits}, "traits": None},
        {"context": {"traits": {"email": "other"}}, "traits": traits},
    ):
        event = await edge.take({"userId": "u"} | body, "/v1/identify")
        assert read(event.traits) == traits
        assert read(event.context)["traits"] == body["context"]["traits"]
    for odd in ("text", [], None, 5):
        event = await edge.take({"userId": "u", "context": {"traits": odd}}, "/v1/identify")
        assert event.traits is None
    event = await edge.take({"event": "E", "context": {"traits": traits}})
    assert event.traits is None  # of a track call they stay where they are


async def test_a_batch_speaks_for_its_events(edge: Edge) -> None:
    batch = {
        "context": {"app": {"name": "shop"}, "locale": "en"},
        "integrations": {"All": False, "Meta": True},
        "batch": [
            {"type": "track", "event": "Plain"},
            {
                "type": "track",
                "event": "Own",
                "context": {"locale": "nb", "x": 1},
                "integrations": {"All": True},
            },
            {"type": "track", "event": "Empty", "context": {}, "integrations": {}},
            {"type": "track", "event": "Null", "context": None, "integrations": None},
        ],
    }
    await edge.post("/v1/batch", batch, key="secret-1")
    plain, own, empty, null = await edge.events()
    for event in (plain, empty, null):
        assert read(event.context) == {"app": {"name": "shop"}, "locale": "en"}
        assert read(event.integrations) == {"All": False, "Meta": True}
    assert read(own.context) == {"app": {"name": "shop"}, "locale": "nb", "x": 1}
    assert read(own.integrations) == {"All": True, "Meta": True}


async def test_traits_and_page_of_a_batch_are_found_too(edge: Edge) -> None:
    context = {"traits": {"a": 1}, "page": {"url": "https://shop.example/?utm_source=x&gclid=g"}}
    batch = {"context": context, "batch": [{"type": "identify", "userId": "u"}]}
    await edge.post("/v1/batch", batch)
    event = await edge.event()
    assert read(event.traits) == {"a": 1}
    assert read(event.context)["campaign"] == {"source": "x"}
    assert read(event.context)["clickIds"] == {"gclid": "g"}


@pytest.mark.parametrize("odd", ["text", 5, True, [1], None])
async def test_odd_things_beside_a_batch_do_not_cost_its_events(edge: Edge, odd: object) -> None:
    beside = dict.fromkeys(("context", "integrations", "sentAt", "timestamp", "other"), odd)
    answer = await edge.post("/v1/batch", beside | {"batch": [FULL | {"type": "track"}]})
    assert answer.status == 200
    event = await edge.event()
    assert event.event == "E"
    assert event.integrations is None


# --- what SDKs do --------------------------------------------------------------------------------


async def test_headers_of_retries_change_nothing(edge: Edge) -> None:
    headers = {
        "X-Retry-Count": "3",
        "Rsa-Retry-Attempt": "1",
        "AnonymousId": "YW5vbi0x",
        "SentAt": "2026-11-22T00:02:36.048Z",
        "Cookie": "ajs_user_id=someone",
    }
    plain, retried = await edge.take(FULL), None
    assert (await edge.post("/v1/track", FULL, headers)).status == 200
    retried = await edge.event()
    assert (retried.user_id, retried.context) == (plain.user_id, plain.context)
    assert retried.sent_at is None


async def test_answers_to_many_at_once_belong_to_their_requests(edge: Edge) -> None:
    async def one(number: int) -> None:
        await asyncio.sleep(random.random() / 20)
        event = {"event": f"E{number}", "messageId": f"m{number}"}
        answer = await edge.post("/v1/track", event if number % 3 else {"messageId": "bad"})
        assert answer.status == (200 if number % 3 else 400)

    await asyncio.gather(*(one(number) for number in range(150)))
    events = await edge.events()
    assert len(events) == 100
    assert all(event.event == f"E{event.message_id[1:]}" for event in events)


async def test_what_was_answered_is_on_disk(make_edge: MakeEdge, tmp_path: Path) -> None:
    edge = await make_edge()
    for number in range(20):
        await edge.post("/v1/track", {"event": f"E{number}"})
    files = sorted(tmp_path.glob("*/*.journal"))
    data = b"".join(file.read_bytes() for file in files)
    assert all(f'"E{number}"'.encode() in data for number in range(20))


async def test_each_source_has_its_own_name_and_books(make_edge: MakeEdge) -> None:
    third = SourceSettings(name="app-2.eu_x", write_key="k3")
    edge = await make_edge([SHOP, BACKEND, third])
    for key in ("demo", "secret-1", "k3", "k3"):
        await edge.post("/v1/track", FULL, key=key)
    assert [event.source for event in await edge.events()] == ["shop", "backend"] + 2 * [
        "app-2.eu_x"
    ]
    assert edge.journal.accepted == {"shop": 1, "backend": 1, "app-2.eu_x": 2}
