"""Events that are wrong in every way that was thought of, and some that chance thinks of."""

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

STORED = "stored"
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
