"""
Feeder: frames of the journal, refined and made into rows, one batch ahead of the writer.

While Postgres takes one batch, the next is prepared, in slices short enough that acknowledgements
are not held up. Preparing touches nothing outside: a batch that is thrown away is made again.

Units    slices in seconds; sizes in bytes.
Errors   none: a frame that cannot be decoded or refined is one rejection, kept whole, that counts
         for all of its events.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from collector.event import Rejection
from collector.journal import Journal, Record
from collector.refine import Limits
from collector.store.portions import (
    REJECTIONS_KEPT_MAX,
    Portion,
    Prepared,
    fill,
    undecodable,
)
from collector.store.refiner import Refiner

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.0005  # short: Postgres drinks the COPY stream from a small socket buffer
READ_BYTES = 1_048_576  # of the journal at once: what a batch may exceed its size by


class Batch:
    """What one transaction stores: the events of the frames behind one position up to another."""

    __slots__ = (
        "end",
        "events",
        "expected",
        "lost",
        "lost_frames",
        "oldest",
        "rejected",
        "rejections",
        "totals",
    )

    def __init__(self, expected: int) -> None:
        self.expected = expected  # the cursor before it
        self.end = expected  # and after it
        self.oldest = 0  # when its first frame was appended, in microseconds since 1970
        self.events: list[Prepared] = []
        self.rejections: list[Rejection] = []
        self.rejected: Counter[tuple[str, str]] = Counter()  # by source and reason
        self.totals: Counter[str] = Counter()  # accepted events, by source
        self.lost_frames = 0
        self.lost: Counter[str] = Counter()  # events, by source

    def add(self, portion: Portion) -> None:
        """Add what the frames behind those so far came to."""
        self.oldest = self.oldest or portion.oldest
        self.events += portion.events
        self.rejections += portion.rejections[: REJECTIONS_KEPT_MAX - len(self.rejections)]
        self.rejected.update(portion.rejected)
        self.totals.update(portion.totals)
        self.lost.update(portion.lost)


class Feeder:
    """Prepares batches from *after* on, until it is stopped."""

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        after: int,
        *,
        events_max: int,
        bytes_max: int,
        linger_seconds: float,
        refiner: Refiner | None = None,
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._after = after
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._linger_seconds = linger_seconds
        self._refiner = refiner
        self._ready: asyncio.Queue[Batch] = asyncio.Queue(1)
        self._get: asyncio.Task[Batch] | None = None
        self._task = asyncio.create_task(self._run(), name="feeder")

    async def next(self, seconds: float) -> Batch | None:
        """The next batch, or None if there is none within *seconds*."""
        if self._get is None:
            self._get = asyncio.create_task(self._ready.get(), name="feeder-get")
        await asyncio.wait(
            {self._get, self._task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if self._get.done():
            batch = self._get.result()
            self._get = None
            return batch
        if self._task.done():
            self._task.result()  # it ends by a defect only, which is raised here
        return None

    async def stop(self) -> None:
        """Stop preparing; what was prepared is dropped."""
        tasks = [task for task in (self._task, self._get) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            batch = await self._prepare()
            await self._ready.put(batch)
            # A light load is stored in few transactions; a heavy one fills batches by itself.
            if len(batch.events) < self._events_max // 4:
                await asyncio.sleep(max(0.0, began + self._linger_seconds - time.monotonic()))

    async def _prepare(self) -> Batch:
        batch = Batch(self._after)
        size = 0
        while True:
            reading = await self._journal.read(batch.end, min(READ_BYTES, self._bytes_max))
            batch.lost_frames += reading.lost_frames
            batch.lost.update(reading.lost_events)
            batch.totals.update(reading.lost_events)
            batch.add(await self._portion(reading.records))
            size += sum(len(record.data) for record in reading.records)
            batch.end = reading.end
            if len(batch.events) >= self._events_max // 2 or size >= self._bytes_max // 2:
                break
            if len(batch.rejections) >= REJECTIONS_KEPT_MAX or batch.end >= self._journal.end:
                break
        self._after = batch.end
        return batch

    async def _portion(self, records: Sequence[Record]) -> Portion:
        """What *records* come to; made here unless there is so much that the refiner does it."""
        if self._refiner is not None:
            portion = await self._refiner.portion(records)
            if portion is not None:
                return portion
        portion = Portion()
        slice_began = time.perf_counter()
        for record in records:
            try:
                for _ in fill(portion, self._limits, *record):
                    if time.perf_counter() - slice_began > SLICE_SECONDS:
                        await asyncio.sleep(0)
                        slice_began = time.perf_counter()
            except Exception as exc:
                # Of a newer collector, or a defect of ours: it must not hold up the others.
                log.exception("A frame cannot be decoded", extra={"position": record.position})
                undecodable(portion, exc, *record)
        return portion
