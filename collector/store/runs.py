"""
Runs: sorted files of message-id hashes, each behind a small filter.

    hashes n x u64, sorted | seq offsets n x u32 | filter | bucket starts u32

A look-up asks the filter (two bits an id, in memory); where it says maybe, one `pread` fetches
the bucket of about 64 hashes in which the id would stand. So a look-up costs the same however
many ids a run holds. Runs are never changed, only merged into larger ones and dropped.

Everything here is derived from `collector.seen` and can be built anew from it: files are not
fsynced, their checksums are compared when they are opened, and a damaged one is dropped with all
others. A hit is a candidate, which Postgres confirms; an id that is missing would be stored twice.

Units    a hash is the first 8 bytes of the 16-byte id, seq is the event's number.
Errors   OSError when a file cannot be read or written, ValueError when it is damaged, Stopped.
"""

import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from collector.store.seen import RunFacts

Hashes = NDArray[np.uint64]

BUCKET = 64  # ids in one bucket, on average
SLICE = 1 << 20  # ids that a merge holds in memory
STEP_BYTES = 1 << 19  # of a file whose checksum is computed, which holds the GIL
BITS_MAX = 16
BITS_MIN = 4

_U32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_3 = np.uint64(3)
_7 = np.uint64(7)
_ONE = np.uint8(1)

Stop = Callable[[], bool]  # asked between two slices


class Stopped(Exception):
    """What was being written is not wanted any more."""


