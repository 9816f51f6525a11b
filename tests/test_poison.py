"""
Poison: whatever one event holds, its neighbours are stored, it is explained, and all can be read.

Each poison goes to the real process alone and in the middle of a batch of good events.
"""

import asyncio
import base64
import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator

import asyncpg
import pytest

from tests.conftest import PostgresServer
from tests.poisons import POISONS, STORED, Poison, damaged, nested, wrong_types
from tests.process import CollectorProcess
from tests.rawhttp import Answer, Wire, basic, encode
from tests.recordings import load

TABLES = ("events", "users", "rejected_events", "accounting")
JSON_COLUMNS = ("context", "properties", "traits", "integrations", "extra")


@pytest.fixture(scope="module")
def collector(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CollectorProcess]:
    """One process for all of this: what poisons it would be seen by those who come later."""
    name = "poisoned"
    asyncio.run(postgres.execute(f"create database {name} template template owner collector"))
    config = '[[sources]]\nname = "shop"\nwrite_key = "demo"\n'
    process = CollectorProcess(
        tmp_path_factory.mktemp("poison") / "data",
        postgres.dsn(name),
        config,
        INGEST_REFUSALS_KEPT_PER_MINUTE="1000000",
    )
    process.start()
    yield process
    process.kill()


class Sender:
    """Posts over one connection, and opens another when the collector hung up."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wire: Wire | None = None

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        if self._wire is None:
            self._wire = await Wire.open(self._port)
        pairs = {"Authorization": basic("demo")} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        await self._wire.send(encode("POST", path, pairs, body))
        answer = await self._wire.answer()
        assert answer.status < 500, (path, body[:200], answer)
        if answer.header("Connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._wire is not None:
            self._wire.writer.close()
            self._wire = None


def good(number: int) -> bytes:
    event = {
        "type": "track",
        "event": "Good",
        "userId": f"good-{number % 7}",
        "messageId": f"good-{number}",
        "properties": {"n": number, "text": 'Ünï, "[{" }]\\ 😀'},
    }
    return json.dumps(event, ensure_ascii=bool(number % 2)).encode()


class Books:
    """What the collector says became of all events."""

    def __init__(self, collector: CollectorProcess) -> None:
        self._collector = collector
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        (books,) = self._collector.wait_until_stored(120)["store"]["sources"] or [{}]
        return {word: count for word, count in books.items() if isinstance(count, int)}

    def moved(self) -> dict[str, int]:
        now = self._now()
        assert now["missing"] == 0, now
        assert now.get("lost", 0) == 0, now
        return {word: count - self._before.get(word, 0) for word, count in now.items()}


async def assert_readable(collector: CollectorProcess) -> int:
    """Read every row of every table as rows, as text and as JSON, as people and programs would."""
    connection = await asyncpg.connect(collector.dsn)
    try:
        rows = 0
        for table in TABLES:
            found = await connection.fetch(f"select t.*, t::text as whole from collector.{table} t")
            rows += len(found)
            await connection.fetch(f"select to_jsonb(t)::text from collector.{table} t")
        for column in JSON_COLUMNS:
            found = await connection.fetch(
                f"select {column}::text as plain, jsonb_pretty({column}) as pretty, "
                f"jsonb_typeof({column}) as kind, (select count(*) from jsonb_each_text({column})) "
                f"from collector.events where {column} is not null"
            )
            assert {row["kind"] for row in found} <= {"object"}
            for row in found:
                assert json.loads(row["plain"]) == json.loads(row["pretty"])
        await connection.fetch(
            "select min(timestamp), max(timestamp - received_at), "
            "max(extract(epoch from original_timestamp)), min(sent_at)::text from collector.events"
        )
        return rows
    finally:
        await connection.close()


async def send_all(
    collector: CollectorProcess, poisons: list[Poison], *, together: int
) -> tuple[int, int]:
    """Send each alone, then *together* in batches between good ones; how many were turned down."""
    sender = Sender(collector.port)
    alone = refused = 0
    for poison in poisons:
        answer = await sender.post(poison.path, poison.text)
        if answer.status == 200:
            assert STORED in poison.outcomes, poison.name
            assert answer.body == b'{"success":true}'
            continue
        alone += 1
        told = answer.json()
        assert (answer.status, told["success"]) == (400, False), poison.name
        assert told["code"] in poison.outcomes, (poison.name, told)
        assert told["message"]
    numbers = itertools.count(
        int((await collector.rows("select count(*) from collector.events"))[0]["count"])
    )
    for at in range(0, len(poisons), together):
        part = poisons[at : at + together]
        pieces = [good(next(numbers))]
        for poison in part:
            pieces += [poison.text, good(next(numbers))]
        answer = await sender.post("/v1/batch", b'{"batch":[' + b",".join(pieces) + b"]}")
        told = answer.json()
        assert (answer.status, told["success"]) == (200, True), [p.name for p in part]
        named = {entry["index"]: entry for entry in told.get("rejected", [])}
        assert told.get("rejected_count", 0) == len(named)
        refused += len(named)
        for number, poison in enumerate(part):
            entry = named.pop(2 * number + 1, None)
            code = STORED if entry is None else entry["code"]
            # In a batch the type comes from the event, and not from the path.
            assert code in poison.outcomes | {"missing_type", "unknown_type"}, (poison.name, entry)
            assert entry is None or entry["message"]
        assert not named, f"good events were turned down: {named}"
    sender.close()
    return alone, refused


@pytest.mark.parametrize("together", [1, 20])
async def test_poison_costs_nothing_but_itself(collector: CollectorProcess, together: int) -> None:

    poisons = POISONS
    books = Books(collector)
    sql = "select count(*) from collector.events where event = 'Good'"
    before = (await collector.rows(sql))[0]["count"]
    kept = (await collector.rows("select count(*) from collector.rejected_events"))[0]["count"]
    alone, refused = await send_all(collector, poisons, together=together)
    moved = books.moved()
    batches = -(-len(poisons) // together)
    assert moved["accepted"] == (len(poisons) - alone) + 2 * len(poisons) + batches
    assert moved["rejected"] == refused
    assert moved["stored"] + moved["duplicate"] == moved["accepted"] - refused
    assert (await collector.rows(sql))[0]["count"] - before == len(poisons) + batches
    rejected = await collector.rows("select * from collector.rejected_events")
    assert len(rejected) - kept == alone + refused
    assert all(row["reason"] and row["detail"] for row in rejected)
    assert sum(not row["accepted"] for row in rejected) >= alone
    assert "poison" not in {row["reason"] for row in rejected}
    await assert_readable(collector)


async def test_every_field_may_have_every_type(collector: CollectorProcess) -> None:
    poisons = list(wrong_types())
    assert len(poisons) > 400
    books = Books(collector)
    _, refused = await send_all(collector, poisons, together=40)
    moved = books.moved()
    assert moved["rejected"] == refused
    assert moved["stored"] + moved["duplicate"] == moved["accepted"] - refused
    await assert_readable(collector)


async def test_what_was_repaired_is_what_was_meant(collector: CollectorProcess) -> None:
    sender = Sender(collector.port)
    sent = {
        "repaired-nul": (b'"a\\u0000b"', "ab"),
        "repaired-backslash": (b'"a\\\\u0000b"', "a\\u0000b"),
        "repaired-half": (b'"x\\ud83dy"', "x\ufffdy"),
        "repaired-whole": (b'"\\ud83d\\ude00"', "😀"),
        "repaired-bytes": (b'"\xff"', "\ufffd"),
        "repaired-nan": (b"[NaN,-Infinity,1]", [None, None, 1]),
        "repaired-control": (b'"a\x01b"', "a\x01b"),
        "repaired-big": (b"9007199254740993", 9007199254740993),
        "repaired-digits": (b"7" * 300, int("7" * 300)),
        "repaired-twice": (b'{"x":1,"x":2}', {"x": 2}),
    }
    for message_id, (text, _) in sent.items():
        body = b'{"event":"Repaired","messageId":"%s","properties":{"a":%s}}'
        answer = await sender.post("/v1/track", body % (message_id.encode(), text))
        assert answer.status == 200
    sender.close()
    collector.wait_until_stored()
    sql = "select message_id, properties from collector.events where event = 'Repaired'"
    found = {row["message_id"]: row["properties"]["a"] for row in await collector.rows(sql)}
    assert found == {message_id: value for message_id, (_, value) in sent.items()}


@pytest.mark.parametrize("path", ["/v1/track", "/v1/batch", "/v1/m", "/v1/identify"])
async def test_bodies_that_are_no_object_are_4xx(collector: CollectorProcess, path: str) -> None:
    sender = Sender(collector.port)
    for body in (
        *(b"", b" ", b"null", b"[]", b'"text"', b"42", b"true", b"NaN", b"[[[", b"]", b"}", b'"'),
        *(b"{" * 100_000, b"[" * 100_000, b'{"batch":' + b"[" * 100_000, b"\x00", b"\xff\xfe"),
        *(b'{"batch":[{"a":"', b'{"batch":[}', b'{"batch":[{]}', b'{"batch":[1,2', b"\xef\xbb\xbf"),
        *(
            b'{"a":1}' * 1000,
            b",",
            b'{"batch":[],"batch":',
            gzip.compress(b"{}"),
            bytes(range(256)),
        ),
    ):
        answer = await sender.post(path, body)
        assert 400 <= answer.status < 500, (body[:40], answer)
        told = answer.json()
        assert told["code"]
        assert told["message"]
    sender.close()


async def test_zipped_poison_is_poison(collector: CollectorProcess) -> None:
    sender = Sender(collector.port)
    books = Books(collector)
    pieces = [good(n) for n in range(100_000, 100_050)]
    pieces[25:25] = [
        b'{"type":"track","event":"Deep","properties":{"a":' + nested(5000).encode() + b"}}"
    ]
    body = gzip.compress(b'{"batch":[' + b",".join(pieces) + b"]}")
    answer = await sender.post("/v1/batch", body, Content_Encoding="gzip")
    assert [(r["index"], r["code"]) for r in answer.json()["rejected"]] == [(25, "too_deep")]
    moved = books.moved()
    assert (moved["accepted"], moved["stored"], moved["rejected"]) == (51, 50, 1)
    sender.close()


async def test_the_largest_bodies_are_stored(collector: CollectorProcess) -> None:
    sender, books = Sender(collector.port), Books(collector)
    few = [
        {
            "type": "track",
            "event": "Big",
            "messageId": f"big-{n}",
            "properties": {"a": "å" * 124_000},
        }
        for n in range(41)
    ]
    many = [{"type": "track", "event": "Small", "messageId": f"small-{n}"} for n in range(10_000)]
    for batch in (few, many):
        body = json.dumps({"batch": batch}, ensure_ascii=False).encode()
        assert (await sender.post("/v1/batch", body)).json() == {"success": True}
    moved = books.moved()
    assert (moved["accepted"], moved["stored"]) == (10_041, 10_041)
    sql = "select min(length(properties ->> 'a')) from collector.events where event = 'Big'"
    assert (await collector.rows(sql))[0]["min"] == 124_000
    sender.close()


async def test_poison_in_an_image_address_is_an_image(collector: CollectorProcess) -> None:
    async with await Wire.open(collector.port) as wire:
        for poison in POISONS:
            data = base64.urlsafe_b64encode(poison.text[:20_000]).rstrip(b"=").decode()
            await wire.send(encode("GET", f"/v1/pixel/track?writeKey=demo&data={data}"))
            answer = await wire.answer()
            assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
    Books(collector).moved()


async def test_poison_beside_a_batch_does_not_cost_its_events(collector: CollectorProcess) -> None:
    sender = Sender(collector.port)
    books = Books(collector)
    values = [
        *(b'{"a":1e131071}', b'{"a":"\\u0000"}', b'{"a":NaN}', b'"\\ud83d"', b"1e999", b"\xff"),
        *(nested(3000).encode(), b'{"a":' + nested(3000).encode() + b"}", b"[]", b"-", b"7" * 5000),
    ]
    sent = 0
    for name in ("context", "integrations", "sentAt", "writeKey", "timestamp", "other"):
        for value in values:
            body = b'{"batch":[%s],"%s":%s}' % (good(200_000 + sent), name.encode(), value)
            answer = await sender.post("/v1/batch", body)
            assert answer.json() == {"success": True}, (name, value[:40], answer)
            sent += 1
    moved = books.moved()
    assert (moved["accepted"], moved["stored"]) == (sent, sent)
    sender.close()
    await assert_readable(collector)


async def test_bodies_damaged_by_chance_are_stored_or_explained(
    collector: CollectorProcess,
) -> None:
    chance = random.Random(20261121)
    names = ("segment-python/batch-nan", "segment-node/batch", "rudder-python/batch-plain")
    bodies = [(load(name)[0].body, "/v1/batch") for name in names]
    bodies += [(r.body, r.path) for r in load("segment-browser/standard") if r.method == "POST"]
    sender, books = Sender(collector.port), Books(collector)
    answers = Counter[int]()
    for _ in range(2_500):
        body, path = chance.choice(bodies)
        answer = await sender.post(path, damaged(body, chance))
        answers[answer.status] += 1
        told = answer.json()
        if answer.status == 200:
            assert told["success"] is True
            assert all(entry["code"] and entry["message"] for entry in told.get("rejected", []))
        else:
            assert answer.status == 400
            assert told["code"] not in {"", "internal_error"}
    sender.close()
    assert answers[200] > 500
    assert answers[400] > 500
    moved = books.moved()
    assert moved["accepted"] > 1000
    assert moved["accepted"] == moved["stored"] + moved["duplicate"] + moved["rejected"]
    sql = "select * from collector.rejected_events where reason = 'poison'"
    assert await collector.rows(sql) == []  # all of it was seen before Postgres saw it
    await assert_readable(collector)


async def test_afterwards_the_collector_is_well(collector: CollectorProcess) -> None:
    """Last of all: nothing was logged as a failure, nothing is lost, and a restart changes that."""
    Books(collector).moved()
    rows = await assert_readable(collector)
    metrics = collector.metrics()
    assert metrics.get('collector_ingest_requests_total{status="5xx"}', 0) == 0
    assert metrics.get('collector_ingest_refused_requests_total{reason="internal_error"}', 0) == 0
    assert "Traceback" not in collector.output()
    assert collector.stop() == 0
    collector.start()
    Books(collector).moved()
    assert await assert_readable(collector) == rows


def test_the_list_of_poisons_has_no_name_twice() -> None:
    names = [poison.name for poison in [*POISONS, *wrong_types()]]
    assert len(names) == len(set(names))
