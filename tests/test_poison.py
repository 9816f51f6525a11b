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
from typing import NamedTuple

import asyncpg
import pytest

from tests.conftest import PostgresServer
from tests.process import CollectorProcess
from tests.rawhttp import Answer, Wire, basic, encode
from tests.recordings import load

STORED = "stored"
TABLES = ("events", "users", "rejected_events", "accounting")
JSON_COLUMNS = ("context", "properties", "traits", "integrations", "extra")
FIELDS = (
    *("type", "event", "name", "category", "messageId", "userId", "anonymousId", "groupId"),
    *("previousId", "timestamp", "originalTimestamp", "sentAt", "writeKey", "context"),
    *("properties", "traits", "integrations", "channel", "_metadata", "unknown"),
)
INSIDE_CONTEXT = (
    *("ip", "userAgent", "direct", "library", "page", "campaign", "clickIds", "traits", "locale"),
)
WRONG = ("true", "1.5", "42", "{}", "[]", '""', "null", '["a",{"b":[1]}]', '{"a":{"b":[null]}}')


class Poison(NamedTuple):
    """One event as text, and what may become of it: `stored` or the codes of its refusal."""

    name: str
    text: bytes
    outcomes: set[str]
    path: str = "/v1/track"


def track(name: str, members: str | bytes, *outcomes: str) -> Poison:
    """A track call with *members* after the ones that it needs."""
    more = members if isinstance(members, bytes) else members.encode("utf-8", "surrogatepass")
    text = b'{"type":"track","event":"Bad","userId":"u",' + more + b"}"
    return Poison(name, text, set(outcomes or (STORED,)))


