"""What couriers write down: where they begin, what a commit says, and who may make it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.store import deliveries
from collector.store.deliveries import (
    Change,
    CourierKey,
    DeadLetter,
    Fenced,
    Settled,
    Status,
    Waiting,
    multirange,
)
from tests.destinations.depot import event, store, users

KEY = CourierKey("hook")
NOW = datetime.now(UTC)


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def register(connection: asyncpg.Connection, start: str, began_at: datetime = NOW) -> int:
    """The first event of a destination that is new."""
    await deliveries.register(connection, "hook", "fake", start, began_at.timestamp(), "d")
    row = await connection.fetchrow("select first_seq, position from collector.couriers")
    assert row["position"] == row["first_seq"] - 1
    first: int = row["first_seq"]
    return first


async def three_days(connection: asyncpg.Connection) -> None:
    """Ten events on each, the last of them today."""
    for days in (2, 1, 0):
        at = NOW - timedelta(days)
        rows = [event(f"d{days}-{n}", received_at=at, timestamp=at) for n in range(10)]
        await store(connection, rows)


# --- where it begins ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "began", "first"),
    [
        ("beginning", NOW, 1),
        ("now", NOW + timedelta(seconds=1), 31),
        ("now", NOW - timedelta(hours=1), 21),  # accepted since the collector was started
        ((NOW - timedelta(days=1, hours=1)).isoformat(), NOW, 11),
        ((NOW - timedelta(days=1, hours=1)).replace(tzinfo=None).isoformat(), NOW, 11),
        ((NOW + timedelta(days=1)).isoformat(), NOW, 31),
    ],
    ids=["beginning", "now", "since-the-start", "a-time", "a-time-without-zone", "a-time-to-come"],
)
async def test_a_new_destination_begins_where_it_was_told_to(
    connection: asyncpg.Connection, start: str, began: datetime, first: int
) -> None:
    await three_days(connection)
    assert await register(connection, start, began) == first


@pytest.mark.parametrize("start", ["now", "beginning", "2026-01-01"])
async def test_without_any_event_it_begins_with_the_first(
    connection: asyncpg.Connection, start: str
) -> None:
    assert await register(connection, start) == 1


async def test_one_that_is_known_goes_on_where_it_is(connection: asyncpg.Connection) -> None:
    await three_days(connection)
    assert await register(connection, "now", NOW + timedelta(1)) == 31
    assert await register(connection, "beginning") == 31


# --- commits -----------------------------------------------------------------------------------


@pytest.fixture
async def revision(connection: asyncpg.Connection) -> int:
    """Of a courier that was opened under epoch 3, with twenty events to bring."""
    await store(connection, users(20, 5))
    await register(connection, "beginning")
    return (await deliveries.open_courier(connection, KEY, 3)).revision


async def test_what_was_committed_is_what_is_found(
    connection: asyncpg.Connection, revision: int
) -> None:
    waiting = [
        Waiting(3, "m2", 2, 1.5, NOW.timestamp(), "throttled", "not now"),
        Waiting(5, "m4", 0, 0.0, 0.0, "behind_another", ""),
        Waiting(6, "m5", 1, 0.0, 0.0, "", "", sending=True),
    ]
    settled = [Settled(seq, "delivered", "", 1) for seq in (1, 2, 4, 7, 8)]
    change = Change(revision, 2, 3, waiting, [(4, 4), (7, 8)], settled=settled)
    await deliveries.commit(connection, KEY, 3, change)
    saved = await deliveries.open_courier(connection, KEY, 3)
    assert (saved.position, saved.revision, saved.state) == (2, revision + 2, "running")
    assert saved.waiting == waiting
    assert saved.runs == {4: 4, 7: 8}
    assert saved.counts == {("delivered", ""): 5}
    change = Change(revision + 2, 8, 0, drop=[3, 4, 5, 6, 7], settled=[Settled(3, "skipped", "x")])
    await deliveries.commit(connection, KEY, 3, change)
    saved = await deliveries.open_courier(connection, KEY, 4)
    assert (saved.waiting, saved.runs, saved.position) == ([], {}, 8)
    assert saved.counts == {("delivered", ""): 5, ("skipped", "x"): 1}


@pytest.mark.parametrize(("epoch", "off"), [(2, 0), (4, 0), (3, 1), (3, -1)])
async def test_a_commit_of_another_epoch_or_revision_changes_nothing(
    connection: asyncpg.Connection, revision: int, epoch: int, off: int
) -> None:
    change = Change(revision + off, 5, 0, settled=[Settled(1, "delivered")])
    with pytest.raises(Fenced):
        await deliveries.commit(connection, KEY, epoch, change)
    assert await connection.fetchval("select position from collector.couriers") == 0
    assert await connection.fetchval("select count(*) from collector.delivery_counts") == 0


@pytest.mark.parametrize(
    ("before", "status", "after"),
    [
        (("running", None), Status("paused", "denied", "401"), ("paused", "denied")),
        (("paused", "by_hand"), Status("running"), ("paused", "by_hand")),
        (("paused", "by_hand"), Status("paused", "denied"), ("paused", "by_hand")),
        (
            ("paused", "denied"),
            Status("paused", "refuses_everything"),
            ("paused", "refuses_everything"),
        ),
        (("cancelled", None), Status("done"), ("cancelled", None)),
        (("running", None), Status("running", "away"), ("running", "away")),
        (("paused", "by_hand"), Status("done"), ("done", None)),
    ],
)
async def test_what_a_person_has_ordered_meanwhile_stands(
    connection: asyncpg.Connection,
    revision: int,
    before: tuple[str, str | None],
    status: Status,
    after: tuple[str, str | None],
) -> None:
    await connection.execute("update collector.couriers set state = $1, reason = $2", *before)
    await deliveries.commit(connection, KEY, 3, Change(revision, 0, 0, status=status))
    row = await connection.fetchrow("select state, reason from collector.couriers")
    assert tuple(row) == after


async def test_any_text_of_a_vendor_can_be_kept(
    connection: asyncpg.Connection, revision: int
) -> None:
    text = "\0\ud800 ö😀" + "x" * 5_000
    letter = DeadLetter(1, "m0", "track", "E", "s", 0, "refused", text, 1)
    change = Change(
        revision,
        1,
        0,
        [Waiting(2, "m1", 1, 0.0, 1.0, "refused", text)],
        settled=[Settled(1, "refused", "refused", 1)],
        letters=[letter],
        last_error=text,
        status=Status("paused", "denied", text),
    )
    await deliveries.commit(connection, KEY, 3, change)
    kept = await connection.fetchval("select detail from collector.dead_letters")
    assert len(kept) == deliveries.DETAIL_CHARS
    assert kept.startswith(" ? ö😀x")


async def test_runs_of_events_are_counted_and_logged_as_what_they_are(
    connection: asyncpg.Connection, revision: int
) -> None:
    settled = [
        Settled(1, "refused", "expired", events=1_000_000_000),
        Settled(1_000_000_001, "refused", "expired"),
        Settled(1_000_000_005, "refused", "expired", events=2),
    ]
    await deliveries.commit(connection, KEY, 3, Change(revision, 1_000_000_006, 0, settled=settled))
    assert (
        await connection.fetchval("select events from collector.delivery_counts") == 1_000_000_003
    )
    seqs = await connection.fetchval("select seqs::text from collector.delivery_log")
    assert seqs == "{[1,1000000002),[1000000005,1000000007)}"


@given(st.sets(st.integers(1, 60)), st.randoms())
def test_a_multirange_names_every_number_once(seqs: set[int], dice: object) -> None:
    entries = [Settled(seq, "delivered") for seq in seqs]
    dice.shuffle(entries)  # type: ignore[attr-defined]
    text = multirange(entries)
    found: list[int] = []
    for part in text.strip("{}").split("),"):
        if part:
            first, end = part.strip("[)").split(",")
            found += range(int(first), int(end))
    assert found == sorted(seqs)
    assert text.count("[") == sum(1 for seq in seqs if seq - 1 not in seqs)


# --- claims and settings -----------------------------------------------------------------------


async def test_a_claim_is_whose_it_was_first(connection: asyncpg.Connection) -> None:
    claim = deliveries.claim
    assert await claim(connection, "a", [("E", "1", "m1"), ("E", "2", "m1")]) == ["m1", "m1"]
    assert await claim(connection, "a", [("E", "3", "m2"), ("E", "1", "m2")]) == ["m2", "m1"]
    assert await claim(connection, "a", [("E", "1", "m1")]) == ["m1"], "sent again"
    assert await claim(connection, "b", [("E", "1", "m2")]) == ["m2"]
    assert await claim(connection, "a", [("F", "1", "m2")]) == ["m2"]


async def test_a_claim_is_freed_by_whose_it_is(
    connection: asyncpg.Connection, revision: int
) -> None:
    await deliveries.claim(connection, "hook", [("E", "1", "m1"), ("E", "2", "m2")])
    freed = [("E", "1", "m1"), ("E", "2", "m9")]
    await deliveries.commit(connection, KEY, 3, Change(revision, 0, 0, freed=freed))
    assert await connection.fetchval("select array_agg(key) from collector.claims") == ["2"]


async def test_other_settings_let_a_destination_and_its_replays_go_on(
    connection: asyncpg.Connection, revision: int
) -> None:
    await connection.execute(
        "insert into collector.couriers (destination, replay, type, first_seq, position) "
        "values ('hook', 1, 'fake', 1, 0), ('hook', 2, 'fake', 1, 0), ('other', 0, 'fake', 1, 0)"
    )
    await connection.execute("update collector.couriers set state = 'paused', reason = 'denied'")
    await connection.execute("update collector.couriers set reason = 'by_hand' where replay = 2")

    async def states() -> list[str]:
        found = await connection.fetch(
            "select state from collector.couriers order by destination, replay"
        )
        return [row["state"] for row in found]

    await deliveries.configured(connection, "hook", "d")
    assert await states() == ["paused"] * 4
    await deliveries.configured(connection, "hook", "e")
    assert await states() == ["running", "running", "paused", "paused"]
