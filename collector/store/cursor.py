"""
Cursor: how far this journal is stored, and whether the row that says so is still ours.

The row carries an epoch that grows whenever a process opens the journal. The last one that we had
stands in a file beside the journal, so that a second collector on a copy of the directory, a
journal that was replaced, and a Postgres that was restored or replaced are told from a restart.
Each is said, counted as an anomaly, and does not stop the road: what is on the disk and may not be
stored is stored (again), and dedupe drops what was.

    cursor_rewound         the cursor went back: Postgres was restored or failed over
    cursor_before_oldest   it went back behind what is kept: the gap is lost
    cursor_missing         Postgres does not know the journal: it was replaced by an empty one
    cursor_beyond_end      the cursor is of frames that we do not have: an older copy of ourselves
    cursor_taken           another collector uses a copy of this journal
    journal_replaced       the journal is another one than last time

Units    positions count frames.
Errors   Postgres' own pass through; a file that cannot be written is said.
"""

import asyncio
import logging
import socket
from collections import Counter
from pathlib import Path

import msgspec

from collector import metrics
from collector.journal import Journal
from collector.store import atomic
from collector.store.accounts import enter, outcomes
from collector.store.postgres import Connection

log = logging.getLogger(__name__)


class Claim(msgspec.Struct):
    """The journal that this collector opened last, and what it knew of it."""

    journal: str = ""
    epoch: int = 0
    position: int = 0  # stored by ourselves up to here at least; written when we stop


