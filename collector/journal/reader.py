"""
Reading segment files one after the other, past whatever is damaged or gone.

A position that is missing is lost, and is said to be: between two records, at the end of a file
that the next one continues, or in front of the oldest file. How many events the lost frames held
is known from the totals in the header of the next file, and is said when that file is reached.

A file counts only up to where the next one begins: what stands behind that in an abandoned file
was never acknowledged.

Units    positions count frames; sizes and offsets are bytes.
Errors   OSError when the disk cannot be read; damage and missing files are not errors.
"""

import sys
from collections.abc import Iterator, Sequence

from collector.journal.base import Reading, Record, Totals
from collector.journal.segment import HEAD, Segment


class Walk:
    """A place between two frames, and the way on from there."""

    def __init__(self, position: int, totals: Totals | None) -> None:
        self.position = position  # all up to here was passed or is lost
        self.totals = totals  # events up to here, by source; None while no file tells
        self.segment: Segment | None = None  # the file it is in; None in front of the oldest
        self.offset = 0
        self.lost_frames = 0
        self.lost_events: Totals = {}

    def enter(self, segment: Segment) -> None:
        """Go on to the beginning of *segment*."""
        if segment.header is not None:
            told = segment.header.totals
            if self.totals is not None:
                for source, events in told.items():
                    if (missing := events - self.totals.get(source, 0)) > 0:
                        self.lost_events[source] = self.lost_events.get(source, 0) + missing
            self.totals = dict(told)
        self.segment, self.offset = segment, 0  # the mark tells where its records begin

    def to(self, until: int, segments: Sequence[Segment]) -> Iterator[Record]:
        """Go on to position *until*, past the records on the way; it may be left at each."""
        here = self.segment
        ahead = [s for s in segments if here is None or s.first > here.first]
        for following in (*ahead, None):
            last = min(until, following.first - 1) if following else until
            if self.segment and self.position < last:
                for record, behind in self.segment.records(self.offset):
                    position = record.position
                    if position > last:
                        break
                    if position <= self.position:
                        continue
                    self.lost_frames += position - self.position - 1
                    self.position, self.offset = position, behind
                    if (totals := self.totals) is not None:
                        totals[record.source] = totals.get(record.source, 0) + record.events
                    yield record
                    if position == last:
                        break
            if self.position < last:
                self.lost_frames += last - self.position
                self.position = last
            if following is None or last == until:
                return
            self.enter(following)


def walk_to(segments: Sequence[Segment], position: int) -> Walk:
    """A walk that has come to *position*."""
    held = [segment for segment in segments if segment.first <= position]
    if not held:
        oldest = segments[0] if segments else None
        if oldest and oldest.header and oldest.first == position + 1:
            return Walk(position, dict(oldest.header.totals))
        # Nothing was in front of the first frame; elsewhere the files do not tell any more.
        return Walk(position, {} if position == 0 else None)
    walk = _set_out(held)
    for _ in walk.to(position, segments):
        pass
    return walk


def find_end(segments: Sequence[Segment]) -> tuple[int, Totals, int]:
    """The newest position, the events up to there, and the bytes behind its record; 0 if none."""
    if not segments:
        return 0, {}, 0
    newest = segments[-1]
    end = newest.first - 1
    walk = _set_out(segments)
    for record in walk.to(sys.maxsize, segments):
        end = max(end, record.position)
    return end, walk.totals or {}, newest.size - max(walk.offset, newest.data_start)


def _set_out(segments: Sequence[Segment]) -> Walk:
    """A walk towards the end of *segments*, from the last place where the totals are known."""
    start = next((one for one in reversed(segments) if one.header), segments[0])
    walk = Walk(start.first - 1, {} if start.first == 1 else None)
    walk.enter(start)
    return walk


class Reader:
    """Reads on from where the last read ended. Both methods block on the disk."""

    def __init__(self) -> None:
        self._walk = Walk(-1, None)  # where the last read ended
        self._asked = Walk(-1, None)  # where totals were asked for last
        self._told: tuple[int, Totals] = (-1, {})  # a position, and the events up to there

    def tell(self, position: int, totals: Totals) -> None:
        """Hear from the store how many events all frames up to *position* held."""
        self._told = position, totals

    def _believe(self, walk: Walk) -> None:
        """Take what was told for what the files on the way to *walk* do not tell any more."""
        position, totals = self._told
        if walk.position == position and (walk.totals is None or walk.lost_frames):
            walk.totals = dict(totals)

    def read(self, segments: Sequence[Segment], after: int, end: int, bytes_max: int) -> Reading:
        """The records behind *after*, up to *end*, until they are *bytes_max* or more."""
        walk = self._walk
        if walk.position != after or walk.segment not in segments:
            walk = walk_to(segments, after)
            if walk.segment is None and self._walk.position == after:
                walk.totals = self._walk.totals  # the file it was in was let go of
            self._believe(walk)
        walk.lost_frames, walk.lost_events = 0, {}
        records: list[Record] = []
        size = 0
        for record in walk.to(end, segments):
            records.append(record)
            size += len(record.data) + HEAD
            if size >= bytes_max:
                break
        self._walk = walk
        return Reading(records, walk.position, walk.lost_frames, walk.lost_events)

    def totals_at(self, segments: Sequence[Segment], position: int) -> Totals:
        """Events of all frames up to *position*, by source; empty where the files do not tell."""
        walk = self._walk
        if walk.position != position:
            walk = self._asked
            if walk.segment not in segments or walk.position > position:
                walk = walk_to(segments, position)
            for _ in walk.to(position, segments):
                pass
            self._believe(walk)
            self._asked = walk
        return dict(walk.totals or {})
