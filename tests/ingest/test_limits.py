"""Limits: each has a name, an answer that says what to do, and memory that stays bounded."""

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from collector import metrics
from collector.event import Event, Rejection
from collector.ingest import SourceSettings
from collector.journal import JournalSettings
from tests.ingest.conftest import Counted, Edge, MakeEdge, read
from tests.rawhttp import Answer, Wire, basic, chunked, encode, exchange

REFUSED = "collector_ingest_refused_requests_total"
EVENT = {"event": "E", "userId": "u"}
AUTHORIZATION = {"Authorization": basic("demo")}
MIB = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-15)
    return compress.compress(data) + compress.flush()


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def refusal(answer: Answer) -> tuple[int, str]:
    told = answer.json()
    assert told["success"] is False
    assert len(told["message"]) > 10
    assert answer.header("Access-Control-Allow-Origin") == "*"
    return answer.status, told["code"]


async def assert_in_flight_is_empty() -> None:
    await asyncio.sleep(0.05)
    assert metrics.REGISTRY.get_sample_value("collector_ingest_in_flight_bytes") == 0


# --- encodings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 1_000, 300_000])
@pytest.mark.parametrize("name", [*ENCODERS, "GZIP", " gzip ", "identity", ""])
async def test_a_body_is_unzipped_as_its_encoding_says(
    make_edge: MakeEdge, name: str, size: int
) -> None:
    edge = await make_edge(event_bytes_max=MIB)
    body = json.dumps(EVENT | {"properties": {"a": "é" * (size // 2)}}).encode()
    compress = ENCODERS.get(name.strip().lower(), bytes)
    answer = await edge.post("/v1/track", compress(body), {"Content-Encoding": name})
    assert answer.status == 200
    assert len(read((await edge.event()).properties)["a"]) == size // 2


async def test_deflate_without_its_wrapping_is_read_too(edge: Edge) -> None:
    body = raw_deflate(json.dumps(EVENT).encode())
    assert (await edge.post("/v1/t", body, {"Content-Encoding": "deflate"})).status == 200
    assert (await edge.event()).event == "E"


@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_a_body_in_several_members_is_one_body(edge: Edge, name: str) -> None:
    text = json.dumps(EVENT).encode()
    body = ENCODERS[name](text[:10]) + ENCODERS[name](text[10:])
    if name == "gzip":
        body += bytes(100)  # tar and friends pad
    assert (await edge.post("/v1/t", body, {"Content-Encoding": name})).status == 200
    assert (await edge.event()).event == "E"


@pytest.mark.parametrize(
    "name", ["br", "compress", "gzip, gzip", "gzip,deflate", "\udcff", "x" * 99]
)
async def test_an_encoding_that_is_not_understood_is_415(edge: Edge, name: str) -> None:
    answer = await edge.post("/v1/track", b"abc", {"Content-Encoding": name})
    assert refusal(answer) == (415, "unsupported_encoding")


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize(
    "harm", ["garbage", "empty", "plain", "cut", "cut trailer", "flipped", "behind"]
)
async def test_a_damaged_body_is_400_and_never_a_failure(edge: Edge, name: str, harm: str) -> None:
    whole = ENCODERS[name](json.dumps(EVENT | {"properties": {"a": list(range(500))}}).encode())
    body = {
        "garbage": b"\x00\x01\x02\x03" * 10,
        "empty": b"",
        "plain": json.dumps(EVENT).encode(),
        "cut": whole[: len(whole) // 2],
        "cut trailer": whole[:-3],
        "flipped": whole[:20] + bytes([whole[20] ^ 0xFF]) + whole[21:],
        "behind": whole + b"something else",
    }[harm]
    counted = Counted(REFUSED, reason=f"bad_{name}")
    answer = await edge.post("/v1/track", body, {"Content-Encoding": name})
    if (name, harm) == ("zstd", "cut trailer"):  # what was cut off says nothing about the JSON
        assert answer.status in {200, 400}
        return
    assert refusal(answer) == (400, f"bad_{name}")
    assert counted.moved == 1
    (rejection,) = await edge.rejections()
    assert (rejection.code, rejection.accepted) == (f"bad_{name}", False)
    await assert_in_flight_is_empty()


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd", "many members"])
async def test_a_bomb_stops_early(make_edge: MakeEdge, name: str) -> None:
    edge = await make_edge(body_bytes_max=MIB)
    if name == "many members":
        bomb, encoding = gzip.compress(b" " * 10) * 20_000, "gzip"
    else:
        bomb, encoding = ENCODERS[name](bytes(100 * MIB)), name
        assert len(bomb) < MIB
    tracemalloc.start()
    try:
        answer = await edge.post("/v1/batch", bomb, {"Content-Encoding": encoding})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refusal(answer) in {(413, "body_too_large"), (400, "bad_gzip")}
    assert peak < 16 * MIB
    await assert_in_flight_is_empty()


async def test_a_frame_with_a_window_that_nobody_must_support_is_refused(edge: Edge) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=False)
    compress = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = compress.compress(json.dumps(EVENT).encode()) + compress.flush()
    answer = await edge.post("/v1/track", body, {"Content-Encoding": "zstd"})
    assert refusal(answer) == (400, "bad_zstd")


# --- size and time of a body --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["announced", "chunked", "unzipped", "much", "silent"])
async def test_a_body_that_is_too_large_is_413(make_edge: MakeEdge, how: str) -> None:
    edge = await make_edge(body_bytes_max=50_000)
    counted = Counted(REFUSED, reason="body_too_large")
    body = json.dumps({"batch": [EVENT], "pad": "a" * 60_000}).encode()
    headers = dict(AUTHORIZATION)
    if how == "unzipped":
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body)
        assert len(body) < 1000
    if how == "chunked":
        data = encode("POST", "/v1/batch", headers | {"Transfer-Encoding": "chunked"}, b"")
        data += chunked(body, 1000)
    elif how == "silent":  # told, and not one byte of it sent
        data = encode("POST", "/v1/batch", headers | {"Content-Length": "60000"})
    else:
        data = encode("POST", "/v1/batch", headers, body * 200 if how == "much" else body)
    answer = await exchange(edge.port, data)
    assert refusal(answer) == (413, "body_too_large")
    assert counted.moved == 1
    await assert_in_flight_is_empty()


async def test_a_body_of_just_the_limit_is_taken(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_bytes_max=5000, event_bytes_max=5000)
    body = json.dumps(EVENT).encode().ljust(5000)
    assert (await edge.post("/v1/track", body)).status == 200
    assert refusal(await edge.post("/v1/track", body + b" ")) == (413, "body_too_large")


async def test_what_server_sdks_really_send_at_once_is_taken(edge: Edge) -> None:
    """segment-node sent 1.4 MB with one event of 200 kB, rudder-python 4.8 MB."""
    events = [
        EVENT | {"type": "track", "messageId": f"m{n}", "properties": {"a": "x" * 200_353}}
        for n in range(24)
    ]
    answer = await edge.post("/v1/batch", {"batch": events})
    assert (answer.status, answer.body) == (200, b'{"success":true}')
    assert len(await edge.events()) == 24


async def test_a_body_as_large_as_may_be_is_one_frame(edge: Edge) -> None:
    """Larger than a commit of the journal and than what the store reads at once."""
    events = [
        {"type": "track", "event": "E", "messageId": f"m{n}", "properties": {"a": "x" * 250_000}}
        for n in range(41)
    ]
    assert (await edge.post("/v1/batch", {"batch": events})).status == 200
    reading = await edge.journal.read(0, 8_000_000)
    assert [record.events for record in reading.records] == [41]
    assert len(await edge.events()) == 41


async def test_a_body_that_does_not_come_is_408(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_seconds=0.2)
    counted = Counted(REFUSED, reason="body_timeout")
    async with await Wire.open(edge.port) as wire:
        await wire.send(encode("POST", "/v1/track", AUTHORIZATION | {"Content-Length": "100"}))
        await wire.send(b'{"event":')
        assert refusal(await wire.answer(seconds=5)) == (408, "body_timeout")
    assert counted.moved == 1
    await assert_in_flight_is_empty()


async def test_a_body_that_trickles_is_408_all_the_same(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_seconds=0.3)
    async with await Wire.open(edge.port) as wire:
        await wire.send(encode("POST", "/v1/track", AUTHORIZATION | {"Content-Length": "100"}))

        async def trickle() -> None:
            for _ in range(50):
                await wire.send(b" ")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert refusal(await wire.answer(seconds=5)) == (408, "body_timeout")
        task.cancel()
    await assert_in_flight_is_empty()


async def test_a_sender_that_leaves_in_the_middle_costs_nothing(edge: Edge) -> None:
    for data in (
        encode("POST", "/v1/track", AUTHORIZATION | {"Content-Length": "1000"}) + b"{",
        encode("POST", "/v1/track", AUTHORIZATION | {"Transfer-Encoding": "chunked"}) + b"5\r\nab",
        b"POST /v1/tra",
        b"",
    ):
        wire = await Wire.open(edge.port)
        await wire.send(data)
        await asyncio.sleep(0.05)
        wire.writer.transport.abort()
    await asyncio.sleep(0.1)
    await assert_in_flight_is_empty()
    assert await edge.events() == []
    assert (await edge.post("/v1/track", EVENT)).status == 200


async def test_bodies_in_memory_are_bounded_together(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_bytes_in_flight_max=100_000)
    counted = Counted(REFUSED, reason="too_many_bytes_in_flight")
    wires = []
    for _ in range(9):  # each sends 10 kB and no more
        wire = await Wire.open(edge.port)
        await wire.send(encode("POST", "/v1/track", AUTHORIZATION | {"Content-Length": "20000"}))
        await wire.send(b" " * 10_000)
        wires.append(wire)
    await asyncio.sleep(0.2)
    large = json.dumps(EVENT | {"properties": {"a": "a" * 20_000}}).encode()
    answer = await edge.post("/v1/track", large)
    assert refusal(answer) == (503, "too_many_bytes_in_flight")
    assert int(answer.header("Retry-After") or 0) >= 1
    assert answer.header("Access-Control-Expose-Headers") == "Retry-After"
    assert counted.moved == 1
    assert (await edge.post("/v1/track", EVENT)).status == 200  # a small one still fits
    for wire in wires:
        wire.writer.close()
    await asyncio.sleep(0.2)
    await assert_in_flight_is_empty()
    assert (await edge.post("/v1/track", large)).status == 200


async def test_what_is_busy_leaves_no_row(make_edge: MakeEdge) -> None:
    edge = await make_edge(journal=JournalSettings(total_bytes_max=1000))
    answers = [await edge.post("/v1/track", EVENT) for _ in range(20)]
    (status, code), after = refusal(answers[-1]), answers[-1].header("Retry-After")
    assert (status, code) == (503, "journal_full")
    assert int(after or 0) >= 1
    assert len(await edge.results()) == sum(answer.status == 200 for answer in answers)


# --- events of a batch --------------------------------------------------------------------------


async def test_events_beyond_what_a_batch_may_hold_are_refused_one_by_one(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge(batch_events_max=10)
    events = [{"type": "track", "event": f"E{n}"} for n in range(15)]
    answer = await edge.post("/v1/batch", {"batch": events})
    told = answer.json()
    assert (answer.status, told["success"], told["rejected_count"]) == (200, True, 5)
    assert [(r["index"], r["code"]) for r in told["rejected"]] == [
        (n, "too_many_events") for n in range(10, 15)
    ]
    results = await edge.results()
    assert [r.event for r in results if isinstance(r, Event)] == [f"E{n}" for n in range(10)]
    assert sum(isinstance(r, Rejection) for r in results) == 5


async def test_ten_times_too_many_events_are_refused_as_a_whole(make_edge: MakeEdge) -> None:
    edge = await make_edge(batch_events_max=10)
    body = json.dumps({"batch": [{"type": "track", "event": "E"}] * 101}).encode()
    assert refusal(await edge.post("/v1/batch", body)) == (400, "too_many_events")
    assert await edge.events() == []


@pytest.mark.parametrize("element", [b"1", b"{}", b"[]", b'""', b'{"type":"track"}'])
async def test_too_many_events_take_no_more_memory_than_their_text(
    edge: Edge, element: bytes
) -> None:
    count = 3 * MIB // (len(element) + 1)
    body = b'{"batch":[' + b",".join([element] * count) + b"]}"
    tracemalloc.start()
    try:
        answer = await edge.post("/v1/batch", body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refusal(answer) == (400, "too_many_events")
    assert peak < 90 * MIB  # millions of objects would be many times that


async def test_a_single_event_that_is_too_large_is_not_read_at_all(edge: Edge) -> None:
    for body in (b"[" * 9 * MIB, b'"' + b"\\" * 9 * MIB, b"9" * 9 * MIB, b" " * 9 * MIB + b"{}"):
        began = time.perf_counter()
        answer = await edge.post("/v1/track", body)
        assert refusal(answer)[1] in {"event_too_large", "empty_body"}
        assert time.perf_counter() - began < 2.0


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"properties": {"a": "x" * 11_000}}, "event_too_large"),
        ({"properties": {"a": [[[[[[[[[[[[1]]]]]]]]]]]]}}, "too_deep"),
        ({"userId": "u" * 513}, "id_too_long"),
        ({"anonymousId": "ü" * 257}, "id_too_long"),
        ({"messageId": "m" * 3000}, "id_too_long"),
        ({"groupId": "g" * 513}, "id_too_long"),
        ({"previousId": "😀" * 129}, "id_too_long"),
        ({"event": "e" * 1025}, "name_too_long"),
        ({"name": "n" * 1025}, "name_too_long"),
        ({"category": "語" * 342}, "name_too_long"),
    ],
)
async def test_what_is_too_much_of_one_event_never_costs_its_neighbours(
    make_edge: MakeEdge, event: dict[str, Any], code: str
) -> None:
    edge = await make_edge(event_bytes_max=10_000, depth_max=10)
    bad = {"type": "track", "event": "Bad"} | event
    assert refusal(await edge.post("/v1/track", bad)) == (400, code)
    good = {"type": "track", "event": "Good", "userId": "u" * 512, "name": "n" * 1024}
    answer = await edge.post("/v1/batch", {"batch": [good, bad, good]})
    told = answer.json()
    assert answer.status == 200
    assert [(r["index"], r["code"]) for r in told["rejected"]] == [(1, code)]
    first, *results = await edge.results()
    assert isinstance(first, Rejection)
    assert (first.code, first.accepted) == (code, False)
    assert sum(isinstance(r, Event) for r in results) == 2
    (rejection,) = [r for r in results if isinstance(r, Rejection)]
    assert (rejection.code, rejection.accepted) == (code, True)


async def test_limits_count_bytes_and_their_own_value_passes(make_edge: MakeEdge) -> None:
    edge = await make_edge(depth_max=10)
    event = {
        "event": "語" * 341,
        "userId": "ü" * 256,
        "messageId": "😀" * 128,
        "properties": {"a": [[[[[[[[1]]]]]]]]},
    }
    assert (await edge.post("/v1/track", event)).status == 200
    assert (await edge.event()).event == "語" * 341


async def test_only_some_of_many_bad_events_are_named_and_all_are_counted(edge: Edge) -> None:
    answer = await edge.post("/v1/batch", {"batch": [{"type": "nothing"}] * 500})
    told = answer.json()
    assert (told["rejected_count"], len(told["rejected"])) == (500, 50)
    assert len(await edge.rejections()) == 500


# --- headers, addresses, connections ------------------------------------------------------------


async def test_headers_that_do_not_come_are_408(make_edge: MakeEdge) -> None:
    edge = await make_edge(header_seconds=0.2)
    counted = Counted(REFUSED, reason="header_timeout")
    async with await Wire.open(edge.port) as wire:
        await wire.send(b"POST /v1/track HTTP/1.1\r\nHost: c\r\n")
        assert refusal(await wire.answer(seconds=5)) == (408, "header_timeout")
        assert await wire.closed(5) == b""
    assert counted.moved == 1


async def test_headers_that_trickle_are_408_all_the_same(make_edge: MakeEdge) -> None:
    edge = await make_edge(header_seconds=0.3)
    async with await Wire.open(edge.port) as wire:

        async def trickle() -> None:
            await wire.send(b"POST /v1/track HTTP/1.1\r\n")
            for number in range(50):
                await wire.send(b"X-%d: 1\r\n" % number)
                await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert refusal(await wire.answer(seconds=5)) == (408, "header_timeout")
        task.cancel()


async def test_the_next_request_of_a_connection_has_its_own_deadline(make_edge: MakeEdge) -> None:
    edge = await make_edge(header_seconds=0.3)
    async with await Wire.open(edge.port) as wire:
        for _ in range(3):
            await wire.send(encode("POST", "/v1/track", AUTHORIZATION, b'{"event":"E"}'))
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.2)
        await wire.send(b"POST /v1")
        assert refusal(await wire.answer(seconds=5)) == (408, "header_timeout")


