"""The road from end to end: what is acknowledged is a row in Postgres, once."""

import json
import urllib.request

from tests.process import CollectorProcess


async def test_an_acknowledged_event_is_a_row(collector: CollectorProcess) -> None:
    status, answer = collector.post(
        "/v1/track", {"userId": "u1", "event": "Hello", "properties": {"n": 2**53 + 1}}
    )
    assert (status, answer) == (200, {"success": True})
    collector.wait_until_stored()
    (row,) = await collector.rows("select * from collector.events")
    assert (row["seq"], row["type"], row["event"], row["user_id"]) == (1, "track", "Hello", "u1")
    assert row["properties"] == {"n": 2**53 + 1}
    assert row["source"] == "default"
    assert row["message_id"]


async def test_a_pixel_is_a_row_and_always_an_image(collector: CollectorProcess) -> None:
    url = f"{collector.url}/px.gif?wk=demo&e=Email%20Opened&uid=u2&p.subject=Hi"
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Content-Type"] == "image/gif"
        assert answer.headers["X-Collector"] == "stored"
        assert len(answer.read()) <= 43
    collector.wait_until_stored()
    (row,) = await collector.rows("select * from collector.events")
    assert (row["event"], row["user_id"]) == ("Email Opened", "u2")
    assert row["properties"] == {"subject": "Hi"}


async def test_a_resent_event_is_stored_once(collector: CollectorProcess) -> None:
    event = {"type": "track", "event": "E", "userId": "u", "messageId": "same"}
    collector.post("/v1/batch", {"batch": [event] * 50})
    for _ in range(25):
        collector.post("/v1/track", event)
    collector.wait_until_stored()
    collector.stop()
    collector.start()
    for _ in range(25):
        collector.post("/v1/track", event)
    facts = collector.wait_until_stored()
    (row,) = await collector.rows("select count(*) from collector.events")
    assert row["count"] == 1
    (books,) = facts["store"]["sources"]
    assert books["accepted"] == 100
    assert (books["stored"], books["duplicate"], books["missing"]) == (1, 99, 0)


async def test_the_latest_traits_of_a_user_are_kept(collector: CollectorProcess) -> None:
    batch = [
        {"type": "identify", "userId": "u", "traits": {"a": 1, "b": 1}},
        {"type": "identify", "userId": "u", "traits": {"b": 2, "c": None}},
    ]
    collector.post("/v1/batch", {"batch": batch})
    collector.wait_until_stored()
    collector.post("/v1/identify", {"userId": "u", "context": {"traits": {"c": 3}}})
    collector.wait_until_stored()
    (row,) = await collector.rows("select traits from collector.users")
    assert row["traits"] == {"a": 1, "b": 2, "c": 3}


async def test_one_bad_event_never_costs_the_others(collector: CollectorProcess) -> None:
    good = '{"type":"track","event":"Good","userId":"u","properties":{"a":1}}'
    bad = [
        '{"type":"track","event":"NaN","userId":"u","properties":{"a":NaN}}',
        '{"type":"track","event":"Big","userId":"u","properties":{"a":1e131071}}',
        '{"type":"track","event":"Deep","userId":"u","properties":' + "[" * 3000 + "]" * 3000 + "}",
        '{"type":"nothing"}',
        "null",
        '{"type":"track","event":"Nul\\u0000","userId":"u"}',
    ]
    body = '{"batch":[' + ",".join([good, *bad, good.replace("Good", "Last")]) + "]}"
    status, answer = collector.post("/v1/batch", body.encode())
    assert status == 200
    assert [entry["index"] for entry in answer["rejected"]] == [2, 3, 4, 5]
    facts = collector.wait_until_stored()
    rows = await collector.rows("select event, properties from collector.events order by seq")
    assert [row["event"] for row in rows] == ["Good", "NaN", "Nul", "Last"]
    assert rows[1]["properties"] == {"a": None}
    rejected = await collector.rows("select * from collector.rejected_events order by id")
    assert {row["reason"] for row in rejected} == {
        "number_out_of_range",
        "too_deep",
        "unknown_type",
        "not_an_object",
    }
    (books,) = facts["store"]["sources"]
    assert (books["accepted"], books["stored"], books["rejected"]) == (8, 4, 4)
    assert json.dumps(answer)
