"""
Reading segment files one after the other, past whatever is damaged or gone.

A position that is missing is lost, and is said to be: between two records, at the end of a file
that the next one continues, or in front of the oldest file. How many events a lost frame held
is known from the totals in the next file's header.

Units    positions count frames; sizes and offsets are bytes.
Errors   OSError when the disk cannot be read; damage and missing files are not errors.
"""

import os

from collector.journal.base import Reading, Record, Totals
from collector.journal.segment import HEAD, Found, Segment, record_at, scan

READ_CHUNK = 1 << 20


class Place:
    """Where the last read ended, so that the next one goes on from there."""

    def __init__(self) -> None:
        self._after = -1
        self._segment: Segment | None = None
        self._offset = 0
        self._totals: Totals | None = None

    def read(self, segments: list[Segment], after: int, end: int, bytes_max: int) -> Reading:
        """The records behind *after*, up to *end*; blocks on the disk. There must be some."""
        segment, offset, totals = self._locate(segments, after)
        lost_frames = 0
        lost_events: Totals = {}
        if segment.first > after + 1:
            lost_frames = segment.first - after - 1
            after = segment.first - 1
        records: list[Record] = []
        size = 0
        while size < bytes_max and after < end:
            following = next((s for s in segments if s.first > segment.first), None)
            limit = segment.size
            before = following.first if following else end + 1
            found, offset = _records(segment, offset, limit, after, before, bytes_max - size)
            for record in found:
                lost_frames += record.position - after - 1
                after = record.position
                size += len(record.data) + HEAD
                if totals is not None:
                    totals[record.source] = totals.get(record.source, 0) + record.events
            records.extend(found)
            if offset < limit and after < before - 1:
                continue
            if following is None:
                # The rest of the newest file is damaged: what was acknowledged in it is lost.
                lost_frames += end - after
                after = end
                break
            lost_frames += following.first - 1 - after
            after = following.first - 1
            if following.header is None:
                totals = None
            else:
                if totals is not None:
                    missing = _missing(totals, following.header.totals)
                    lost_events = _sum(lost_events, missing)
                totals = dict(following.header.totals)
            segment, offset = following, following.data_start
        self._after, self._segment, self._offset, self._totals = after, segment, offset, totals
        return Reading(records, after, lost_frames, lost_events)

    def totals_at(self, segments: list[Segment], position: int) -> Totals:
        """Events of all frames up to *position*, by source; empty where the files do not tell."""
        _, _, totals = self._locate(segments, position)
        return dict(totals or {})

    def _locate(self, segments: list[Segment], after: int) -> tuple[Segment, int, Totals | None]:
        """The file with the position behind *after*, where to look in it, and the totals there."""
        if self._after == after and self._segment in segments:
            return self._segment, self._offset, self._totals
        segment = segments[0]
        for candidate in segments:
            if candidate.first <= after + 1:
                segment = candidate
        totals = dict(segment.header.totals) if segment.header else None
        offset = segment.data_start
        for found in _scan(segment):
            if found.position > after:
                break
            if totals is not None:
                totals[found.source] = totals.get(found.source, 0) + found.events
            offset = found.end
        return segment, offset, totals


def _scan(segment: Segment) -> list[Found]:
    try:
        with segment.path.open("rb") as file:
            data = file.read(segment.size)
    except FileNotFoundError:
        return []
    return list(scan(data, segment.data_start, whole=True))


def _records(
    segment: Segment, offset: int, limit: int, after: int, before: int, bytes_max: int
) -> tuple[list[Record], int]:
    """The records of positions between *after* and *before*, and where the next may begin."""
    want = min(limit - offset, max(READ_CHUNK, min(bytes_max, 8 * READ_CHUNK)))
    try:
        file = segment.path.open("rb", buffering=0)
    except FileNotFoundError:
        return [], limit  # somebody removed it: its positions are lost
    with file:
        while True:
            data = os.pread(file.fileno(), want, offset)
            whole = offset + want >= limit
            records: list[Record] = []
            behind = 0
            for found in scan(data, 0, whole=whole):
                if found.position >= before:
                    return records, offset + found.start
                behind = found.end
                if found.position > after:
                    records.append(found.record(data))
                    after = found.position
            if whole or len(data) < want:
                return records, limit
            if behind:
                return records, offset + behind
            # One record, or damage, that is longer than the chunk: take more at once.
            need = record_at(data, 0)
            longer = need if isinstance(need, int) and need > want else 2 * want
            want = min(limit - offset, longer)


def _missing(have: Totals, should: Totals) -> Totals:
    return {s: n - have.get(s, 0) for s, n in should.items() if n > have.get(s, 0)}


def _sum(a: Totals, b: Totals) -> Totals:
    return {s: a.get(s, 0) + b.get(s, 0) for s in {*a, *b}}
