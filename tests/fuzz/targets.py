"""
Fuzz targets: what arbitrary bytes go through, and what must be true of it afterwards.

Each target takes bytes and raises AssertionError, or whatever came out that should not have. The
deliberate errors are caught here and nowhere else. `make fuzz` runs them guided by coverage;
test_targets.py runs them over the seeds and over all that was ever found.
"""
# ruff: noqa: PT017  a fuzzer calls these, and pytest.raises tells it nothing

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zstandard

from collector.errors import BadRequest
from collector.event import BATCH, Envelope, Event, Refusal, decode_envelope, encode_envelope
from collector.ingest.body import unzip
from collector.ingest.decode import Decoded, Decoder
from collector.ingest.pixel import _body, nested
from collector.ingest.protocol import Request
from collector.ingest.senders.customerio import calls
from collector.ingest.senders.customerio.operations import operate
from collector.ingest.senders.customerio.person import Person
from collector.ingest.senders.members import Invalid, read
from collector.ingest.senders.snowplow.events import event_of, parameters_of
from collector.ingest.settings import IngestSettings
from collector.leniency import Unreadable, doubtful, repair, split
from collector.refine import Limits, refine
from collector.store import rows
from tests.poisons import POISONS
from tests.recordings import Recorded, load, names
from tests.strict import columns, is_poison, strictly

Target = Callable[[bytes], None]

SETTINGS = IngestSettings(
    body_bytes_max=100_000, event_bytes_max=20_000, batch_events_max=50, depth_max=20
)
LIMITS = Limits(SETTINGS.id_bytes_max, SETTINGS.name_bytes_max)
CALLS = (BATCH, "track", "identify", "page", "screen", "group", "alias")
ENCODINGS = ("gzip", "deflate", "zstd", "x-gzip", "identity")
UNZIPPED_BYTES_MAX = 50_000
DEPTH_MAX = 12

_decoder = Decoder(SETTINGS)
_accepted = msgspec.json.Decoder(msgspec.Raw).decode


def finished(work: Coroutine[Any, Any, Any]) -> Any:
    """What *work* returns, which waits for nothing; without the cost of an event loop."""
    try:
        work.send(None)
    except StopIteration as exc:
        return exc.value
    work.close()
    raise AssertionError("it waits for something")


def json_body(data: bytes) -> None:
    """A body of any call: decoded, refined, and encoded as rows."""
    if not data:
        return
    call = CALLS[data[0] % len(CALLS)]
    try:
        decoded = finished(_decoder.decode(data[1:], call))
    except BadRequest as exc:
        assert exc.code
        assert exc.detail
        assert 400 <= exc.status < 500
        return
    check_decoded(decoded, call)


def check_decoded(decoded: Decoded, call: str, *, device: bool = True) -> None:
    """What ingest may put into the journal, and what refine and the store make of it."""
    if decoded.body:
        strictly(decoded.body, SETTINGS.depth_max + 2)
    if call != BATCH and decoded.problems:
        return  # it was answered 400, and nothing is journaled
    refusals = [Refusal(r.index, r.code, r.detail, r.data) for r in decoded.refusals]
    envelope = Envelope(
        source="shop",
        call=call,
        received_at=1_790_000_000_000_000,
        seed=bytes(range(16)),
        body=decoded.body,
        device=device,
        address="203.0.113.7",
        user_agent="Mozilla/5.0",
        referrer="https://shop.test/?utm_source=x&gclid=1",
        refusals=refusals,
        sound=not decoded.problems,
    )
    framed = encode_envelope(envelope)
    results = list(refine(decode_envelope(framed), LIMITS))
    assert len(results) == decoded.events
    assert results == list(refine(decode_envelope(framed), LIMITS))
    envelope.sound = False  # as in journals that know no such word
    assert results == list(refine(envelope, LIMITS))
    assert sum(not isinstance(result, Event) for result in results) == len(decoded.problems)
    for result in results:
        if isinstance(result, Event):
            check_event(result)
        else:
            assert result.code
            assert result.detail