@pytest.mark.parametrize("requests", [0, 1])
async def test_an_idle_connection_is_closed(make_edge: MakeEdge, requests: int) -> None:
    edge = await make_edge(idle_seconds=0.3)
    async with await Wire.open(edge.port) as wire:
        for _ in range(requests):
            await wire.send(encode("GET", "/health"))
            assert (await wire.answer()).status == 200
        assert await wire.closed(5) == b""


async def test_connections_are_bounded(make_edge: MakeEdge) -> None:
    edge = await make_edge(connections_max=3)
    counted = Counted(REFUSED, reason="too_many_connections")
    wires = [await Wire.open(edge.port) for _ in range(3)]
    for wire in wires:
        await wire.send(encode("GET", "/health"))
        assert (await wire.answer()).status == 200
    async with await Wire.open(edge.port) as wire:
        answer = await wire.answer(seconds=5)
        assert refusal(answer) == (503, "too_many_connections")
        assert int(answer.header("Retry-After") or 0) >= 1
        assert await wire.closed(5) == b""
    assert counted.moved == 1
    for wire in wires:
        wire.writer.close()
    await asyncio.sleep(0.1)
    assert (await edge.get("/health")).status == 200


@pytest.mark.parametrize(
    ("headers", "target", "expected"),
    [
        ({"X-Long": "a" * 20_000}, "/v1/track", (431, "header_too_large")),
        ({f"X-{n}": "1" for n in range(200)}, "/v1/track", (400, "bad_http")),
        ({}, "/v1/track?" + "a" * 40_000, (414, "url_too_large")),
        ({}, "/v1/track?" + "a" * 300_000, (431, "header_too_large")),
    ],
)
async def test_heads_are_bounded(
    edge: Edge, headers: dict[str, str], target: str, expected: tuple[int, str]
) -> None:
    counted = Counted(REFUSED, reason=expected[1])
    answer = await edge.post(target, EVENT, headers)
    assert refusal(answer) == expected
    assert counted.moved == 1


