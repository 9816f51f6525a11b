"""Properties of senders: whatever comes, it becomes events, or is refused on purpose."""
# ruff: noqa: PT017  most inputs are refused, and some are not

import json
import random
from typing import Any
from urllib.parse import urlencode

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import BadRequest
from collector.event import BATCH, Envelope, Problem
from collector.ingest.decode import Decoder
from collector.ingest.senders.customerio import calls
from collector.ingest.senders.customerio.operations import operate
from collector.ingest.senders.customerio.person import Person
from collector.ingest.senders.members import Invalid, read
from collector.refine import refine
from tests.edge import Edge
from tests.fuzz.targets import LIMITS, SETTINGS, check_decoded, finished, tracker
from tests.rawhttp import basic, encode
from tests.strategies import any_bodies, anything, members, quoted, valid

# --- Customer.io ---------------------------------------------------------------------------------

DECODER = Decoder(SETTINGS)
MAKE = [
    operate,
    calls.merge,
    lambda call: calls.identify(Person("u"), call, {}),
    lambda call: calls.event(Person("u"), call, "event", "data"),
    lambda call: calls.event(Person(), call, "page", "data"),
    lambda call: calls.device(Person("u"), call),
    lambda call: calls.delivery(call, "d", "opened"),
    lambda call: calls.segment("7", call, "id", entered=True),
]
KINDS = st.sampled_from(['"person"', '"object"', '"delivery"'])
ACTIONS = st.sampled_from(
    [
        *("identify", "event", "page", "delete", "merge", "suppress", "add_device"),
        *("delete_device", "add_relationships", "delete_relationships", "identify_anonymous"),
    ]
)
NAMES = st.sampled_from(
    [
        *("identifiers", "name", "id", "timestamp", "attributes", "data", "cio_relationships"),
        *("device", "primary", "secondary", "anonymous_id", "ids", "_timestamp", "_update"),
    ]
)
IDENTIFIERS = st.sampled_from(
    [
        b'{"id":"u"}',
        b'{"id":7}',
        b'{"email":"e"}',
        b'{"object_type_id":"1","object_id":"o"}',
        b'{"anonymous_id":"a"}',
        b'[{"identifiers":{"id":"u"}},{"identifiers":{"object_id":"o"}}]',
        b'{"action":"delete_relationships","relationships":[{"identifiers":{"object_id":"o"}}]}',
        b"1582977599",
        b'"text"',
    ]
)


@st.composite
def operations(draw: st.DrawFn) -> bytes:
    pairs = draw(st.dictionaries(NAMES, IDENTIFIERS | anything, max_size=6))
    parts = [b'"%s":%s' % (name.encode(), value) for name, value in pairs.items()]
    parts.append(b'"type":' + draw(KINDS).encode())
    parts.append(b'"action":"' + draw(ACTIONS).encode() + b'"')
    return b"{" + b",".join(parts) + b"}"


@given(operations() | any_bodies | members(st.tuples(quoted, valid)), st.sampled_from(MAKE))
def test_whatever_comes_is_taken_or_refused_on_purpose(body: bytes, make: Any) -> None:
    try:
        events = make(read(body, SETTINGS.depth_max))
    except Invalid as exc:
        assert isinstance(exc.problem, Problem)
        assert len(exc.problem.detail) > 10
        return
    try:
        decoded = finished(DECODER.decode(encode_batch(events), BATCH))
    except BadRequest as exc:
        assert exc.code in {"context_too_large", "too_many_events", "bad_json"}
        return
    check_decoded(decoded, BATCH)


def encode_batch(events: list[dict[str, object]]) -> bytes:
    return msgspec.json.encode({"batch": events})


def test_the_same_frame_gives_the_same_events_again() -> None:
    body = encode_batch(calls.segment("7", {"ids": json_raw("[1,2,3]")}, "id", entered=True))
    envelope = Envelope("crm", BATCH, 1_790_000_000_000_000, bytes(range(16)), body)
    assert list(refine(envelope, LIMITS)) == list(refine(envelope, LIMITS))
    assert len({one.message_id for one in refine(envelope, LIMITS)}) == 3


def json_raw(text: str) -> Any:
    return msgspec.Raw(json.dumps(json.loads(text)).encode())


# --- Snowplow ------------------------------------------------------------------------------------

