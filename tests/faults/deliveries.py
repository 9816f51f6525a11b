"""
Deliveries: what destinations got, compared with what is stored and with what the books say.

    every stored event arrived at least once         unless the books say why not
    first arrivals are in the order of seq           for each person
    a request for one event has its messageId as key the same each time
    what arrived again was under way at a fault      nothing comes twice without a reason
    stored = delivered + skipped + refused + pending

Units    seconds since 1970.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import asyncpg

from tests.faults.receiver import Arrival, Receiver

SETTLED_SECONDS_MAX = 60.0  # until nothing is pending, once the load and the fault are over


class Book(NamedTuple):
    """What the tables say of one destination."""

    stored: int  # since its first event
    delivered: int
    skipped: int
    refused: int
    pending: int
    state: str
    reason: str | None
    letters: int  # rows of dead_letters


class Stored(NamedTuple):
    """One row of `events`."""

    seq: int
    id: str
    who: str


class Delivered(NamedTuple):
    """One line of the table: all destinations of a test together."""

    fault: str
    rounds: int
    destinations: int
    stored: int  # events, times the destinations that they were for
    arrived: int  # of them, at least once
    missing: int  # neither arrived nor refused nor skipped
    disordered: int  # first arrivals that another event of the same person had overtaken
    again: int  # arrivals beyond the first
    seconds: float | None  # the longest that the test asked about
    note: str


class Arrived(NamedTuple):
    """What one destination got, beside what is stored."""

    stored: int
    once: int
    missing: list[str]
    disordered: list[str]
    again: list[tuple[Arrival, Arrival]]  # the first one and each later one


class Fault(NamedTuple):
    """When something was wrong."""

    since: float
    until: float


def destination(name: str, url: str, **settings: Any) -> dict[str, Any]:
    """A webhook on this machine that tries again soon."""
    return {
        "type": "webhook", "name": name, "url": url, "private_addresses": ["127.0.0.0/8"],
        "retry_seconds_min": 0.2, "retry_seconds_max": 2.0, **settings,
    }  # fmt: skip


def configured(*destinations: dict[str, Any]) -> dict[str, str]:
    """The setting of a process that has these."""
    return {"DESTINATIONS": json.dumps(destinations)}


# --- tables --------------------------------------------------------------------------------------


async def books(dsn: str) -> dict[str, Book]:
    """What every destination's books say, in one moment."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select c.destination, s.last - c.first_seq + 1, "
            "coalesce((select sum(events) from collector.delivery_counts n "
            "where n.destination = c.destination and n.replay = 0 and outcome = 'delivered'), 0), "
            "coalesce((select sum(events) from collector.delivery_counts n "
            "where n.destination = c.destination and n.replay = 0 and outcome = 'skipped'), 0), "
            "coalesce((select sum(events) from collector.delivery_counts n "
            "where n.destination = c.destination and n.replay = 0 and outcome = 'refused'), 0), "
            "s.last - c.position - c.settled_ahead, c.state, c.reason, "
            "(select count(*) from collector.dead_letters d where d.destination = c.destination) "
            "from collector.couriers c, collector.sequence s where c.replay = 0"
        )
    finally:
        await connection.close()
    return {row[0]: Book(*map(int, row[1:6]), row[6], row[7], row[8]) for row in rows}


def assert_sums(found: dict[str, Book]) -> None:
    """stored = delivered + skipped + refused + pending."""
    for name, book in found.items():
        settled = book.delivered + book.skipped + book.refused
        assert book.stored == settled + book.pending, f"{name}: {book}"


async def registered(dsn: str, names: Iterable[str], seconds: float = 60.0) -> None:
    """Wait until every one of *names* has its row."""
    wanted = set(names)
    async with asyncio.timeout(seconds):
        while True:
            try:
                if wanted <= set(await books(dsn)):
                    return
            except (asyncpg.PostgresError, OSError):
                pass  # not there yet, or not migrated
            await asyncio.sleep(0.1)


