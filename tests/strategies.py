"""JSON as text for property tests: any value, spaced in any way, with poison in it."""

import json
import uuid

from hypothesis import strategies as st

from collector.event import BATCH
from tests.poisons import FIELDS, INSIDE_CONTEXT

Bodies = st.SearchStrategy[bytes]
Members = st.SearchStrategy[tuple[bytes, bytes]]

spaces = st.sampled_from([b"", b"", b"", b" ", b"\n\t ", b" " * 70])
digits = st.one_of(
    st.integers(0, 10**18).map(str),
    st.builds(
        str.__mul__, st.sampled_from("0179"), st.sampled_from([1, 9, 199, 200, 201, 308, 309])
    ),
    st.builds(str.__mul__, st.sampled_from("0179"), st.integers(1, 450)),
)
exponents = st.builds(
    "{}{}{}".format,
    st.sampled_from("eE"),
    st.sampled_from(["", "+", "-"]),
    st.one_of(
        st.integers(0, 500).map(str),
        st.sampled_from(["05", "007", "0307", "308", "309", "324", "399", "400", "131071"]),
    ),
)
numbers = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}".encode(),
    st.sampled_from(["", "-"]),
    digits.map(lambda whole: whole.lstrip("0") or "0"),
    st.one_of(st.just(""), digits.map(".{}".format)),
    st.one_of(st.just(""), exponents),
)
words = st.sampled_from(
    [
        *(
            "",
            "a",
            "batch",
            "7e412",
            "e412,",
            "1e500]",
            '"',
            "\\",
            '\\"',
            "\\\\",
            "u0000",
            "\\u0000",
        ),
        *(
            "{[",
            "]}",
            "},{",
            '"],',
            "é",
            "😀",
            "\x01",
            "\n",
            "9" * 250,
            str(uuid.UUID(int=7 << 99)),
        ),
    ]
)
strings = st.one_of(st.text(max_size=8), st.lists(words, max_size=4).map("".join))
quoted = st.one_of(
    strings.map(lambda text: json.dumps(text).encode()),
    strings.map(lambda text: json.dumps(text, ensure_ascii=False).encode()),
)
rotten = st.sampled_from(
    [rb'"\u0000"', rb'"x\\\u0000y"', rb'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"']
)
untidy = st.sampled_from([b"NaN", b"Infinity", b"-Infinity", rb'"\ud83d"', b'"a\x01\x00\n"'])


def json_of(*leaves: Bodies) -> Bodies:
    def array(items: list[bytes], space: bytes) -> bytes:
        return b"[" + space + (space + b"," + space).join(items) + space + b"]"

    def record(items: list[tuple[bytes, bytes]], space: bytes) -> bytes:
        colon = space + b":" + space
        return b"{" + (space + b",").join(space + k + colon + v for k, v in items) + space + b"}"

    return st.recursive(
        st.one_of(st.sampled_from([b"true", b"false", b"null"]), numbers, quoted, *leaves),
        lambda inner: st.one_of(
            st.builds(array, st.lists(inner, max_size=5), spaces),
            st.builds(record, st.lists(st.tuples(quoted, inner), max_size=5), spaces),
            st.builds(lambda value, n: b"[" * n + value + b"]" * n, inner, st.integers(1, 20)),
        ),
        max_leaves=12,
    )


valid_or_poison = json_of(rotten)
anything = json_of(rotten, untidy)


# --- events as senders write them, and as they should not -----------------------------------------

times = st.one_of(
    st.datetimes().map(lambda at: json.dumps(at.isoformat() + "Z").encode()),
    st.sampled_from(
        [b'"2026-01-01T00:00:00+02:00"', b'"9999-12-31T23:59:59-14:00"', b'"0001-01-01T00:00:00Z"',
         b'"1790000000"', b'"1790000000000.5"', b"1790000000", b"-1e300", b'"1e400"', b'"20260101"',
         b'""', b"[]", b'"NaN"', b'"inf"', rb'"\u0661\u0662"', b'"2026-W01-1"', b'" 5 "']
    ),
)  # fmt: skip
urls = st.builds(
    lambda query: json.dumps("https://shop.test/?" + query).encode(),
    st.lists(
        st.sampled_from(
            ["utm_source=news", "utm_campaign=a%00b", "UTM_Term=%ED%A0%80", "gclid=1", "fbclid=",
             "utm_=x", "utm_%00=y", "#", "?", "a=b", "utm_source=" + "x" * 300, "wbraid=2", "&&"]
        ),
        max_size=4,
    ).map("&".join),
)  # fmt: skip
brief = st.one_of(quoted, st.integers(-(2**65), 2**65).map(lambda n: b"%d" % n))
long = st.builds(
    lambda character, count: json.dumps(character * count, ensure_ascii=False).encode(),
    st.sampled_from("mü😀"),
    st.integers(120, 1_100),
)


