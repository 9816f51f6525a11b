"""Limits: each has a name, an answer that says what to do, and costs no neighbour anything."""

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from collector.event import Event, Rejection
from collector.ingest import SourceSettings
from collector.ingest.decode import Decoder
from tests.edge import Counted, Edge, MakeEdge, refusal
from tests.rawhttp import Wire, basic, encode

REFUSED = "collector_ingest_refused_requests_total"
EVENT = {"event": "E", "userId": "u"}
AUTHORIZATION = {"Authorization": basic("demo")}
MIB = 1 << 20


# --- events of a batch ---------------------------------------------------------------------------


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


@pytest.mark.parametrize("padding", [0, 50_000])
async def test_the_brackets_around_a_batch_are_not_its_events(
    make_edge: MakeEdge, padding: int
) -> None:
    """An event as deep as may be is read at full speed in a batch too."""
    edge = await make_edge(depth_max=10)
    repaired = Counted("collector_ingest_repaired_requests_total")
    text = "[" * 8 + "]" * 8
    good = '{"type":"track","event":"E","properties":{"a":%s}}'
    pad = f'{{"type":"track","event":"{"[{" * 9}","properties":{{"a":"{"x" * padding}"}}}}'
    for path, body in (
        ("/v1/track", good % text),
        ("/v1/batch", f'{{"batch":[{pad},{good % text}]}}'),
    ):
        answer = await edge.post(path, body.encode())
        assert (answer.status, answer.body) == (200, b'{"success":true}')
    assert repaired.moved == 0
    assert len(await edge.events()) == 3
    answer = await edge.post(
        "/v1/batch", f'{{"batch":[{pad},{good % ("[" + text + "]")}]}}'.encode()
    )
    assert [r["code"] for r in answer.json()["rejected"]] == ["too_deep"]
    assert repaired.moved == 1


@pytest.mark.parametrize("flaw", ["", ',{"type":"track","event":"E","properties":{"a":NaN}}'])
@pytest.mark.parametrize("name", ["context", "integrations"])
async def test_what_stands_beside_a_batch_counts_for_each_of_its_events(
    make_edge: MakeEdge, name: str, flaw: str
) -> None:
    """Or 10 MB would become 50 GB of rows."""
    edge = await make_edge(body_bytes_max=100_000, event_bytes_max=20_000)

    def batch(events: int, size: int) -> bytes:
        event = '{"type":"track","event":"E"}'
        every = ",".join([event] * (events - bool(flaw)))
        return f'{{"batch":[{every}{flaw}],"{name}":{{"a":"{"x" * (size - 8)}"}}}}'.encode()

    for events, size in ((100, 1_001), (2, 20_001), (1000, 101)):
        counted = Counted(REFUSED, reason="context_too_large")
        answer = await edge.post("/v1/batch", batch(events, size))
        assert refusal(answer) == (413, "context_too_large")
        assert counted.moved == 1
    assert await edge.events() == []
    for events, size in ((100, 1_000), (5, 20_000), (1000, 100)):
        answer = await edge.post("/v1/batch", batch(events, size), key="secret-1")
        assert answer.status == 200
        stored = await edge.events()
        assert [len(getattr(event, name)) for event in stored] == [size] * events


@pytest.mark.parametrize(
    "body",
    [
        b'{"batch":[' + b"[]" * (5 * MIB - 20) + b"]}",
        b'{"batch":["' + b"\\" * (10 * MIB - 20) + b'"]}',
        b'{"context":{"a":NaN,"b":[' + b"{}," * (3 * MIB) + b"1]},"
        b'"batch":[{"type":"track","event":"E"}]}',
    ],
)
async def test_reading_leniently_takes_bounded_memory(edge: Edge, body: bytes) -> None:
    assert len(body) < 10 * MIB
    tracemalloc.start()
    try:
        for answer in await asyncio.gather(*(edge.post("/v1/batch", body) for _ in range(4))):
            assert answer.status in {200, 400, 413}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Four bodies, each twice on its way in, and two of them being read.
    assert peak < (4 * 2 * 10 + 2 * 100) * MIB


async def test_only_some_of_many_bad_events_are_named_and_all_are_counted(edge: Edge) -> None:
    answer = await edge.post("/v1/batch", {"batch": [{"type": "nothing"}] * 500})
    told = answer.json()
    assert (told["rejected_count"], len(told["rejected"])) == (500, 50)
    assert len(await edge.rejections()) == 500


# --- headers, addresses, connections -------------------------------------------------------------


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


async def test_a_request_for_which_there_is_no_memory_is_to_be_resent(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "_fast", out_of_memory)
        answer = await edge.post("/v1/track", EVENT)
        assert refusal(answer) == (503, "out_of_memory")
        assert int(answer.header("Retry-After") or 0) > 0
        image = await edge.get("/px.gif?wk=demo&e=E")
        assert (image.status, image.header("Content-Type")) == (200, "image/gif")
        assert image.header("X-Collector") == "out_of_memory"
    assert not caplog.records
    assert (await edge.post("/v1/track", EVENT)).status == 200
