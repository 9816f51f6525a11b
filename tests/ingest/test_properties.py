"""Properties of what reads requests: whatever comes, it is taken, or refused on purpose."""
# ruff: noqa: PT017  most inputs are refused, and some are not

import base64
import gzip
import ipaddress
import json
import zlib
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import assume, example, given
from hypothesis import strategies as st

from collector.errors import BadRequest
from collector.event import BATCH, Envelope, Event, Problem, WireEvent
from collector.ingest import SourceSettings
from collector.ingest.address import Proxies
from collector.ingest.auth import Sources, key_of_basic
from collector.ingest.body import unzip
from collector.ingest.coerce import coerce
from collector.ingest.cors import Cors
from collector.ingest.decode import Decoded, Decoder
from collector.ingest.intake import printable
from collector.ingest.pixel import DEPTH_MAX, nested, unbase64
from collector.ingest.protocol import Reply, Request
from collector.refine import refine
from tests.fuzz.targets import CALLS, LIMITS, SETTINGS, check_decoded, finished, pixel
from tests.strategies import any_bodies, anything, damaged, members, quoted, valid, valid_bodies
from tests.strict import strictly

DECODER = Decoder(SETTINGS)
REFUSALS = {"bad_json", "empty_body", "missing_batch", "too_many_events", "context_too_large"}
EVENT_REFUSALS = {
    *("not_an_object", "wrong_type", "bad_json", "too_deep", "number_out_of_range"),
    *("event_too_large", "too_many_events", "id_too_long", "name_too_long", "missing_type"),
    *("unknown_type", "missing_event", "missing_group_id", "missing_user_id"),
    *("missing_previous_id",),
}
calls = st.sampled_from(CALLS)


def decode(body: bytes, call: str) -> Decoded | None:
    """What *body* says, or None if it was refused with one of the words for it."""
    try:
        return finished(DECODER.decode(body, call))
    except BadRequest as exc:
        assert exc.code in REFUSALS | (EVENT_REFUSALS if call != BATCH else set()), exc
        assert len(exc.detail) > 10
        return None


# --- bodies --------------------------------------------------------------------------------------


@given(any_bodies | damaged() | st.binary(max_size=200), calls, st.booleans())
def test_whatever_comes_is_taken_or_refused_on_purpose(
    body: bytes, call: str, device: bool
) -> None:
    decoded = decode(body, call)
    if decoded is not None:
        assert {problem.code for _, problem in decoded.problems} <= EVENT_REFUSALS
        assert [index for index, _ in decoded.problems] == sorted(
            {index for index, _ in decoded.problems}
        )
        check_decoded(decoded, call, device=device)


GOOD = [
    b'{"type":"track","event":"Good","messageId":"good-%d","properties":{"n":[%d,"]},{"]}}' % (n, n)
    for n in range(3)
]


@given(anything, anything)
def test_what_is_wrong_with_an_event_never_costs_its_neighbours(one: bytes, two: bytes) -> None:
    body = b'{"batch":[' + b",".join([GOOD[0], one, GOOD[1], two, GOOD[2]]) + b"]}"
    decoded = decode(body, BATCH)
    assert decoded is not None
    assert decoded.events == 5
    assert {index for index, _ in decoded.problems} == {1, 3}  # neither is an event, whatever else
    found = refined(decoded)
    assert [event.message_id for event in found] == ["good-0", "good-1", "good-2"]
    assert [json.loads(event.properties or b"") for event in found] == [
        {"n": [n, "]},{"]} for n in range(3)
    ]


def refined(decoded: Decoded, call: str = BATCH) -> list[Event]:
    envelope = Envelope("s", call, 1_790_000_000_000_000, bytes(16), decoded.body)
    return [event for event in refine(envelope, LIMITS) if isinstance(event, Event)]


@given(valid_bodies, calls)
def test_both_speeds_read_the_same(body: bytes, call: str) -> None:
    try:
        fast = DECODER._fast(body, call)
    except (ValueError, RecursionError, BadRequest):
        return
    lenient = DECODER._lenient(body, call)
    assert lenient.refusals == []
    assert (lenient.write_key, lenient.events) == (fast.write_key, fast.events)
    assert lenient.problems == fast.problems
    if call == BATCH or not fast.problems:
        assert [values(e) for e in refined(lenient, call)] == [
            values(e) for e in refined(fast, call)
        ]