def members(*pairs: Members) -> Bodies:
    """An object of such members, in any order, some twice."""
    return st.lists(st.one_of(*pairs), max_size=9).map(
        lambda found: b"{" + b",".join(name + b":" + value for name, value in found) + b"}"
    )


def named(names: tuple[str, ...], values: Bodies) -> Members:
    return st.tuples(st.sampled_from(names).map(lambda name: b'"%s"' % name.encode()), values)


def objects(leaf: Bodies) -> Bodies:
    return members(st.tuples(quoted, leaf))


def contexts(leaf: Bodies) -> Bodies:
    page = members(named(("url", "search", "title"), urls | leaf), st.tuples(quoted, leaf))
    return members(
        named(("page",), page | leaf),
        named(("library",), members(named(("name", "env"), st.just(b'"analytics-node"') | leaf))),
        named(INSIDE_CONTEXT, leaf),
        st.tuples(quoted, leaf),
    )


BEGINNINGS = (
    b"",
    b'"type":"track","event":"Order Completed",',
    b'"type":"track","event":"E","userId":"u",',
    b'"type":"identify","userId":"u","traits":{"a":1},',
    b'"type":"page","messageId":"m","anonymousId":"a",',
    b'"type":"group","groupId":"g",',
    b'"type":"alias","userId":"u","previousId":"p",',
)


def events_of(leaf: Bodies) -> Bodies:
    """One event as text: right for the most part, each member of it wrong at times."""
    ids = ("messageId", "userId", "anonymousId", "groupId", "previousId")
    rest = members(
        named((*ids, "name", "category"), brief),
        named((*ids, "event", "name", "category"), brief | long),
        named(("timestamp", "originalTimestamp", "sentAt"), times),
        named(("context",), contexts(leaf)),
        named(("properties", "traits", "integrations"), objects(leaf)),
        named(("channel", "_metadata", "unknown"), leaf),
        named(FIELDS, leaf),
        st.tuples(quoted, leaf),
    )
    return st.builds(
        lambda first, more: b"{" + (first[:-1] if more == b"{}" else first) + more[1:],
        st.sampled_from(BEGINNINGS),
        rest,
    )


def batches_of(event: Bodies, leaf: Bodies) -> Bodies:
    """A batch of such events, with something beside them."""
    beside = st.one_of(
        named(("sentAt", "timestamp"), times),
        named(("context",), contexts(leaf)),
        named(("integrations", "other"), objects(leaf)),
        named(("sentAt", "context", "integrations", "writeKey"), leaf),
    )

    def batch(events: list[bytes], more: list[tuple[bytes, bytes]]) -> bytes:
        own = b'"batch":[' + b",".join(events) + b"]"
        return b"{" + b",".join([own, *(name + b":" + value for name, value in more)]) + b"}"

    return st.builds(batch, st.lists(event, max_size=4), st.lists(beside, max_size=3))


# Cheaper than values made anew, which fill most of an event with what nobody looks at.
samples = st.sampled_from(
    [b"true", b"null", b"0", b"-1.5e3", b'""', b'"a"', b"[]", b"{}", b'{"a":1}', b"[[]]", b'"\\\\"',
     b'{"a":{"b":[1,null,"x"]},"c":1.10}', b"[1, 2 ,3]", b' {"a" : 1 } ', b"9007199254740993",
     b'"\\ud83d\\ude00"', '"Größe 😀"'.encode(), b'{"a":1,"a":2}', b'{"":0}', b"[{}]", b"7" * 300,
     b'{"type":"track","batch":[]}', b'"2026-01-01"', b'{"utm_source":"x"}']
)  # fmt: skip
valid = samples | numbers | quoted
wrong = samples | rotten | untidy | numbers
valid_events = events_of(valid)
valid_bodies = valid_events | batches_of(valid_events, valid)
any_events = events_of(wrong)
any_bodies = any_events | batches_of(any_events | wrong, wrong)


def requests_of(event: Bodies, leaf: Bodies) -> st.SearchStrategy[tuple[str, bytes]]:
    """A call, and a body that is meant for it."""
    return st.tuples(st.sampled_from(["identify", "page", "screen"]), event) | st.tuples(
        st.just(BATCH), batches_of(event, leaf)
    )


valid_requests = requests_of(valid_events, valid)
any_requests = requests_of(any_events, wrong)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body in which a piece was replaced by a few bytes."""
    body = draw(any_bodies)
    start = draw(st.integers(0, len(body)))
    end = draw(st.integers(start, min(len(body), start + 20)))
    return body[:start] + draw(st.binary(max_size=3)) + body[end:]
