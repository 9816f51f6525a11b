"""Body: unzipped and received within bounds of size, time and memory, all at once."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard

from collector.journal import JournalSettings
from tests.edge import Counted, Edge, MakeEdge, assert_in_flight_is_empty, read, refusal
from tests.rawhttp import Wire, basic, chunked, encode, exchange

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


# --- encodings -----------------------------------------------------------------------------------


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


# --- size and time -------------------------------------------------------------------------------


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