def values(event: Event) -> Any:
    """*event* with its JSON columns read."""
    return [
        json.loads(value, parse_float=str, parse_int=str) if isinstance(value, bytes) else value
        for value in msgspec.structs.astuple(event)
    ]


@given(members(st.tuples(quoted, valid)))
@example(b'{"userId":1e300,"timestamp":1e400,"sentAt":-9e99}')
def test_coercion_makes_an_event_or_a_problem(element: bytes) -> None:
    coerced = coerce(element)
    if isinstance(coerced, Problem):
        assert coerced.code in {"wrong_type", "not_an_object"}
    else:
        msgspec.json.decode(coerced, type=WireEvent)


# --- compression ---------------------------------------------------------------------------------

ENCODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
}


@given(st.sampled_from(sorted(ENCODERS)), st.binary(max_size=3_000), st.integers(0, 3_000))
def test_a_body_is_what_was_compressed_or_too_large(name: str, body: bytes, most: int) -> None:
    assume(body or name != "zstd")  # nothing at all is refused, as one that is cut short
    packed = ENCODERS[name](body)
    try:
        assert finished(unzip(packed, name, most)) == body
        assert len(body) <= most or name == "identity"
    except BadRequest as exc:
        assert (exc.code, exc.status) == ("body_too_large", 413)
        assert len(body) > most


@given(st.sampled_from(["gzip", "deflate", "zstd"]), st.binary(max_size=500), st.data())
def test_a_damaged_body_is_refused_or_read_within_bounds(
    name: str, body: bytes, data: st.DataObject
) -> None:
    packed = bytearray(ENCODERS[name](body))
    at = data.draw(st.integers(0, len(packed) - 1))
    if data.draw(st.booleans()):
        packed[at] ^= data.draw(st.integers(1, 255))
    else:
        del packed[at:]
    try:
        found = finished(unzip(bytes(packed), name, 600))
    except BadRequest as exc:
        assert exc.code in {f"bad_{name}", "body_too_large"}
    else:
        assert len(found) <= 600
        if name == "gzip":  # it has a checksum: what passes is what was meant
            assert found == body


# --- images --------------------------------------------------------------------------------------

texts = st.text(max_size=20)
queries = st.lists(
    st.tuples(
        st.sampled_from(
            ["wk", "e", "uid", "p.a", "p.a.b", "p", "p.", "tr.", "c.page.url", "t", "utm_source",
             "utm_", "data", "type", "context.ip", "traits.a.b.c.d.e.f.g.h.i.j.k.l", ".", "", "ts"]
        )
        | texts,
        texts | st.binary(max_size=9),
    ),
    max_size=8,
)  # fmt: skip


@given(st.binary(min_size=1, max_size=300))
def test_any_address_of_an_image_is_read_or_refused(data: bytes) -> None:
    pixel(data)


@given(queries, st.integers(0, 11))
def test_any_parameters_of_an_image_are_read_or_refused(
    pairs: list[tuple[str, str | bytes]], kind: int
) -> None:
    from urllib.parse import urlencode

    pixel(bytes([kind]) + urlencode(pairs, errors="surrogatepass").encode())


@given(st.dictionaries(texts | st.just("p.a.b.c.d.e.f.g.h.i.j.k.l.m"), texts), st.booleans())
def test_dotted_names_never_nest_deeper_than_is_allowed(
    parameters: dict[str, str], short: bool
) -> None:
    def depth(value: object) -> int:
        return 1 + max(map(depth, value.values()), default=0) if isinstance(value, dict) else 0

    assert depth(nested(parameters, short=short)) <= DEPTH_MAX + 2


@given(st.binary(max_size=100), st.booleans(), st.booleans(), st.booleans())
def test_base64_is_read_as_it_is_found_in_the_wild(
    data: bytes, urlsafe: bool, padded: bool, spaces: bool
) -> None:
    text = base64.urlsafe_b64encode(data) if urlsafe else base64.b64encode(data)
    if not padded:
        text = text.rstrip(b"=")
    if spaces:
        text = text.replace(b"+", b" ")
    assert unbase64(text) == data


@given(st.binary(max_size=100))
def test_what_is_no_base64_is_refused(data: bytes) -> None:
    try:
        unbase64(data)
    except BadRequest as exc:
        assert exc.code == "bad_base64"


# --- keys, addresses, headers --------------------------------------------------------------------

