"""Leniency: what real SDKs send is read, what jsonb cannot keep is seen, and neighbours survive."""

import json
import math
import random
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from collector import leniency
from collector.leniency import Envelope, Unreadable, doubtful, repair, split
from tests.strategies import anything, quoted, spaces, valid_or_poison
from tests.strict import is_poison

MEBIBYTE = 1024 * 1024
DEPTH_MAX = 12
unhurried = settings(deadline=None)  # a shared machine stalls for longer than any deadline
accepted_by_msgspec = msgspec.json.Decoder(msgspec.Raw).decode


def accepted(body: bytes) -> bool:
    try:
        accepted_by_msgspec(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def result(read: Callable[[], Any]) -> Any:
    """What *read* returns, or the code with which it refuses."""
    try:
        return read()
    except Unreadable as exc:
        return exc.code


REFUSALS = {"bad_json", "too_deep", "number_out_of_range", "too_many_events"}


# doubtful


@unhurried
@given(valid_or_poison)
def test_what_jsonb_cannot_keep_is_always_doubtful(body: bytes) -> None:
    assume(accepted(body))
    if is_poison(body, DEPTH_MAX):
        assert doubtful(body, depth_max=DEPTH_MAX)


@unhurried
@given(valid_or_poison, st.integers(0, 130))
def test_what_jsonb_cannot_keep_is_always_doubtful_in_a_large_body(body: bytes, shift: int) -> None:
    assume(accepted(body))
    filler = b'["' + b"x" * shift + b'",' + b'{"a":[0]},' * (leniency.MASKS_PAY_FROM_BYTES // 10)
    large = filler + body + b"]"
    if is_poison(large, DEPTH_MAX):
        assert doubtful(large, depth_max=DEPTH_MAX)


@unhurried
@given(valid_or_poison)
def test_what_is_not_doubtful_needs_no_repair(body: bytes) -> None:
    assume(accepted(body))
    if not doubtful(body, depth_max=DEPTH_MAX):
        repaired = repair(body, depth_max=DEPTH_MAX)
        assert literal_values(repaired) == literal_values(body)


@unhurried
@given(st.binary(max_size=300), st.sampled_from([1, leniency.MASKS_PAY_FROM_BYTES]))
def test_any_bytes_may_be_asked_about(body: bytes, times: int) -> None:
    assert doubtful(body * times, depth_max=DEPTH_MAX) in {True, False}


def literal_values(body: bytes) -> Any:
    return json.loads(body, parse_int=str, parse_float=str)


def ordinary_event(seed: int) -> dict[str, Any]:
    luck = random.Random(seed)
    uid = str(uuid.UUID(int=luck.getrandbits(128)))
    return {
        "type": "track",
        "event": "Order Completed",
        "messageId": f"ajs-next-1700000000000-{uid}",
        "anonymousId": str(uuid.UUID(int=luck.getrandbits(128))),
        "timestamp": "2026-11-22T00:02:36.007Z",
        "context": {
            "page": {
                "path": "/EUR/1e500",
                "url": f"https://shop.test/?q={luck.randbytes(9).hex()}",
            },
            "userAgent": "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/156.0.0.0 Edg/156.0.0.0",
            "screen": {"width": luck.randrange(4000), "density": luck.random() * 3},
            "title": 'Größe 5" \\ E\n',
        },
        "properties": {
            "order_id": luck.randbytes(12).hex(),
            "revenue": luck.randrange(10**6) / 100,
            "tiny": luck.random() * 1e-7,
            "products": [
                {"product_id": luck.randbytes(12).hex(), "price": 19, "quantity": n, "tags": []}
                for n in range(3)
            ],
        },
    }


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_ordinary_events_are_not_doubtful_alone_nor_in_a_batch(ensure_ascii: bool) -> None:
    events = [ordinary_event(seed) for seed in range(2_000)]
    bodies = [json.dumps(event, ensure_ascii=ensure_ascii).encode() for event in events]
    assert not any(doubtful(body, depth_max=50) for body in bodies)
    batch = b'{"batch":[' + b",".join(bodies) + b"]}"
    assert len(batch) > leniency.MASKS_PAY_FROM_BYTES
    assert not doubtful(batch, depth_max=100)
    assert not doubtful(b",".join(bodies), depth_max=100)


@pytest.mark.parametrize(
    "bad", [b"1e400", b"-9E+0400", b"0e99999", b"1e-500 ", b"9" * 309, b"0." + b"3" * 400]
)
def test_one_bad_number_makes_its_body_doubtful_however_large(bad: bytes) -> None:
    assert doubtful(bad, depth_max=100)
    assert doubtful(b'{"n":' + bad + b"}", depth_max=100)
    for zeros in range(20_000, 20_000 + 64):
        assert doubtful(b"[" + b"0," * zeros + bad + b"]", depth_max=100)


def test_nesting_is_doubtful_from_one_bracket_too_many() -> None:
    nested, strings = b'[{"a":' * 50 + b"0" + b"}]" * 50, b',"]]]}}}' + b'\\"' * 9 + b'"'
    for wide in (b"", b",[{}]" * 10_000):
        body = b"[" + nested + strings + b"," + nested + wide + b"]"
        assert doubtful(body, depth_max=100)
        assert not doubtful(body, depth_max=101 + 64)


@pytest.mark.parametrize("bad", [b"7" * 210 + b"e99", b"0." + b"0" * 303 + b"7e-99"])
def test_a_long_run_of_digits_is_doubtful_wherever_it_begins(bad: bytes) -> None:
    for shift in range(leniency.STRIDE):
        assert doubtful(b'["' + b"x" * shift + b'",' + bad + b"]", depth_max=100)


# repair


def kept(value: Any) -> Any:
    """What repair should make of *value*, which json.dumps wrote."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [kept(item) for item in value]
    if isinstance(value, dict):
        return {kept(name): kept(item) for name, item in value.items()}
    return value


any_text = st.text(st.characters(exclude_categories=())) | st.text(
    "\0\\u0\ud83d\ude00d8", max_size=9
)
values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**300), 10**300) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=20,
)


@unhurried
@given(values)
def test_repair_keeps_every_value_it_can(value: Any) -> None:
    assert json.loads(repair(json.dumps(value).encode(), depth_max=100)) == kept(value)


@unhurried
@given(anything)
def test_what_was_repaired_is_accepted_everywhere(body: bytes) -> None:
    repaired = result(lambda: repair(body, depth_max=DEPTH_MAX))
    if isinstance(repaired, bytes):
        assert not is_poison(repaired, DEPTH_MAX)
        msgspec.json.decode(repaired)
        assert repair(repaired, depth_max=DEPTH_MAX) == repaired


@unhurried
@given(anything, st.data())
def test_damaged_json_is_repaired_or_refused_never_a_crash(
    body: bytes, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    damaged = body[:start] + data.draw(st.binary(max_size=3)) + body[end:]
    repaired = result(lambda: repair(damaged, depth_max=DEPTH_MAX))
    assert isinstance(repaired, str) or not is_poison(repaired, DEPTH_MAX)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b'{"a":NaN,"b":[Infinity,-Infinity]}', b'{"a":null,"b":[null,null]}'),
        (b'{"a":1.10,"b":9007199254740993}', b'{"a":1.10,"b":9007199254740993}'),
        (b"[1180591620717411303424,-0,1E5,1e-390]", b"[1180591620717411303424,-0,1E5,1e-390]"),
        (rb'"\ud83d x \ude00 \ud83d\ude00"', '"\ufffd x \ufffd 😀"'.encode()),
        (rb'"\ud83d\u0000\ude00"', '"\ufffd\ufffd"'.encode()),
        (rb'"\\ud83d \\u0000"', rb'"\\ud83d \\u0000"'),
        (b'"a\tb\x01\r\n"', rb'"a\tb\u0001\r\n"'),
        (b'{"a\\u0000":"x\x00y\\u0000"}', b'{"a":"xy"}'),
        (b'{"a":1,"a\\u0000":2}', b'{"a":2}'),
        (b'{"a":1,"b":2,"a":3}', b'{"a":3,"b":2}'),
        (b'"caf\xe9"', '"caf\ufffd"'.encode()),
        (b"\xef\xbb\xbf {}\n", b"{}"),
    ],
)
def test_what_has_one_obvious_reading_is_repaired(sent: bytes, stored: bytes) -> None:
    assert repair(sent, depth_max=10) == stored


@pytest.mark.parametrize(
    ("sent", "code", "at"),
    [
        (b"", "bad_json", 0),
        (b'{"a":1', "bad_json", 6),
        (b'{"a":1}{"b":2}', "bad_json", 7),
        (b'{"a":1\x002}', "bad_json", 6),
        ('\ufeff{"é😀":01}'.encode(), "bad_json", 14),
        (b'{"a":"\xff\xff"x}', "bad_json", 9),
        (rb'{"a":"\x41"}', "bad_json", 6),
        (b"{'a':1}", "bad_json", 1),
        (b"[undefined]", "bad_json", 1),
        (b"[-NaN]", "bad_json", 1),
        (b'{"1e400":"1e400","b":[1e400]}', "number_out_of_range", 22),
        (b"[1e-500]", "number_out_of_range", 1),
        (b"[1, 1" + b"0" * 308 + b", 1" + b"0" * 309 + b"]", "number_out_of_range", 315),
        (b"[-0." + b"1" * 399 + b",0." + b"1" * 400 + b"]", "number_out_of_range", 404),
        (b"[1e400,1e400]", "number_out_of_range", 1),
        (b"9" * 5_000, "number_out_of_range", 0),
        (b"1e" + b"9" * 5_000, "number_out_of_range", 0),
        (b"[1e" + b"0" * 5_000 + b"1]", "number_out_of_range", 1),
        (b'["[[[[[[[[[[[[\\"[",' + b"[" * 9 + b"[", "too_deep", 28),
        (b"[" * 11 + b"]" * 11, "too_deep", 10),
        (b"[" * 100_000, "too_deep", 10),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", 50),
    ],
)
def test_what_has_no_reading_is_refused_with_the_place_and_what_to_do(
    sent: bytes, code: str, at: int
) -> None:
    with pytest.raises(Unreadable) as caught:
        repair(sent, depth_max=10)
    assert caught.value.code == code
    assert f" at byte {at}: send " in caught.value.detail
    assert len(caught.value.detail) < 200


def test_a_depth_that_this_python_cannot_read_is_refused_and_not_a_crash() -> None:
    with pytest.raises(Unreadable, match="too_deep"):
        repair(b"[" * 1_000_000 + b"]" * 1_000_000, depth_max=1_000_000)


# split


deep = b"[" * 100_000 + b"]" * 100_000


@unhurried
@given(
    st.lists(st.one_of(anything, st.just(deep), st.just(b'{"a":undefined}')), max_size=6),
    st.dictionaries(quoted, anything, max_size=3),
    st.dictionaries(quoted, anything, max_size=3),
    spaces,
)
def test_split_returns_the_slices_that_a_batch_was_made_of(
    elements: list[bytes], before: dict[bytes, bytes], after: dict[bytes, bytes], space: bytes
) -> None:
    batch = b"[" + space + (space + b"," + space).join(elements) + space + b"]"
    members = [*before.items(), (b'"batch"', batch), *after.items()]
    body = b"{" + b",".join(space + k + space + b":" + space + v + space for k, v in members) + b"}"
    expected = {json.loads(k).replace("\0", ""): v for k, v in members}
    assume(expected.pop("batch") == batch)
    envelope = split(space + body + space, elements_max=6)
    assert envelope.elements == elements
    assert envelope.members == expected


@unhurried
@given(anything, st.data())
def test_a_damaged_batch_is_split_or_refused_never_a_crash(
    body: bytes, data: st.DataObject
) -> None:
    batch = b'{"batch":[' + body + b"," + body + b'],"a":1}'
    start = data.draw(st.integers(0, len(batch)))
    end = data.draw(st.integers(start, len(batch)))
    damaged = batch[:start] + data.draw(st.binary(max_size=3)) + batch[end:]
    envelope = result(lambda: split(damaged, elements_max=100))
    assert envelope == "bad_json" or isinstance(envelope, Envelope)


def test_a_broken_event_does_not_cost_its_neighbours() -> None:
    good = json.dumps(ordinary_event(1)).encode()
    broken = [
        b'{"a":NaN}',
        b'{"a":"\x01\x00\n"}',
        deep,
        b'{"a":"\xff"}',
        b'{"a":b}',
        b"{'a':1}",
        b"\\",
    ]
    for bad in broken:
        envelope = split(b'{"batch":[' + good + b"," + bad + b",\n" + good + b"]}", elements_max=3)
        assert envelope.elements == [good, bad, good]


def test_a_batch_that_is_no_array_or_missing_has_no_elements() -> None:
    assert split(b"\xef\xbb\xbf {}\n", elements_max=1).elements is None
    assert split(b'{"\\u0000a\x00":[1,2]}', elements_max=1).members == {"a": b"[1,2]"}
    assert split(b'{"batch":{"a":[1,2]}}', elements_max=1).members == {"batch": b'{"a":[1,2]}'}
    assert split(b'{"batch":[ ]}', elements_max=1).elements == []


@pytest.mark.parametrize(
    ("body", "code", "at"),
    [
        (b"", "bad_json", 0),
        (b" [1]", "bad_json", 1),
        (b'{"batch":[{"a":1}', "bad_json", 17),
        (b'{"batch":[{"a":1},{"b":"]}', "bad_json", 26),
        (b'{"batch":[1]} {', "bad_json", 13),
        (b'{"batch":[1] 2}', "bad_json", 11),
        (b"{batch:[1]}", "bad_json", 1),
        (b"{" + b'"a":1,' * 1_000 + b'"b":1}', "bad_json", 0),
        (b'{"batch":[1,2,3,4]}', "too_many_events", 9),
    ],
)
def test_a_batch_that_cannot_be_told_apart_is_refused_with_the_place(
    body: bytes, code: str, at: int
) -> None:
    with pytest.raises(Unreadable) as caught:
        split(body, elements_max=3)
    assert caught.value.code == code
    assert f" at byte {at}: send " in caught.value.detail


# Ten mebibytes of what could make a careless scanner quadratic: each of these only has to end.


@pytest.mark.parametrize(
    ("unit", "closing"),
    [
        (b"[", b""),
        (b'{"a":', b""),
        (b"[],", b"0]"),
        (b'"",', b"0]"),
        (b'"', b"]"),
        (b'"\\', b"]"),
        (b"9", b"]"),
        (b"9" * 65 + b",", b"0]"),
        (b'"' + b"9e111 " * 100 + b'",', b"0]"),
        (b'"' + b"\\" * 1_000 + b'",', b"0]"),
        (b'"' + rb"\ud83d\u0000" * 100 + b'",', b"0]"),
        (b" ", b"]"),
    ],
)
def test_ten_mebibytes_of_adversity_are_read_in_one_pass(unit: bytes, closing: bytes) -> None:
    array = b"[" + unit * (10 * MEBIBYTE // len(unit)) + closing
    assert doubtful(array, depth_max=100) in {True, False}
    repaired = result(lambda: repair(array, depth_max=100))
    assert isinstance(repaired, bytes) or repaired in REFUSALS
    envelope = result(lambda: split(b'{"batch":' + array + b"}", elements_max=100))
    assert isinstance(envelope, Envelope) or envelope in REFUSALS


def test_a_batch_of_ten_mebibytes_is_split_into_its_events() -> None:
    event = json.dumps(ordinary_event(3)).encode()
    count = 10 * MEBIBYTE // len(event)
    body = b'{"batch":[' + b",".join([event] * count) + b'],"sentAt":NaN}'
    envelope = split(body, elements_max=count)
    assert envelope.elements == [event] * count
    assert envelope.members == {"sentAt": b"NaN"}