class Cursor:
    """Finds the position of one journal in whatever Postgres there is."""

    def __init__(self, journal: Journal, path: Path) -> None:
        self._journal = journal
        self._path = path
        self._claim: Claim | None = None  # not read yet
        self._opened = False  # whether this process did

    @property
    def epoch(self) -> int:
        """What guards the cursor against others that move it."""
        return self._claim.epoch if self._claim is not None else 0

    async def open(self, connection: Connection, reached: int) -> int:
        """
        The position behind which to read, which this process had *reached* before (or 0).

        From then on no other process can move the cursor.
        """
        if self._claim is None:
            self._claim = await asyncio.to_thread(self._load)
        if self._claim.journal == self._journal.id:
            reached = max(reached, self._claim.position)
        async with connection.transaction(isolation="read_committed"):
            # Locked: a batch of a process before us is stored by now, or never will be.
            row = await connection.fetchrow(
                "select position, epoch, baseline::text from collector.journals "
                "where id = $1 for update",
                self._journal.id,
            )
            if row is not None and not await self._lost(row["position"], row["epoch"], reached):
                return await self._go_on(
                    connection, row["position"], row["epoch"], row["baseline"], reached
                )
        async with connection.transaction(isolation="read_committed"):
            return await self._begin(connection)

    async def close(self, position: int) -> None:
        """Remember for the next start that everything up to *position* is stored."""
        if self._opened and self._claim is not None:
            await self._save(Claim(self._claim.journal, self._claim.epoch, position))

    async def _lost(self, position: int, epoch: int, reached: int) -> bool:
        """Whether the row is not ours any more; then the journal has a new identity."""
        journal, claim = self._journal, self._claim
        assert claim is not None
        ours = claim.journal == journal.id and claim.epoch >= epoch
        beyond = position > (journal.end if self._opened else journal.end_at_open)
        if ours and not beyond:
            return False
        if self._opened:
            kind, base = "cursor_taken", reached
        elif beyond:
            # If nobody else moved the cursor, all that we have was stored by ourselves.
            kind, base = "cursor_beyond_end", journal.end_at_open if ours else journal.oldest - 1
        elif claim.journal == journal.id:
            kind, base = "cursor_taken", reached
        else:
            return False  # the directory has moved here, and was not used meanwhile
        _anomaly(
            kind,
            "The cursor is not ours: the journal's directory was replaced by an older copy, or "
            "another collector uses a copy of it; this journal goes on under a new identity",
            cursor=position,
            behind=base,
        )
        await journal.renew(base)
        self._claim = Claim()
        return True

    async def _go_on(
        self, connection: Connection, position: int, epoch: int, baseline: str, reached: int
    ) -> int:
        journal = self._journal
        if position < reached:
            _anomaly(
                "cursor_rewound",
                "The cursor went back: Postgres was restored or failed over; kept frames are "
                "read again",
                cursor=position,
                reached=reached,
            )
        journal.forget(position)  # first of all: what is kept behind it is needed now
        if position < journal.oldest - 1:
            position = await self._write_off(connection, position, baseline)
        if not self._opened:
            self._compare()
            epoch = max(epoch, self.epoch) + 1
            await self._save(Claim(journal.id, epoch, position))
        await connection.execute(
            "update collector.journals set position = $2, epoch = $3, opened_at = now(), "
            "host = $4 where id = $1",
            journal.id,
            position,
            max(epoch, self.epoch),
            socket.gethostname(),
        )
        self._opened = True
        return position

    async def _write_off(self, connection: Connection, position: int, baseline: str) -> int:
        """Count as lost what lies between the cursor and the oldest frame; the position there."""
        journal = self._journal
        start = journal.oldest - 1
        _anomaly(
            "cursor_before_oldest",
            "The cursor is before the journal's oldest frame: Postgres was restored from a backup "
            "that is older than what the journal keeps, or files were removed; the gap is lost",
            cursor=position,
            oldest=journal.oldest,
        )
        metrics.journal_lost_frames.inc(start - position)
        lost = Counter(await journal.totals_at(start))
        lost.subtract(msgspec.json.decode(baseline, type=dict[str, int]))
        for (source, _, _), events in (await outcomes(connection, journal.id)).items():
            lost[source] -= events
        entries = Counter({(source, "lost", ""): n for source, n in lost.items() if n > 0})
        await enter(connection, journal.id, entries)
        return start

    async def _begin(self, connection: Connection) -> int:
        """Make the row of a journal that this Postgres does not know yet."""
        journal, claim = self._journal, self._claim
        assert claim is not None
        start = max(journal.base, journal.oldest - 1)
        if claim.journal == journal.id:
            _anomaly(
                "cursor_missing",
                "Postgres does not know this journal any more: it was replaced by an empty one; "
                "what the journal keeps is stored again",
                behind=start,
            )
        else:
            if not journal.base:
                self._compare()
            log.info("A journal begins in this Postgres", extra={"journal": journal.id})
        journal.forget(start)
        baseline = await journal.totals_at(start)  # first: if it fails, nothing was claimed
        epoch = claim.epoch + 1 if claim.journal == journal.id else 1
        await self._save(Claim(journal.id, epoch, start))
        await connection.execute(
            "insert into collector.journals (id, position, epoch, baseline, host) "
            "values ($1, $2, $3, $4, $5)",
            journal.id,
            start,
            epoch,
            msgspec.json.encode(baseline).decode(),
            socket.gethostname(),
        )
        self._opened = True
        return start

    def _compare(self) -> None:
        claim = self._claim
        if claim is not None and claim.journal and claim.journal != self._journal.id:
            _anomaly(
                "journal_replaced",
                "The journal is another one than last time; what the former one held and was not "
                "stored is not here",
                former=claim.journal,
            )

    # --- the file --------------------------------------------------------------------------

    def _load(self) -> Claim:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Claim)
        except (OSError, msgspec.DecodeError):
            return Claim()

    async def _save(self, claim: Claim) -> None:
        """Before Postgres has it: an epoch that is higher than the one we saved is not ours."""
        self._claim = claim
        try:
            await asyncio.to_thread(atomic.write, self._path, msgspec.json.encode(claim))
        except OSError as exc:
            log.warning("%s cannot be written: %s", self._path.name, exc.strerror)


def _anomaly(kind: str, sentence: str, **fields: object) -> None:
    log.warning(sentence, extra=fields)
    metrics.journal_anomalies.labels(kind).inc()
