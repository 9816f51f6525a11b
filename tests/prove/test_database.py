"""Database: what reconciling finds in rows that are not as they should be."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from collector.prove.database import Database, Found
from collector.prove.ledger import Ledger

JOURNAL = "6f2b5c1e-0000-4000-8000-000000000001"


class Stored:
    """Ten events of two senders, as a collector stores them, and whatever is done to them."""

    def __init__(self, dsn: str, connection: asyncpg.Connection) -> None:
        self.ledger = Ledger("r", 2)
        self.database = Database(dsn, self.ledger)
        self.execute = connection.execute

    async def fill(self) -> None:
        numbers = [n for sender in (0, 1) for n in self.ledger.take(sender, 5)]
        for sender in (0, 1):
            self.ledger.acknowledge(self.ledger.earlier(sender, 0, 5))
        for seq, number in enumerate(numbers, 1):
            await self.store(seq, number)
        await self.execute("update collector.sequence set last = 10")

    async def store(self, seq: int, number: int) -> None:
        await self.execute(
            "insert into collector.events (seq, received_at, timestamp, message_id, type, source, "
            "user_id, properties) values ($1, now(), now(), $2, 'track', 's', $3, "
            "jsonb_build_object('number', $4::bigint))",
            seq,
            self.ledger.id_of(number),
            self.ledger.user_of(number),
            number,
        )

    async def found(self) -> Found:
        return await self.database.reconcile(JOURNAL)


@pytest.fixture
async def stored(dsn: str) -> AsyncIterator[Stored]:
    connection = await asyncpg.connect(dsn)
    made = Stored(dsn, connection)
    await made.fill()
    yield made
    await connection.close()


def wrong(found: Found) -> dict[str, int]:
    """What is not as it should be."""
    counts = {
        name: getattr(found, name).count
        for name in ("lost", "twice", "disordered", "altered", "unknown", "rejected")
    } | {"seq_breaks": found.seq_breaks, "seq_missing": found.seq_missing}
    return {name: count for name, count in counts.items() if count}


async def test_all_is_well(stored: Stored) -> None:
    found = await stored.found()
    assert (wrong(found), found.rows, found.stored, found.unasked) == ({}, 10, 10, 0)


async def test_a_lost_event_is_named(stored: Stored) -> None:
    await stored.execute("delete from collector.events where seq = 4")
    found = await stored.found()
    assert wrong(found) == {"lost": 1, "seq_breaks": 1}
    assert list(found.lost) == ["prove-r-6"]


async def test_the_last_event_is_missed_too(stored: Stored) -> None:
    await stored.execute("delete from collector.events where seq = 10")
    assert wrong(await stored.found()) == {"lost": 1, "seq_missing": 1}


async def test_an_event_that_is_there_twice_is_named(stored: Stored) -> None:
    await stored.store(11, 0)
    await stored.execute("update collector.sequence set last = 11")
    found = await stored.found()
    assert wrong(found) == {"twice": 1}
    assert (list(found.twice), found.rows, found.stored) == (["prove-r-0"], 11, 10)


async def test_two_rows_with_one_seq_break_it(stored: Stored) -> None:
    await stored.execute(
        "insert into collector.events select * from collector.events where seq = 3"
    )
    assert wrong(await stored.found()) == {"twice": 1, "seq_breaks": 1}


async def test_events_of_one_sender_in_another_order_are_counted(stored: Stored) -> None:
    await stored.execute("update collector.events set seq = 3 - seq where seq in (1, 2)")
    found = await stored.found()
    assert wrong(found) == {"disordered": 1}
    assert list(found.disordered) == ["prove-r-0"]


async def test_senders_may_be_stored_in_any_order(stored: Stored) -> None:
    await stored.execute("update collector.events set seq = (seq + 4) % 10 + 1")
    assert wrong(await stored.found()) == {}


@pytest.mark.parametrize("change", ["user_id = 'u'", "properties = '{}'", "properties = null"])
async def test_an_event_that_is_not_as_it_was_sent_is_named(stored: Stored, change: str) -> None:
    await stored.execute(f"update collector.events set {change} where seq = 10")
    found = await stored.found()
    assert (wrong(found), list(found.altered)) == ({"altered": 1}, ["prove-r-9"])


@pytest.mark.parametrize("name", ["prove-r-10", "prove-r-", "prove-r-x", "prove-r-01"])
async def test_events_that_were_never_sent_are_named(stored: Stored, name: str) -> None:
    await stored.execute("update collector.events set message_id = $1 where seq = 10", name)
    found = await stored.found()
    assert (wrong(found), list(found.unknown)) == ({"lost": 1, "unknown": 1}, [name])


async def test_a_faultless_event_that_was_rejected_is_named(stored: Stored) -> None:
    await stored.execute("delete from collector.events where seq = 10")
    await stored.execute("update collector.sequence set last = 9")
    await stored.execute(
        "insert into collector.rejected_events (received_at, accepted, reason, detail, message_id, "
        "payload, payload_bytes) values (now(), true, 'poison', '', 'prove-r-9', '', 0)"
    )
    found = await stored.found()
    assert wrong(found) == {"lost": 1, "rejected": 1}
    assert found.reasons == {"poison": 1}


async def test_what_was_stored_without_an_answer_is_no_fault(stored: Stored) -> None:
    (number,) = stored.ledger.take(0, 1)
    await stored.store(11, number)
    await stored.execute("update collector.sequence set last = 11")
    found = await stored.found()
    assert (wrong(found), found.unasked, found.stored) == ({}, 1, 11)


async def test_events_from_before_and_of_others_do_not_matter(stored: Stored) -> None:
    later = Database(stored.database._postgres.dsn, Ledger("later", 1))
    assert await later.begin(needed=True) == 10
    await stored.store(11, 0)
    await stored.execute("update collector.sequence set last = 11")
    found = await later.reconcile()
    assert (wrong(found), found.rows) == ({}, 0)


async def test_the_books_are_those_of_one_journal(stored: Stored) -> None:
    await stored.execute(
        "insert into collector.accounting (journal, source, outcome, events) values "
        f"('{JOURNAL}', 'a', 'stored', 6), ('{JOURNAL}', 'b', 'stored', 4), "
        "(gen_random_uuid(), 'a', 'stored', 1000)"
    )
    assert (await stored.found()).books == {"stored": 10}
