"""
Accounts: what became of every accepted event, source by source.

    accepted = stored + duplicate + rejected + lost + waiting

The outcomes are rows in Postgres that move with the cursor; accepted is counted by the journal;
waiting is what the journal holds behind the cursor. The two sides are counted apart, so the
equation is a check: it does not hold by construction.

Shapes   counts of events by source; rejected by source and reason.
"""

from collections import Counter
from typing import Any

import msgspec

from collector import metrics
from collector.journal import Journal
from collector.store.postgres import Connection

OUTCOMES = ("stored", "duplicate", "rejected", "lost")


Entries = Counter[tuple[str, str, str]]  # events by source, outcome and reason


async def enter(connection: Connection, journal_id: str, books: Entries) -> None:
    """Add *books* to those of the journal, in the transaction that moves its cursor."""
    entries = [(key, events) for key, events in sorted(books.items()) if events]
    if not entries:
        return
    await connection.execute(
        "insert into collector.accounting as a (journal, source, outcome, reason, events) "
        "select $1, q.source, q.outcome, q.reason, q.events from "
        "unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) "
        "q (source, outcome, reason, events) "
        "on conflict (journal, source, outcome, reason) "
        "do update set events = a.events + excluded.events",
        journal_id,
        [key[0] for key, _ in entries],
        [key[1] for key, _ in entries],
        [key[2] for key, _ in entries],
        [events for _, events in entries],
    )


async def outcomes(connection: Connection, journal_id: str) -> Entries:
    """The books of the journal as Postgres has them."""
    rows = await connection.fetch(
        "select source, outcome, reason, events from collector.accounting where journal = $1",
        journal_id,
    )
    return Counter({(row["source"], row["outcome"], row["reason"]): row["events"] for row in rows})


class Books:
    """The accounts of one journal, kept beside the rows in Postgres."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._outcomes: Entries = Counter()
        self._baseline: Counter[str] = Counter()  # accepted before this Postgres kept the books
        self._passed: Counter[str] = Counter()  # accepted events up to the cursor
        self.known = False  # whether Postgres was asked yet

    async def load(self, connection: Connection, position: int) -> None:
        """Read the books of the journal as they stand at *position*."""
        journal_id = self._journal.id
        entries = await outcomes(connection, journal_id)
        baseline = await connection.fetchval(
            "select baseline::text from collector.journals where id = $1", journal_id
        )
        self._outcomes = entries
        self._baseline = Counter(msgspec.json.decode(baseline or "{}", type=dict[str, int]))
        counted = self._baseline.copy()
        for (source, _, _), events in entries.items():
            counted[source] += events
        self._journal.tell(position, dict(counted))
        self._passed = Counter(await self._journal.totals_at(position))
        self.known = True

    def add(self, books: Entries, passed: "Counter[str]") -> None:
        """Take in what one batch added, and the accepted events that its frames were counted as."""
        self._outcomes.update(books)
        self._passed.update(passed)

    def accepted(self) -> Counter[str]:
        """Events answered 200, by source."""
        accepted = Counter(self._journal.accepted)
        accepted.subtract(self._baseline)
        return accepted

    def waiting(self) -> Counter[str]:
        """Events in the journal behind the cursor, by source."""
        if not self.known:
            return Counter()
        waiting = Counter(self._journal.accepted)
        waiting.subtract(self._passed)
        return waiting

    def outcome(self, name: str) -> Counter[str]:
        """Events of one outcome, by source."""
        sums: Counter[str] = Counter()
        for (source, outcome, _), events in self._outcomes.items():
            if outcome == name:
                sums[source] += events
        return sums

    def rejected(self) -> dict[tuple[str, ...], int]:
        """Rejected events by source and reason."""
        return {
            (source, reason): events
            for (source, outcome, reason), events in self._outcomes.items()
            if outcome == "rejected"
        }

    def table(self) -> list[dict[str, Any]]:
        """A row for each source, with `missing`: what the equation leaves over, 0 if it holds."""
        accepted, waiting = self.accepted(), self.waiting()
        outcomes = {name: self.outcome(name) for name in OUTCOMES}
        sources = {s for counter in (accepted, *outcomes.values()) for s in counter if s}
        table = []
        for source in sorted(sources):
            row: dict[str, Any] = {"source": source, "accepted": accepted[source]}
            row |= {name: outcomes[name][source] for name in OUTCOMES}
            row["waiting"] = waiting[source]
            row["missing"] = row["accepted"] - row["waiting"] - sum(row[n] for n in OUTCOMES)
            table.append(row)
        return table

    def publish(self, accounts: metrics.Accounts) -> None:
        """Show the books as metrics."""

        def by_source(read: Any) -> Any:
            return lambda: {(source,): n for source, n in read().items() if source}

        counter, label = accounts.counter, ["source"]
        counter(
            "collector_ingest_accepted_events",
            "Events answered 200.",
            label,
            by_source(self.accepted),
        )
        counter(
            "collector_store_stored_events",
            "Events in Postgres, each once.",
            label,
            by_source(lambda: self.outcome("stored")),
        )
        counter(
            "collector_store_duplicate_events",
            "Accepted events whose message id was stored before.",
            label,
            by_source(lambda: self.outcome("duplicate")),
        )
        counter(
            "collector_store_rejected_events",
            "Accepted events that are in rejected_events, by reason.",
            ["source", "reason"],
            self.rejected,
        )
        counter(
            "collector_store_lost_events",
            "Accepted events whose frame could not be read back.",
            label,
            by_source(lambda: self.outcome("lost")),
        )
        accounts.gauge(
            "collector_store_waiting_events",
            "Accepted events that are in the journal and not yet in Postgres.",
            label,
            by_source(self.waiting),
        )