PARAMETERS = st.sampled_from(
    [
        *("e", "aid", "uid", "duid", "eid", "url", "page", "refr", "dtm", "stm", "ttm", "ue_px"),
        *("ue_pr", "cx", "co", "se_ac", "se_ca", "se_va", "tr_id", "tr_tt", "ti_qu", "pp_mix"),
        *("res", "tv", "lang", "ip", "ua", "schema", "contexts"),
    ]
)
VALUES = st.text(max_size=20) | st.sampled_from(
    [
        *("pv", "pp", "se", "ue", "tr", "ti", "1x1", "js-1", "1", "1e999", "http://[", "-0"),
        '{"data":{"schema":"iglu:a/b/c/1-0-0","data":{"n":1e999}}}',
        '{"data":[{"schema":"iglu:a/client_session/c/1-0-0","data":{"userId":1}}]}',
        '{"data":{"schema":"iglu:a/screen_view/c/1-0-0","data":{"name":{}}}}',
        "eyJkYXRhIjp7InNjaGVtYSI6ImEifX0",
    ]
)


@given(st.dictionaries(PARAMETERS | st.text(max_size=5), VALUES, max_size=9))
def test_whatever_a_tracker_says_is_an_event_or_refused_on_purpose(sent: dict[str, str]) -> None:
    tracker(json.dumps(sent, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    tracker(urlencode(sent, errors="surrogatepass").encode())


@given(operations() | any_bodies | st.binary(max_size=60))
def test_whatever_bytes_come_to_a_tracker_they_are_read_or_refused(body: bytes) -> None:
    tracker(b"{" + body)
    tracker(body)


# --- over HTTP -----------------------------------------------------------------------------------

PATHS = (
    *("/sourceConfig", "/rsaMetrics", "/beacon/v1/batch", "/pixel/v1/track", "/pixel/v1/page"),
    *("/api/s/track", "/api/s/s2s/alias", "/b", "/projects/{}/settings", "/i"),
    *("/cio/v1/projects/{}/settings", "/com.snowplowanalytics.snowplow/tp2", "/api/v2/batch"),
    *("/api/v1/customers/{}", "/api/v1/customers/{}/events", "/api/v1/customers/{}/devices/{}"),
    *("/api/v1/customers/{}/suppress", "/api/v1/events", "/api/v1/merge_customers"),
    *("/api/v1/push/events", "/api/v1/segments/{}/add_customers", "/api/v2/entity"),
    *("/api/v1/accounts/region", "/api/v1/customers/{}/devices", "/api/v1/metrics"),
)
SEGMENTS = ("u", "demo", "%2F", "%00", "%FF%FE", "a" * 600, "%", "%zz", "..", "cio_1", "%D8%00")
QUERIES = ("", "?", "?writeKey=demo", "?e=pv&aid=demo", "?view=ad", "?id_type=%00", "?%FF=%FF&&=")
BODIES = (
    *(b"", b"{", b"null", b"[]", b"{}", b"5", b"\xff\xfe", b"[" * 500, b'"\\ud800"'),
    *(b'{"batch":[{},5,null]}', b'{"data":[{},5,null,{"e":"pv","aid":"demo"}]}', b"\0" * 9),
    b'{"name":"E","type":{},"data":[],"id":[],"timestamp":{},"anonymous_id":1e999}',
    b'{"type":"person","action":"merge","primary":{"id":{}},"secondary":null}',
    b'{"type":"object","action":"identify","identifiers":[],"cio_relationships":[null]}',
    b'{"device":{"id":"\\u0000","attributes":5},"ids":[null,[],1.5],"event":"\\ud800"}',
)


async def test_no_request_to_a_sender_is_a_failure_of_ours(edge: Edge) -> None:
    dice = random.Random(7)
    heads = (
        {},
        {"X-Write-Key": "demo"},
        {"X-Write-Key": "demo:\udcff"},
        {"Authorization": basic("demo")},
        {"Authorization": "Basic %%%"},
        {"Content-Encoding": "gzip", "X-Write-Key": "demo"},
        {"SP-Anonymous": "\udcff", "X-IP-Policy": "\udcfe", "User-Agent": "Customer.io /\udcff/"},
    )
    for _ in range(600):
        path = dice.choice(PATHS)
        while "{}" in path:
            path = path.replace("{}", dice.choice(SEGMENTS), 1)
        method = dice.choice(("GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
        target = path + dice.choice(("", "", "/")) + dice.choice(QUERIES)
        body = None if method in {"GET", "HEAD", "OPTIONS"} else dice.choice(BODIES)
        request = encode(method, target, dice.choice(heads), body)
        answer = await edge.send(request, head=method == "HEAD")
        assert answer.status < 500, request
        if answer.status >= 400 and method != "HEAD" and not path.startswith("/i"):
            assert answer.json()["code"], request
    assert await edge.results()