header_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text(
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=5
)
keys = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(keys.filter(lambda key: ":" not in key), header_texts)
def test_a_key_is_found_in_basic_auth_whatever_the_password(key: str, password: str) -> None:
    raw = f"{key}:{password}".encode("utf-8", "replace")
    for scheme in ("Basic", "basic", "BASIC"):
        assert key_of_basic(f"{scheme} {base64.b64encode(raw).decode()}") == key


@given(keys.filter(lambda user: ":" not in user), keys)
def test_a_pair_is_a_key_only_as_a_whole(user: str, password: str) -> None:
    pair = f"{user}:{password}"
    sources = Sources([SourceSettings(name="a", write_key=f"k{pair}")])
    assert sources.find(f"k{pair}").name == "a"
    for wrong in (f"x{pair}", f"k{pair}x", f"k{user}", f"k{user}:"):
        with pytest.raises(BadRequest):
            sources.find(wrong)
    whole = base64.b64encode(f"k{pair}".encode()).decode()
    assert key_of_basic(f"Basic {whole}", sources.pairs) == f"k{pair}"


@given(header_texts)
def test_an_authorization_that_is_none_carries_no_key_and_is_no_failure(text: str) -> None:
    for scheme in ("", "Basic ", "Basic", "Bearer "):
        found = key_of_basic(scheme + text)
        assert found is None or (scheme + text).lower().startswith("basic")


SOURCES = Sources([SourceSettings(name="shop", write_key="demo")])


@given(header_texts | keys)
def test_a_key_that_nobody_has_is_refused(key: str) -> None:
    if key.partition(":")[0] == "demo":
        return
    with pytest.raises(BadRequest) as caught:
        SOURCES.find(key)
    assert caught.value.status == 401
    assert caught.value.code == ("unknown_write_key" if key else "missing_write_key")


addresses = st.ip_addresses().map(str) | st.sampled_from(
    ["[2001:db8::1]:443", "192.0.2.1:80", '"[2001:db8::2]"', "::ffff:192.0.2.9", "fe80::1%eth0"]
)
TRUSTED = Proxies(["10.0.0.0/8", "fd00::/8", "127.0.0.1"])


@given(st.lists(st.lists(addresses | header_texts, max_size=4).map(", ".join), max_size=3))
def test_whatever_is_forwarded_the_client_is_an_address_that_is_no_proxy(
    forwarded: list[str],
) -> None:
    client = TRUSTED.client(forwarded, "127.0.0.1")
    assert client is not None
    if client != "127.0.0.1":
        assert not TRUSTED.trusts(client)
        ipaddress.ip_address(client)


@given(st.lists(addresses, max_size=4), st.ip_addresses(v=4, network="192.0.2.0/24").map(str))
def test_what_a_sender_claims_never_wins_over_what_a_proxy_saw(
    claimed: list[str], seen: str
) -> None:
    forwarded = ", ".join([*claimed, seen, "10.1.2.3"])
    assert TRUSTED.client([forwarded], "127.0.0.1") == seen


class Asked(Request):
    """A request that has nothing but headers."""

    __slots__ = ("_headers",)

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def header(self, name: str) -> str | None:
        return self._headers.get(name)


@given(st.text(max_size=80), st.text(max_size=80))
@example("https://shop.test\r\nSet-Cookie: a=b", "x\r\nSet-Cookie: a=b")
def test_nothing_that_is_reflected_ends_its_line(origin: str, asked: str) -> None:
    closed = SourceSettings(name="shop", write_key="demo", origins=["https://shop.test"])
    for sources in ([closed], [SourceSettings(name="open", write_key="k")]):
        cors = Cors(Sources(sources))
        request = Asked({"Origin": origin, "Access-Control-Request-Headers": asked})
        reply: Reply = cors.preflight(request)
        lines = (reply.head + cors.headers(request)).split(b"\r\n")
        assert all(line == b"" or line.startswith((b"HTTP/1.1 204", b"Access-", b"Allow", b"Vary"))
                   for line in lines)  # fmt: skip
        assert not any(b"\r" in line or b"\n" in line for line in lines)
        assert b"Set-Cookie:" not in b"".join(lines)


@given(header_texts)
def test_a_header_that_is_kept_is_text(text: str) -> None:
    kept = printable(text)
    if kept is not None:
        strictly(msgspec.json.encode(kept), 0)
