"""
Verdict: what came of a proof, as a table for people and as one JSON object for programs.

Shapes   counts are of events unless they say otherwise; `books` is None where nobody can look.
Units    seconds.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from collector.prove.database import Found
from collector.prove.faults import Breaker
from collector.prove.ledger import Ledger

BOOKS = ("accepted", "stored", "duplicate", "rejected", "lost", "waiting")


class Verdict(msgspec.Struct, kw_only=True):
    """What was sent, what was found, and everything that is wrong with it."""

    run: str
    url: str = ""
    seed: int = 0
    seconds: float = 0.0  # of sending
    interrupted: bool = False
    sent: int
    acknowledged: int
    resent: int
    retries: int  # requests
    refused: dict[str, int]  # by code
    stored: int
    stored_unacknowledged: int
    duplicates_dropped: int | None
    rejected: dict[str, int]  # by reason
    lost: int
    stored_twice: int
    out_of_order: int
    altered: int
    unknown: int
    faults: dict[str, int]
    longest_silence_seconds: float
    acknowledged_again_seconds: dict[str, float]
    stored_again_seconds: dict[str, float]
    settle_seconds: float = 0.0  # from the end of sending until everything was stored
    seq_dense: bool
    books: dict[str, int] | None
    books_close: bool | None
    problems: list[str]
    evidence: str = ""  # where everything stands that may tell why

    @property
    def proved(self) -> bool:
        """Whether there is nothing wrong."""
        return not self.problems

    def json(self) -> bytes:
        """All of it on one line."""
        return msgspec.json.encode({"proved": self.proved, **msgspec.to_builtins(self)})

    def table(self) -> str:
        """All of it for people; the last line is the verdict."""
        rows = list(self._rows())
        width = max(len(name) for name, _ in rows) + 2
        lines = [f"{name:{width}}{value}" for name, value in rows]
        if self.proved:
            last = (
                f"PROVED: each of {self.acknowledged:,} acknowledged events is in Postgres "
                "exactly once."
            )
        else:
            last = "\n".join(f"FAILED: {problem}" for problem in self.problems)
        if self.evidence:
            last += f"\n{'Kept' if self.proved else 'The evidence stands'} in {self.evidence}"
        return "\n".join([*lines, "", last])

    def _rows(self) -> Iterator[tuple[str, str]]:
        when = " until it was interrupted" if self.interrupted else ""
        yield "run", f"{self.run}, seed {self.seed}, {self.seconds:.0f} s of sending{when}"
        yield "sent", _count(self.sent)
        yield "acknowledged", _count(self.acknowledged)
        yield (
            "stored",
            _count(self.stored, self.stored_unacknowledged, "of them never acknowledged"),
        )
        yield "sent again", _count(self.resent, self.retries, "more requests until a 200 came")
        if self.duplicates_dropped is not None:
            yield "duplicates dropped", _count(self.duplicates_dropped)
        for name, counts in (("refused", self.refused), ("rejected", self.rejected)):
            if counts:
                yield name, f"{_count(sum(counts.values()))}   {_words(counts)}"
        yield "lost", _count(self.lost)
        yield "stored twice", _count(self.stored_twice)
        yield "out of order", _count(self.out_of_order)
        yield "altered", _count(self.altered)
        yield "faults", f"{_count(sum(self.faults.values()))}   {_words(self.faults)}".rstrip()
        yield (
            "longest silence",
            f"{self.longest_silence_seconds:10.1f} s without an acknowledgement",
        )
        if self.faults:
            for name, found in (
                ("acknowledged again", self.acknowledged_again_seconds),
                ("stored again", self.stored_again_seconds),
            ):
                yield (
                    name,
                    f"{max(found.values(), default=0.0):10.1f} s at most   {_seconds(found)}",
                )
        yield "settled", f"{self.settle_seconds:10.1f} s after the last was sent"
        yield "seq dense", _yes(self.seq_dense)
        if self.books is not None:
            sums = ", ".join(f"{name} {self.books[name]:,}" for name in BOOKS)
            yield "books close", f"{_yes(self.books_close)}   {sums}"
        else:
            yield "books close", f"{'?':>10}   only a collector of our own is asked"


def judge(
    ledger: Ledger,
    found: Found,
    breaker: Breaker | None,
    status: dict[str, Any] | None,
    *,
    problems_before: Sequence[str],
) -> Verdict:
    """The verdict on what was *found*; *breaker* and *status* are of a collector of our own."""
    books: dict[str, int] | None = None
    wrong: list[str] = []
    if status is not None:
        books, wrong = audit(status, ledger, found)
    said = problems(ledger, found, ended=not problems_before, ordered=breaker is not None)
    return Verdict(
        run=ledger.run,
        sent=ledger.sent,
        acknowledged=ledger.acknowledged,
        resent=ledger.resent,
        retries=ledger.retries,
        refused=dict(ledger.refused),
        stored=found.stored,
        stored_unacknowledged=found.unasked,
        duplicates_dropped=books["duplicate"] if books is not None else None,
        rejected=dict(found.reasons),
        lost=found.lost.count,
        stored_twice=found.twice.count,
        out_of_order=found.disordered.count,
        altered=found.altered.count,
        unknown=found.unknown.count,
        faults=breaker.counts() if breaker else {},
        longest_silence_seconds=ledger.longest_silence_seconds,
        acknowledged_again_seconds=breaker.acknowledged_again() if breaker else {},
        stored_again_seconds=breaker.stored_again() if breaker else {},
        seq_dense=not (found.seq_breaks or found.seq_missing),
        books=books,
        books_close=not wrong if books is not None else None,
        problems=[*problems_before, *said, *wrong],
    )


def problems(
    ledger: Ledger, found: Found, *, ended: bool = True, ordered: bool = True
) -> Iterator[str]:
    """
    What is wrong with what was found.

    *ended* is whether every sender had its time, *ordered* whether all went through one collector.
    """
    if not ledger.acknowledged:
        yield "nothing was acknowledged, so nothing is proved"
    left = ledger.sent - ledger.acknowledged - sum(ledger.refused.values())
    if left and ended:
        yield f"{left:,} sent and never acknowledged, though there was time"
    if found.lost:
        yield f"{found.lost.count:,} acknowledged and not in Postgres: {found.lost}"
    if found.lost and not found.stored:
        yield "none of them is there: is this the Postgres that the collector stores in?"
    if found.twice:
        yield f"{found.twice.count:,} stored more than once: {found.twice}"
    if found.disordered and ordered:
        count = found.disordered.count
        yield f"{count:,} stored after a later one of the same sender: {found.disordered}"
    if found.altered:
        yield f"{found.altered.count:,} not as sent: {found.altered}"
    if found.unknown:
        yield f"{found.unknown.count:,} stored and never sent: {found.unknown}"
    if found.rejected:
        why = f"{found.rejected} ({_words(found.reasons)})"
        yield f"{found.rejected.count:,} faultless and in rejected_events: {why}"
    if ledger.refused:
        count = sum(ledger.refused.values())
        yield f"{count:,} faultless and turned down ({_words(ledger.refused)})"
    if found.seq_breaks or found.seq_missing:
        yield (
            f"seq is not dense: it breaks in {found.seq_breaks:,} places, and the newest event is "
            f"{found.seq_missing:,} behind the counter"
        )


def audit(status: dict[str, Any], ledger: Ledger, found: Found) -> tuple[dict[str, int], list[str]]:
    """The books of our own collector, summed over its sources, and what is wrong with them."""
    sources = status["store"]["sources"]
    books = {name: sum(row[name] for row in sources) for name in BOOKS}
    wrong = []
    if missing := [f"{row['source']} {row['missing']}" for row in sources if row["missing"]]:
        wrong.append(f"accepted is not the sum of what became of it: {', '.join(missing)}")
    if books["accepted"] < ledger.acknowledged + ledger.resent:
        given = ledger.acknowledged + ledger.resent
        wrong.append(f"{given:,} events were acknowledged, and accepted is {books['accepted']:,}")
    if books["stored"] != found.rows:
        wrong.append(f"{books['stored']:,} count as stored, and {found.rows:,} rows are there")
    wrong += [f"{books[n]:,} count as {n}" for n in ("lost", "rejected", "waiting") if books[n]]
    wrong += [
        f"collector.accounting has {found.books.get(name, 0):,} as {name}, and the collector says "
        f"{books[name]:,}"
        for name in ("stored", "duplicate", "rejected", "lost")
        if books[name] != found.books.get(name, 0)
    ]
    if status["anomalies"]:
        wrong.append(f"the journal and its cursor disagreed: {_words(status['anomalies'])}")
    return books, [f"the books do not close: {problem}" for problem in wrong]


def _count(count: int, of: int = 0, what: str = "") -> str:
    return f"{count:10,}" + (f"   {of:,} {what}" if of else "")


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _seconds(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.items())


def _yes(is_so: bool | None) -> str:
    return f"{'yes' if is_so else 'NO':>10}"