def check_event(event: Event) -> None:
    """What Postgres must be able to take, and people to use."""
    assert event.message_id
    assert event.user_id or event.anonymous_id
    assert "" not in {event.user_id, event.anonymous_id, event.group_id, event.previous_id}
    rows.encode(event, event.message_id.encode())
    for text in columns(event):
        if text is not None:
            assert "\0" not in text
            assert len(text.encode()) <= 2_000  # or it would not fit into an index
    for column in (event.context, event.properties, event.traits, event.integrations, event.extra):
        if column is not None:
            assert isinstance(strictly(column, SETTINGS.depth_max + 2), dict)


def pixel(data: bytes) -> None:
    """The address of an image, in both forms."""
    if not data:
        return
    request = object.__new__(Request)  # it asks for nothing but the query
    request.query_string = "".join(chr(byte & 127) for byte in data[1:])
    parameters = request.query() if data[0] % 2 or "&" in request.query_string else {}
    try:
        if data[0] % 2:
            members = nested(parameters, short=True)
            call = str(members.pop("type", None) or "page")
            body = msgspec.json.encode(members)
        else:
            call = CALLS[1 + data[0] // 2 % 6]
            body = _body(request, parameters)
        decoded = finished(_decoder.decode(body, call))
    except BadRequest:
        return
    check_decoded(decoded, call)


def zipped(data: bytes) -> None:
    """A compressed body: never larger than it may be, and what others read it as."""
    if not data:
        return
    name, body = ENCODINGS[data[0] % len(ENCODINGS)], data[1:]
    try:
        found = finished(unzip(body, name, UNZIPPED_BYTES_MAX))
    except BadRequest as exc:
        assert exc.code in {"body_too_large", f"bad_{name.removeprefix('x-')}"}
        return
    assert name == "identity" or len(found) <= UNZIPPED_BYTES_MAX
    if name in {"gzip", "x-gzip"}:
        assert gzip.decompress(body) == found
    elif name == "deflate" and body[0] & 15 == 8 and found:
        reader = zlib.decompressobj(15 if (body[0] * 256 + body[1]) % 31 == 0 else -15)
        assert found.startswith(reader.decompress(body))


def lenient(data: bytes) -> None:
    """The readers of broken JSON, each compared with a slow one that shares nothing with them."""
    try:
        _accepted(data)
    except (ValueError, RecursionError):
        doubtful(data, depth_max=DEPTH_MAX)
    else:
        assert doubtful(data, depth_max=DEPTH_MAX) or not is_poison(data, DEPTH_MAX)
    try:
        repaired = repair(data, depth_max=DEPTH_MAX)
    except Unreadable as exc:
        assert exc.code in {"bad_json", "too_deep", "number_out_of_range"}
    else:
        strictly(repaired, DEPTH_MAX)
        assert not is_poison(repaired, DEPTH_MAX)
        assert repair(repaired, depth_max=DEPTH_MAX) == repaired
    try:
        envelope = split(data, elements_max=100)
    except Unreadable as exc:
        assert exc.code in {"bad_json", "too_deep", "number_out_of_range", "too_many_events"}
        return
    elements = envelope.elements
    if elements is None:
        return
    assert len(elements) <= 100
    again = split(b'{"batch":[' + b",".join(elements) + b"]}", elements_max=100)
    assert again.elements == elements


def operation(data: bytes) -> None:
    """A call of Customer.io's Track API, of either version."""
    try:
        members = read(data, SETTINGS.depth_max)
        if b'"action"' in data:
            events = operate(members)
        else:
            events = calls.event(Person("u"), members, "event", "data")
            events += calls.identify(Person("u"), members, {})
        body = msgspec.json.encode({"batch": events})
        decoded = finished(_decoder.decode(body, BATCH))
    except Invalid as exc:
        assert exc.problem.detail
        return
    except BadRequest:
        return
    check_decoded(decoded, BATCH, device=False)


def tracker(data: bytes) -> None:
    """An event of Snowplow's trackers, as a query or as JSON."""
    try:
        if data.startswith(b"{"):
            parameters = parameters_of(data, SETTINGS.depth_max)
        else:
            request = object.__new__(Request)  # it asks for nothing but the query
            request.query_string = "".join(chr(byte & 127) for byte in data)
            parameters = request.query()
        event = event_of(parameters, depth_max=SETTINGS.depth_max)
        body = msgspec.json.encode({"batch": [event]})
        decoded = finished(_decoder.decode(body, BATCH))
    except Invalid as exc:
        assert exc.problem.detail
        return
    except BadRequest:
        return
    check_decoded(decoded, BATCH)


TARGETS: dict[str, Target] = {
    "json": json_body,
    "operation": operation,
    "tracker": tracker,
    "pixel": pixel,
    "zip": zipped,
    "leniency": lenient,
}


# --- seeds ---------------------------------------------------------------------------------------

FOLDERS = (
    *("segment-browser", "segment-node", "segment-python", "rudder-browser", "rudder-node"),
    *("rudder-python", "cdp-browser", "cdp-node", "jitsu-browser", "jitsu-node"),
    *("mobile-from-source", "snowplow-python", "customerio-node", "customerio-python"),
)
SEED_BYTES_MAX = 4_000  # larger ones slow the fuzzer down and teach it nothing more


def requests() -> Iterator[Recorded]:
    for name in names(*FOLDERS):
        yield from load(name)


def texts() -> Iterator[bytes]:
    """JSON as real clients send it, and as nobody should."""
    for request in requests():
        if request.text.startswith("{") and len(request.text) < SEED_BYTES_MAX:
            yield request.text.encode("utf-8", "surrogatepass")
    yield from (poison.text for poison in POISONS if len(poison.text) < SEED_BYTES_MAX)


def seeds(target: str) -> Iterator[bytes]:
    """What the fuzzer of *target* begins with."""
    yield b""
    if target == "pixel":
        for number, text in enumerate(texts()):
            data = base64.urlsafe_b64encode(text)
            yield bytes([number % 12 // 2 * 2]) + b"data=" + data
        for request in requests():
            if query := urlsplit(request.path).query:
                yield b"\0" + query.encode()
        yield b"\1wk=demo&e=Opened&uid=u&p.a.b=1&tr.x=2&c.ip=1&t=track&utm_source=s&ts=1&mid=m"
        yield b"\0writeKey=k&event=E&userId=u&properties.a.b.c=%00&context.page.url=%ED%A0%80"
        return
    if target == "tracker":
        for request in requests():
            if request.path.startswith("/i?"):
                yield urlsplit(request.path).query.encode()
            elif request.path.endswith("/tp2"):
                yield from (json.dumps(event).encode() for event in request.json()["data"])
        yield b"e=ue&ue_pr=%7B%22data%22:%7B%7D%7D&co=%7B%22data%22:[%7B%7D]%7D&res=1x1&url=http://[&dtm=1"
        yield b"e=tr&tr_id=1&tr_tt=1.5&uid=%ED%A0%80&ttm=9e99&tv=-&se_ac=%00"
        for text in texts():
            yield b"e=ue&aid=a&ue_px=" + base64.urlsafe_b64encode(text)
            yield text
        return
    for number, text in enumerate(texts()):
        if target in {"leniency", "operation"}:
            yield text
            yield b'{"batch":[' + text + b",1," + text + b'],"sentAt":NaN}'
        elif target == "zip":
            body = text[:500]
            for encoding, packed in enumerate(
                (
                    gzip.compress(body, mtime=0),
                    zlib.compress(body),
                    zstandard.ZstdCompressor().compress(body),
                    gzip.compress(body[:9], mtime=0) + gzip.compress(body[9:], mtime=0) + bytes(9),
                )
            ):
                yield bytes([encoding]) + packed
            if number > 20:
                return
        else:
            yield bytes([0 if b'"batch"' in text else 1 + number % 6]) + text
            yield b'\0{"batch":[' + text + b'],"sentAt":"2026-01-01T00:00:00Z","context":{"a":1}}'


def run(name: str, data: bytes) -> None:
    """One execution of target *name*."""
    TARGETS[name](data)
