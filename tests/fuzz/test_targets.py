"""The fuzz targets hold for what the fuzzer begins with, and for all that it ever found."""

import base64
import gzip

import pytest

from tests.fuzz.targets import TARGETS, json_body, lenient, pixel, run, seeds, zipped

# target, input in base64: what broke a promise once
FOUND: list[tuple[str, str]] = []


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds(name: str) -> None:
    count = 0
    for seed in seeds(name):
        run(name, seed)
        count += 1
    assert count > 50


def test_what_was_found_stays_repaired() -> None:
    for name, data in FOUND:
        run(name, base64.b64decode(data))


# --- the targets themselves can fail -------------------------------------------------------------


def test_the_json_target_sees_a_number_that_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.ingest.decode.doubtful", lambda *_, **__: False)
    with pytest.raises(AssertionError):
        json_body(b'\1{"event":"E","properties":{"a":1e131071}}')


def test_the_pixel_target_sees_a_nul_that_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.ingest.decode.doubtful", lambda *_, **__: False)
    with pytest.raises(AssertionError):
        pixel(b"\1wk=demo&e=a%00b")


def test_the_zip_target_sees_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\0" + gzip.compress(bytes(60_000))
    zipped(data)
    monkeypatch.setattr("tests.fuzz.targets.UNZIPPED_BYTES_MAX", 1_000_000)
    monkeypatch.setattr("tests.fuzz.targets.unzip", too_kind)
    with pytest.raises(AssertionError):
        zipped(data)


async def too_kind(data: bytes, encoding: str, bytes_max: int) -> bytes:
    return bytes(2 * bytes_max)


def test_the_leniency_target_sees_depth_that_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"[" * 13 + b"]" * 13
    lenient(data)
    monkeypatch.setattr("tests.fuzz.targets.doubtful", lambda *_, **__: False)
    with pytest.raises(AssertionError):
        lenient(data)