class Run:
    """One sorted run, open for look-ups."""

    def __init__(
        self,
        directory: Path,
        facts: RunFacts,
        filter_: NDArray[np.uint8],
        starts: NDArray[np.uint32],
    ) -> None:
        self.facts = facts
        self.path = directory / facts.file
        self._fd = os.open(self.path, os.O_RDONLY)
        self._filter = filter_
        self._starts = starts
        self._bits = np.uint64(facts.filter_bits)
        self._shift = 64 - facts.bucket_log

    @classmethod
    def open(cls, directory: Path, facts: RunFacts) -> "Run":
        """Open a run that an earlier process wrote; ValueError if its file is not as it was."""
        path = directory / facts.file
        filter_bytes, starts_bytes = facts.filter_bits // 8 + 1, ((1 << facts.bucket_log) + 1) * 4
        body = facts.count * 12
        if path.stat().st_size != body + filter_bytes + starts_bytes:
            raise ValueError(f"{facts.file} has another length")
        with path.open("rb") as file:
            sound = (
                _checksum(file, facts.count * 8) == facts.hashes_crc
                and _checksum(file, facts.count * 4) == facts.offsets_crc
            )
            tail = file.read()
        if not sound or crc32c(tail) != facts.tail_crc:
            raise ValueError(f"{facts.file} has another checksum")
        filter_ = np.frombuffer(tail, np.uint8, filter_bytes)
        starts = np.frombuffer(tail, np.uint32, offset=filter_bytes)
        return cls(directory, facts, filter_, starts)

    @property
    def memory_bytes(self) -> int:
        """What look-ups keep in memory."""
        return self._filter.nbytes + self._starts.nbytes

    def maybe(self, hashes: Hashes) -> list[int]:
        """Indexes of the *hashes* that the filter does not rule out."""
        first, second = _bits(hashes, self._bits)
        a = self._filter[first >> _3] >> (first & _7).astype(np.uint8)
        b = self._filter[second >> _3] >> (second & _7).astype(np.uint8)
        return np.flatnonzero(a & b & _ONE).tolist()

    def find(self, hash_: int) -> list[int]:
        """The seqs under which *hash_* stands in this run."""
        bucket = hash_ >> self._shift
        start, end = int(self._starts[bucket]), int(self._starts[bucket + 1])
        block = _read(self._fd, (end - start) * 8, start * 8)
        wanted = hash_.to_bytes(8, "little")
        found = []
        at = block.find(wanted)
        while at >= 0:
            if at % 8 == 0:
                place = self.facts.count * 8 + (start + at // 8) * 4
                offset = int.from_bytes(_read(self._fd, 4, place), "little")
                found.append(self.facts.first_seq + offset)
            at = block.find(wanted, at + 1)
        return found

    def slice(self, first_bucket: int, last_bucket: int) -> tuple[Hashes, NDArray[np.uint64]]:
        """The hashes and seqs of the buckets from *first_bucket* up to before *last_bucket*."""
        start, end = int(self._starts[first_bucket]), int(self._starts[last_bucket])
        count = end - start
        hashes = np.frombuffer(_read(self._fd, count * 8, start * 8), np.uint64)
        place = self.facts.count * 8 + start * 4
        offsets = np.frombuffer(_read(self._fd, count * 4, place), np.uint32)
        return hashes, offsets + np.uint64(self.facts.first_seq)

    def close(self, *, remove: bool = False) -> None:
        """Let go of the file, and remove it."""
        os.close(self._fd)
        if remove:
            self.path.unlink(missing_ok=True)


def _bits(hashes: Hashes, bits: np.uint64) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The two filter bits of each hash: from its upper and its lower half."""
    return ((hashes >> _32) * bits) >> _32, ((hashes & _U32) * bits) >> _32


def write_recent(directory: Path, recent: Mapping[int, int], bits_per_id: float, stop: Stop) -> Run:
    """Write the ids of a dict from hash to seq."""
    hashes = np.fromiter(recent.keys(), np.uint64, len(recent))
    seqs = np.fromiter(recent.values(), np.uint64, len(recent))
    order = np.argsort(hashes)
    span = (int(seqs.min()), int(seqs.max()))
    parts = [(hashes[order], seqs[order])]
    return _write(directory, 0, len(order), span, bits_per_id, parts, stop)


def merge(directory: Path, runs: Sequence[Run], bits_per_id: float, stop: Stop) -> Run:
    """Write one run with the ids of several of one level."""
    count = sum(run.facts.count for run in runs)
    span = (min(run.facts.first_seq for run in runs), max(run.facts.last_seq for run in runs))
    level = runs[0].facts.level + 1
    return _write(directory, level, count, span, bits_per_id, _merged(runs), stop)


def _write(
    directory: Path,
    level: int,
    count: int,
    span: tuple[int, int],
    bits_per_id: float,
    parts: Iterable[tuple[Hashes, NDArray[np.uint64]]],
    stop: Stop,
) -> Run:
    """
    Write a run of *count* ids, given as sorted *parts* that follow each other in hash order.

    *span* is the first and last seq in it. Blocks; meant for a thread. Leaves no file if it fails.
    """
    name = f"{uuid.uuid4().hex}.run"
    first_seq, last_seq = span
    bits = np.uint64(max(64, int(count * min(BITS_MAX, max(BITS_MIN, bits_per_id)))))
    bucket_log = max(3, (count // BUCKET).bit_length())
    filter_ = np.zeros(int(bits) // 8 + 1, np.uint8)
    counts = np.zeros((1 << bucket_log) + 1, np.uint32)
    shift = np.uint64(64 - bucket_log)
    path = directory / name
    done = hashes_crc = offsets_crc = 0
    try:
        with path.open("wb", buffering=0) as file:
            fd = file.fileno()
            for hashes, seqs in parts:
                if stop():
                    raise Stopped
                offsets = (seqs - np.uint64(first_seq)).astype(np.uint32)
                hashes_crc = _write_all(fd, hashes, done * 8, hashes_crc)
                offsets_crc = _write_all(fd, offsets, count * 8 + done * 4, offsets_crc)
                done += len(hashes)
                buckets = (hashes >> shift).astype(np.int64)
                counts[1:] += np.bincount(buckets, minlength=1 << bucket_log).astype(np.uint32)
                for at in range(0, len(hashes), 1 << 16):  # small steps: each holds the GIL
                    for bit in _bits(hashes[at : at + (1 << 16)], bits):
                        np.bitwise_or.at(filter_, bit >> _3, _ONE << (bit & _7).astype(np.uint8))
            assert done == count
            starts = np.cumsum(counts, dtype=np.uint32)
            tail_crc = _write_all(fd, filter_, count * 12, 0)
            tail_crc = _write_all(fd, starts, count * 12 + filter_.nbytes, tail_crc)
        facts = RunFacts(
            file=name,
            level=level,
            count=count,
            first_seq=first_seq,
            last_seq=last_seq,
            filter_bits=int(bits),
            bucket_log=bucket_log,
            hashes_crc=hashes_crc,
            offsets_crc=offsets_crc,
            tail_crc=tail_crc,
        )
        return Run(directory, facts, filter_, starts)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _merged(runs: Sequence[Run]) -> Iterator[tuple[Hashes, NDArray[np.uint64]]]:
    """The ids of several runs in hash order, in slices of about SLICE ids."""
    count = sum(run.facts.count for run in runs)
    log = min(run.facts.bucket_log for run in runs)
    slices = min(1 << log, max(1, count // SLICE))
    slices = 1 << (slices.bit_length() - 1)
    for at in range(slices):
        hashes, seqs = [], []
        for run in runs:
            step = (1 << run.facts.bucket_log) // slices
            part = run.slice(at * step, (at + 1) * step)
            hashes.append(part[0])
            seqs.append(part[1])
        all_hashes = np.concatenate(hashes)
        order = np.argsort(all_hashes, kind="stable")
        yield all_hashes[order], np.concatenate(seqs)[order]


def _read(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise OSError(errno.EIO, "a dedupe file is shorter than it was")
    return data


def _checksum(file: IO[bytes], size: int) -> int:
    """The checksum of the next *size* bytes."""
    crc = 0
    while size > 0 and (data := file.read(min(size, STEP_BYTES))):
        crc = extend(crc, data)
        size -= len(data)
    return crc


def _write_all(fd: int, data: NDArray[Any], offset: int, crc: int) -> int:
    """Write *data* at *offset*, and return the checksum *crc* carried on over it."""
    view = data.view(np.uint8).data
    while view:
        step = view[:STEP_BYTES]
        written = os.pwrite(fd, step, offset)
        crc = extend(crc, bytes(step[:written]))
        view, offset = view[written:], offset + written
    return crc
