"""
Body: a request's bytes, read and unzipped within bounds.

Three bounds hold at once: the size of one body (unzipped, checked while unzipping, so that a bomb
stops early), the time it may take to arrive, and the bytes of all bodies in memory.

Errors   BadRequest(body_too_large 413, bad_gzip, bad_deflate, bad_zstd, unsupported_encoding 415,
         body_timeout 408, body_cut), Busy(too_many_bytes_in_flight).
"""

import asyncio
import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard
from aiohttp import StreamReader
from aiohttp.http_exceptions import HttpProcessingError

from collector import metrics
from collector.errors import BadRequest, Busy

CHUNK = 256 << 10
MEMBERS_MAX = 32  # concatenated gzip members; each costs a copy of what follows it
THREAD_BYTES = 64 << 10  # unzipping more than this leaves the loop alone


class InFlight:
    """The bytes of all bodies in memory, bounded."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        metrics.in_flight.set_function(lambda: self._bytes)

    def take(self, size: int) -> None:
        """Count *size* bytes in, or raise Busy."""
        if self._bytes + size > self._bytes_max:
            raise Busy(
                "too_many_bytes_in_flight",
                "too much is being received at once; resend later",
                retry_after_seconds=2,
            )
        self._bytes += size

    def give(self, size: int) -> None:
        """Count *size* bytes out again."""
        self._bytes -= size


def too_large(bytes_max: int) -> BadRequest:
    """The error for a body of more than *bytes_max* bytes."""
    return BadRequest(
        "body_too_large",
        f"the body is larger than {bytes_max} bytes unzipped: send smaller batches",
        status=413,
    )


async def receive(
    content: StreamReader, bytes_max: int, seconds: float, take: Callable[[int], None]
) -> bytes:
    """The body as it came over the wire; *take* is told of every part as it arrives."""
    try:
        if content.is_eof():
            body = content.read_nowait(-1)
            if len(body) > bytes_max:
                raise too_large(bytes_max)
            take(len(body))
            return body
        parts: list[bytes] = []
        size = 0
        async with asyncio.timeout(seconds):
            while part := await content.readany():
                size += len(part)
                if size > bytes_max:
                    raise too_large(bytes_max)
                take(len(part))
                parts.append(part)
        return b"".join(parts)
    except TimeoutError as exc:
        raise BadRequest(
            "body_timeout", f"the body did not arrive within {seconds:g} s: resend it", status=408
        ) from exc
    except (HttpProcessingError, ConnectionError) as exc:
        raise BadRequest("body_cut", "the body ended before its end: resend it") from exc


class _Decompress(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


async def unzip(data: bytes, encoding: str, bytes_max: int) -> bytes:
    """*data* without its Content-Encoding; stops as soon as it grows past *bytes_max*."""
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return data
    unzipper = _UNZIPPERS.get(name)
    if unzipper is None:
        raise BadRequest(
            "unsupported_encoding",
            "this Content-Encoding is not understood: use gzip, deflate, zstd or none",
            status=415,
        )
    if len(data) < THREAD_BYTES:
        return unzipper(data, bytes_max)
    return await asyncio.to_thread(unzipper, data, bytes_max)


def _inflate(data: bytes, bytes_max: int, code: str, make: Callable[[], _Decompress]) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        for _ in range(MEMBERS_MAX):
            unzip = make()
            while not unzip.eof:
                part = unzip.decompress(data, min(CHUNK, bytes_max + 1 - size))
                data = unzip.unconsumed_tail
                size += len(part)
                if size > bytes_max:
                    raise too_large(bytes_max)
                if not part and not data and not unzip.eof:
                    raise BadRequest(code, "the compressed body is cut short: send it whole")
                parts.append(part)
            data = unzip.unused_data
            if not data.strip(b"\0"):  # padding behind the last member is allowed
                return b"".join(parts)
    except zlib.error as exc:
        raise BadRequest(code, f"the body is not what Content-Encoding says ({exc})") from exc
    raise BadRequest(code, f"the body has more than {MEMBERS_MAX} compressed members: send one")


def _gunzip(data: bytes, bytes_max: int) -> bytes:
    return _inflate(data, bytes_max, "bad_gzip", lambda: zlib.decompressobj(31))


def _undeflate(data: bytes, bytes_max: int) -> bytes:
    # Named after the raw format, sent as the zlib one by those who read the standard.
    zlib_format = len(data) >= 2 and data[0] & 15 == 8 and (data[0] * 256 + data[1]) % 31 == 0
    window = 15 if zlib_format else -15
    return _inflate(data, bytes_max, "bad_deflate", lambda: zlib.decompressobj(window))


def _unzstd(data: bytes, bytes_max: int) -> bytes:
    # A window of 8 MiB is what every decoder must support (RFC 8878).
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(
        data, read_across_frames=True
    )
    parts: list[bytes] = []
    size = 0
    try:
        while part := reader.read(CHUNK):
            size += len(part)
            if size > bytes_max:
                raise too_large(bytes_max)
            parts.append(part)
    except zstandard.ZstdError as exc:
        raise BadRequest("bad_zstd", f"the body is not what Content-Encoding says ({exc})") from exc
    if not parts:
        raise BadRequest("bad_zstd", "the compressed body is cut short: send it whole")
    return b"".join(parts)


_UNZIPPERS = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "zstd": _unzstd,
}