def properties(name: str, value: str | bytes, *outcomes: str) -> Poison:
    text = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return track(name, b'"properties":{"a":' + text + b"}", *outcomes)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def objects(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


POISONS = [
    # what text columns and jsonb do not hold
    properties("NUL as an escape", '"a\\u0000b"'),
    properties("NUL as a byte", b'"a\x00b"'),
    properties("an escaped backslash before u0000", '"a\\\\u0000b"'),
    track("NUL in a key", '"properties":{"a\\u0000b":1,"\\u0000":2}'),
    track("NUL in a key at the top", '"a\\u0000b":1'),
    track("NUL in ids", '"messageId":"nul\\u0000id","anonymousId":"\\u0000","groupId":"g\\u0000"'),
    track("NUL in names", '"event":"a\\u0000b","name":"\\u0000","category":"c\\u0000"'),
    track("NUL in times", '"timestamp":"2026-01-01T00:00:00\\u0000Z","sentAt":"\\u0000"'),
    track("NUL in context", '"context":{"ip":"1\\u0000","page":{"url":"a?utm_source=\\u0000%00"}}'),
    track("an event that is nothing but NUL", '"event":"\\u0000"', "missing_event"),
    properties("half a character as an escape", '"\\ud83d"'),
    properties("the other half", '"\\udc00\\ud83d"'),
    properties("half a character as bytes", b'"\xed\xa0\xbd"'),
    track("half a character in a key", '"properties":{"\\ud83d":1}'),
    track("half a character in ids", '"messageId":"\\ud83d-id","anonymousId":"\\udfff"'),
    track("half a character in names", '"event":"\\ud83d","category":"\\ud83d"'),
    track("half a character in context", '"context":{"userAgent":"\\ud83d","x":"\\ud83d"}'),
    properties("bytes that are no UTF-8", b'"\xff\xfe\xc3"'),
    track("ids that are no UTF-8", b'"messageId":"\xff-id","anonymousId":"\xc3\x28"'),
    track("a key that is no UTF-8", b'"properties":{"\xff":1}'),
    properties("characters that are none", '"\\uffff\\ufffe\\ufdd0"'),
    properties("control characters", b'"a\x01\x1f\n\tb\x7f"'),
    # numbers
    properties("NaN", "NaN"),
    properties("Infinity", "Infinity"),
    properties("-Infinity", "-Infinity"),
    properties("1e400", "1e400", "number_out_of_range"),
    properties("-1e400", "-1e400", "number_out_of_range"),
    properties("1E+400", "1E+400", "number_out_of_range"),
    properties("1e131071", "1e131071", "number_out_of_range"),
    properties("1e-131071", "1e-131071", "number_out_of_range"),
    properties("1e-400", "1e-400", "number_out_of_range", STORED),
    properties("1e99999999999999", "1e99999999999999", "number_out_of_range"),
    properties("0e99999999999999", "0e99999999999999", "number_out_of_range", STORED),
    properties("an integer of 5,000 digits", "7" * 5000, "number_out_of_range"),
    properties("a fraction of 5,000 digits", "0." + "7" * 5000, "number_out_of_range"),
    properties("5,000 zeroes", "0." + "0" * 5000, "number_out_of_range", STORED),
    properties("an integer of 300 digits", "7" * 300),
    properties("the largest number", "1.7976931348623157e308"),
    properties("the smallest number", "5e-324"),
    properties("just above the largest", "1.8e308", "number_out_of_range"),
    properties("minus zero", "[-0, -0.0, 0e0]"),
    properties("numbers JSON does not know", "[+1, .5, 1., 0x10, 01]", "bad_json"),
    track("a number in context", '"context":{"screen":{"density":1e999}}', "number_out_of_range"),
    track("a number at the top", '"extra":1e131071', "number_out_of_range"),
    track("a number that is an id", '"messageId":' + "7" * 5000, "number_out_of_range"),
    track("a number that is a name", '"name":1e999', "number_out_of_range", "wrong_type"),
    track("numbers that are times", '"timestamp":1e308,"sentAt":-1e308,"originalTimestamp":0'),
    # nesting
    properties("3,000 arrays", nested(3000), "too_deep"),
    properties("100,000 arrays", nested(100_000), "too_deep"),
    properties("3,000 objects", objects(3000), "too_deep"),
    properties("20,000 objects", objects(20_000), "too_deep"),
    properties("99 arrays", nested(97)),
    properties("101 arrays", nested(101), "too_deep"),
    track("deep context", '"context":{"a":' + nested(3000) + "}", "too_deep"),
    track("a deep unknown member", '"unknown":' + nested(3000), "too_deep"),
    # sizes
    track("an id of 3 kB", '"messageId":"' + "m" * 3000 + '"', "id_too_long"),
    track("a user id of 3 kB", '"userId":"' + "u" * 3000 + '"', "id_too_long"),
    track("a name of 300 kB", '"name":"' + "n" * 300_000 + '"', "event_too_large"),
    track("an event of 300 kB", '"pad":"' + "x" * 300_000 + '"', "event_too_large"),
    track("an event of 250 kB", '"properties":{"pad":"' + "x" * 250_000 + '"}'),
    track("100 kB of backslashes", '"properties":{"pad":"' + "\\\\" * 50_000 + '"}'),
    track("15,000 members", ",".join(f'"k{n}":{n}' for n in range(15_000))),
    track("a key of 100 kB", '"properties":{"' + "k" * 100_000 + '":1}'),
    track("an id that no index takes", '"userId":"' + "\U0001f600" * 600 + '"', "id_too_long"),
    # times
    track("the year 275760", '"timestamp":"+275760-09-13T00:00:00.000Z"'),
    track("the year 0", '"timestamp":"0000-01-01T00:00:00Z"'),
    track("the year 1", '"timestamp":"0001-01-01T00:00:00+14:00"'),
    track("the year 9999", '"timestamp":"9999-12-31T23:59:59-14:00"'),
    track("the year 294277", '"timestamp":"294277-01-09T04:00:54Z"'),
    track(
        "a skew of 20,000 years",
        '"timestamp":"9999-12-29T00:00:00Z","sentAt":"0001-01-03T00:00:00Z"',
    ),
    track("a leap second", '"timestamp":"2016-12-31T23:59:60Z"'),
    track("no time", '"timestamp":"never","originalTimestamp":"","sentAt":"Infinity"'),
    # keys
    track("keys twice", '"event":"Bad","userId":"v","properties":{"a":1,"a":{"a":2,"a":3}}'),
    track("a type twice", '"type":"track","context":{"ip":"1"},"context":{"ip":"2"}'),
    track("empty keys", '"":1,"properties":{"":{"":null}}'),
    track("keys that objects have", '"__proto__":{"a":1},"constructor":1,"collector":{"x":1}'),
    track("our own notes", '"collector":{"flags":["mine"]},"timestamp":"never"'),
    # names that are columns, words of SQL, and things that look like binary COPY
    track("words of SQL", '"event":"\'; drop table collector.events; --","name":"\\\\."'),
    track("what ends a COPY", '"event":"\\\\N","properties":{"a":"\\\\.\\n\\\\N\\t"}'),
    track("binary", b'"event":"PGCOPY\\n\xff","name":"\x7f\x1b[2J"'),
    # structure
    track("a comma too many", '"a":1,', "bad_json"),
    track("a colon too few", '"a" 1', "bad_json"),
    track("a word that is none", '"a":undefined', "bad_json"),
    track("single quotes", "'a':'b'", "bad_json"),
    track("a comment", '/* a */"a":1', "bad_json"),
    track("an escape that is none", '"a":"\\x41"', "bad_json"),
    track("half an escape", '"a":"\\u12"', "bad_json"),
    Poison("null", b"null", {"not_an_object"}),
    Poison("an array", b"[]", {"not_an_object"}),
    Poison("text", b'"text"', {"not_an_object"}),
    Poison("a number", b"42", {"not_an_object"}),
    Poison("true", b"true", {"not_an_object"}),
    Poison("NaN alone", b"NaN", {"not_an_object", "bad_json"}),
    Poison("an array of events", b'[{"type":"track","event":"E"}]', {"not_an_object"}),
    Poison("an empty object", b"{}", {"missing_type", "missing_event"}),
    Poison("a batch inside", b'{"type":"batch","batch":[]}', {"unknown_type", "missing_event"}),
    Poison("a word", b"hello", {"bad_json"}),
    *(
        Poison(
            f"identify with traits {name}",
            b'{"type":"identify","userId":"poisoned","traits":' + text + b"}",
            outcomes,
            "/v1/identify",
        )
        for name, text, outcomes in (
            ("that hold NUL", b'{"a\\u0000":"b\\u0000"}', {STORED}),
            ("that hold NaN", b'{"a":NaN,"b":[Infinity]}', {STORED}),
            ("that are too large", b'{"a":1e131071}', {"number_out_of_range"}),
            ("that are text", b'"text"', {"wrong_type"}),
            ("twice", b'{"a":1,"a":2},"traits":{"c":"\\ud83d"}', {STORED}),
        )
    ),
]

ALLOWED = {
    *(STORED, "wrong_type", "unknown_type", "missing_type", "missing_event"),
}


def wrong_types() -> Iterator[Poison]:
    """Every field with every kind of value; what may become of each is one of a few things."""
    for field, value in itertools.product(FIELDS, WRONG):
        members = {"type": '"track"', "event": '"Bad"', "userId": '"u"'} | {field: value}
        text = ",".join(f'"{name}":{item}' for name, item in members.items())
        yield Poison(f"{field} = {value}", f"{{{text}}}".encode(), ALLOWED)
    for field, value in itertools.product(INSIDE_CONTEXT, WRONG):
        text = f'{{"type":"track","event":"Bad","userId":"u","context":{{"{field}":{value}}}}}'
        yield Poison(f"context.{field} = {value}", text.encode(), {STORED})
    for call, value in itertools.product(("identify", "group", "alias", "page", "screen"), WRONG):
        for field in ("userId", "groupId", "previousId", "traits"):
            members = {"userId": '"u"', "groupId": '"g"', "previousId": '"p"'} | {field: value}
            text = ",".join(f'"{name}":{item}' for name, item in members.items())
            yield Poison(
                f"{call}.{field} = {value}",
                f'{{"type":"{call}",{text}}}'.encode(),
                ALLOWED | {"missing_group_id", "missing_user_id", "missing_previous_id"},
                f"/v1/{call}",
            )


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


TOKENS = [
    *(b"\\u0000", b"\\ud83d", b"\\", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\x00", b"\xff"),
    *(b"NaN", b"-Infinity", b"1e999", b"1e-999", b"null", b"true", b"{}", b"[]", b'""', b"0" * 500),
    *(
        b"9" * 450,
        b'"\\u0000"',
        b'{"a":1e131071}',
        b'"\xed\xa0\xbd"',
        b"\xef\xbb\xbf",
        b" ",
        b"\n",
        b"e9",
    ),
    *(b"[" * 150 + b"]" * 150, b'"messageId":', b'"batch":', b'"type":"track",', b"-", b".", b"E"),
    *(b'"timestamp":"+275760-09-13T00:00:00.000Z",', b'"userId":1e400,', b"42", b"1.5"),
]


def damaged(body: bytes, chance: random.Random) -> bytes:
    """*body* after a few accidents, most of them where a value begins or ends."""
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        edges = [at for at, byte in enumerate(body) if byte in b':,[]{}"']
        at = chance.choice(edges) + chance.choice([0, 1]) if edges else 0
        match chance.randrange(5):
            case 0:
                body = body[:at] + chance.choice(TOKENS) + body[at:]
            case 1:
                body = body[:at] + body[at + chance.choice([1, 1, 3, 30]) :]
            case 2:
                end = min((edge for edge in edges if edge > at), default=len(body))
                body = body[:at] + chance.choice(TOKENS) + body[end:]
            case 3:
                part = body[at : at + chance.choice([1, 20, 300])]
                body = body[:at] + part + body[at:]
            case _:
                at = chance.randrange(len(body) + 1)
                body = body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
    return body


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