async def settled(
    dsn: str, names: Iterable[str], seconds: float = SETTLED_SECONDS_MAX
) -> dict[str, Book]:
    """Wait until nothing is pending for *names*, and return the books of all."""
    wanted = set(names)
    found: dict[str, Book] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = await books(dsn)
        assert_sums(found)
        if wanted <= set(found) and all(found[name].pending == 0 for name in wanted):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"still pending after {seconds:g} s: {found}")


async def stored_events(dsn: str) -> list[Stored]:
    """All events, in the order of seq."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select seq, message_id, coalesce(user_id, anonymous_id) from collector.events "
            "order by seq"
        )
    finally:
        await connection.close()
    return [Stored(*row) for row in rows]


# --- comparing -----------------------------------------------------------------------------------


def compare(stored: Sequence[Stored], arrivals: Sequence[Arrival]) -> Arrived:
    """What is missing, what was overtaken, what came again; nothing may come that nobody stored."""
    rows = {row.id: row for row in stored}
    first: dict[str, Arrival] = {}
    newest: dict[str, int] = {}  # seq by person
    disordered = []
    again = []
    for arrival in arrivals:
        assert arrival.id in rows, f"never stored: {arrival}"
        row = rows[arrival.id]
        assert arrival.who == row.who, f"{arrival} is stored as {row}"
        assert arrival.key in {None, arrival.id}, f"another key: {arrival}"
        if arrival.id in first:
            again.append((first[arrival.id], arrival))
            continue
        first[arrival.id] = arrival
        if row.seq < newest.get(row.who, 0):
            disordered.append(arrival.id)
        newest[row.who] = max(row.seq, newest.get(row.who, 0))
    missing = [row.id for row in stored if row.id not in first]
    return Arrived(len(rows), len(first), missing, disordered, again)


def oldest_again(arrived: Iterable[Arrived], faults: Sequence[Fault]) -> float:
    """
    How long before a fault the oldest event arrived that came again after it.

    Raises AssertionError if one came again with no fault in between.
    """
    longest = 0.0
    for what in arrived:
        for first, later in what.again:
            reasons = [one for one in faults if one.until >= first.at and one.since <= later.at]
            assert reasons, f"again without a reason: {first}, {later}"
            longest = max(longest, reasons[0].since - first.at)
    return longest


async def reconcile(dsn: str, receiver: Receiver, *names: str) -> dict[str, Arrived]:
    """Wait until nothing is pending; every stored event arrived, in order, and the books say so."""
    found = await settled(dsn, names)
    stored = await stored_events(dsn)
    arrived = {name: compare(stored, receiver.arrivals(name)) for name in names}
    for name, what in arrived.items():
        book = found[name]
        assert not what.missing, f"{name}: {len(what.missing)} missing: {what.missing[:5]}"
        assert not what.disordered, f"{name}: overtaken: {what.disordered[:5]}"
        assert book.delivered == book.stored == len(stored), f"{name}: {book}"
        assert book.refused == book.skipped == book.letters == 0, f"{name}: {book}"
    return arrived


def summary(
    fault: str,
    rounds: int,
    arrived: Iterable[Arrived],
    seconds: float | None = None,
    note: str = "",
) -> Delivered:
    """What *arrived*, for the table."""
    each = list(arrived)
    return Delivered(
        fault,
        rounds,
        len(each),
        sum(what.stored for what in each),
        sum(what.once for what in each),
        sum(len(what.missing) for what in each),
        sum(len(what.disordered) for what in each),
        sum(len(what.again) for what in each),
        seconds,
        note,
    )


def table(results: Sequence[Delivered]) -> list[str]:
    """The lines that `make faults` prints, as Markdown."""
    head = (
        "fault, while events are delivered", "rounds", "destinations", "stored", "arrived",
        "missing", "overtaken", "again", "seconds",
    )  # fmt: skip
    rows = [head]
    rows += [
        (
            one.fault,
            *(f"{number:,}" for number in one[1:8]),
            "–" if one.seconds is None else f"{one.seconds:.1f}",
        )
        for one in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    ruler = "| --- " + "| ---: " * (len(head) - 1) + "|"
    notes = [f"{one.fault}: {one.note}" for one in results if one.note]
    return [lines[0], ruler, *lines[1:], *notes]