async def test_every_refusal_is_counted_once_by_its_reason(make_edge: MakeEdge) -> None:
    edge = await make_edge(body_bytes_max=1000, refusals_kept_per_minute=1)
    gzipped = {"Content-Encoding": "gzip"}
    for code, send in {
        "bad_json": lambda: edge.post("/v1/track", b"{"),
        "bad_gzip": lambda: edge.post("/v1/track", b"no", gzipped),
        "unsupported_encoding": lambda: edge.post("/v1/track", b"", {"Content-Encoding": "br"}),
        "body_too_large": lambda: edge.post("/v1/track", b" " * 2000),
        "unknown_expectation": lambda: edge.post("/v1/track", b"{}", {"Expect": "x"}),
        "unknown_write_key": lambda: edge.post("/v1/track", EVENT, key="nobody"),
        "missing_event": lambda: edge.post("/v1/track", {}),
        "not_found": lambda: edge.post("/v1/nothing", {}),
        "wrong_method": lambda: edge.get("/v1/track"),
        "url_too_large": lambda: edge.post("/v1/track?" + "a" * 40_000, {}),
    }.items():
        counted = Counted(REFUSED, reason=code)
        assert refusal(await send())[1] == code
        assert counted.moved == 1, code
    for path, body in (("/v1/m", b"{"), ("/v1/m", b"[]"), ("/v1/m", b"\xff")):
        counted = Counted(REFUSED, reason="bad_json")
        assert refusal(await edge.post(path, body)) == (400, "bad_json")
        assert counted.moved == 1
    assert len(await edge.rejections()) == 1


async def test_a_rejected_event_of_a_closed_minute_makes_room_for_the_next(
    make_edge: MakeEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = await make_edge(refusals_kept_per_minute=2)
    for _ in range(5):
        await edge.post("/v1/track", b"{")
    assert len(await edge.rejections()) == 2
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 61)
    for _ in range(5):
        await edge.post("/v1/track", b"{")
    monkeypatch.undo()
    assert len(await edge.rejections()) == 2


async def test_what_is_kept_of_a_refused_request_is_bounded(edge: Edge) -> None:
    await edge.post("/v1/track", b'{"a":"' + b"x" * 1_000_000)
    (rejection,) = await edge.rejections()
    assert len(rejection.data) <= 65_536


async def test_sources_have_names_that_labels_can_bear() -> None:
    import msgspec

    for name in ("a" * 65, "a b", "", "-x", "é"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": name, "write_key": "k"}, SourceSettings)
