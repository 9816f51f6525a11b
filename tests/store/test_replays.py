"""Replays: which numbers they span, how many events they are for, and how far they are."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from collector.errors import BadRequest
from collector.store import reader
from collector.store.desk import replays
from collector.store.desk.couriers import Outcomes
from collector.store.desk.replays import Span
from collector.store.postgres import Connection
from collector.store.selection import Selection
from tests.store.desk import (
    add_counts,
    add_courier,
    add_event,
    add_letter,
    add_log,
    add_waiting,
)

DAYS = [datetime(2026, 6, day, 12, tzinfo=UTC) for day in (1, 2, 3)]


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """Three days of events, ten each, and one destination."""
    connection = await asyncpg.connect(dsn)
    await reader.admit(connection)
    for seq in range(1, 31):
        await add_event(
            connection,
            seq,
            received_at=DAYS[(seq - 1) // 10] + timedelta(minutes=seq),
            type="identify" if seq % 5 == 0 else "track",
        )
    await add_courier(connection, "hook", position=30)
    yield connection
    await connection.close()


async def total(connection: Connection, selection: Selection) -> int:
    whole = await replays.prepare(connection, "hook", selection)
    assert whole is not None
    return sum([await replays.count(connection, selection, p) for p in replays.pieces(whole)])


# --- what it would be for --------------------------------------------------------------------


async def test_a_replay_spans_the_days_that_it_is_about(connection: Connection) -> None:
    noon = DAYS[1]
    assert await replays.span(connection, Selection()) == Span(1, 30)
    assert await replays.span(connection, Selection(since=noon)) == Span(11, 30)
    assert await replays.span(connection, Selection(until=noon)) == Span(1, 20)
    assert await replays.span(connection, Selection(since=noon, until=noon)) == Span(11, 20)
    later = noon + timedelta(days=9)
    assert await replays.span(connection, Selection(since=later)) is None


async def test_what_it_is_for_is_counted_to_the_event(connection: Connection) -> None:
    half = DAYS[1] + timedelta(minutes=15)
    assert await total(connection, Selection()) == 24
    assert await total(connection, Selection(since=half)) == 12
    assert await total(connection, Selection(types=["identify"])) == 6
    assert await total(connection, Selection(where="e.seq between 7 and 9")) == 3


def test_pieces_are_the_whole() -> None:
    whole = Span(3, 3 + 2 * replays.SPAN)
    parts = list(replays.pieces(whole))
    assert [part.first for part in parts] == [3, 3 + replays.SPAN, 3 + 2 * replays.SPAN]
    assert (parts[0].last, parts[-1].last) == (2 + replays.SPAN, whole.last)


@pytest.mark.parametrize(
    ("selection", "code"),
    [
        (Selection(types=["purchase"]), "bad_type"),
        (Selection(since=DAYS[1], until=DAYS[0]), "bad_time"),
        (Selection(since=DAYS[1], until=DAYS[1]), "bad_time"),
        (Selection(where="e.nothing"), "bad_where"),
        (Selection(where="true) or (true"), "bad_where"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    connection: Connection, selection: Selection, code: str
) -> None:
    with pytest.raises(BadRequest) as refusal:
        await replays.prepare(connection, "hook", selection)
    assert refusal.value.code == code


async def test_an_unknown_destination_is_refused(connection: Connection) -> None:
    with pytest.raises(BadRequest, match="name one of hook"):
        await replays.prepare(connection, "ga4", Selection())
    with pytest.raises(BadRequest, match="name one of hook"):
        await replays.create(connection, "ga4", Selection(), Span(1, 2))


async def test_a_condition_that_fails_on_an_old_event_is_found_out_by_counting(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SAMPLE_EVENTS", 5)
    with pytest.raises(BadRequest, match="division by zero"):
        await total(connection, Selection(where="1 / (e.seq - 3) is not null"))


async def test_a_count_that_takes_too_long_is_ended(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.reading.__wrapped__, "__defaults__", (0.2,))
    with pytest.raises(BadRequest, match="takes too long"):
        await replays.count(
            connection, Selection(where="(select pg_sleep(9)) is null"), Span(1, 30)
        )


async def test_a_dry_run_starts_nothing(connection: Connection) -> None:
    await total(connection, Selection())
    assert await replays.replays(connection) == []
    assert await connection.fetchval("select nextval('collector.replay_ids')") == 1


# --- started ---------------------------------------------------------------------------------


async def test_a_replay_is_a_courier_that_begins_before_its_first_event(
    connection: Connection,
) -> None:
    selection = Selection(since=DAYS[1], events=["Order *"], where="e.seq > 3")
    number = await replays.create(connection, "hook", selection, Span(11, 30), 16)
    found = await replays.replay(connection, number)
    assert (found.id, found.destination, found.state, found.started) == (
        1,
        "hook",
        "running",
        False,
    )
    assert (found.first_seq, found.last_seq, found.total, found.share) == (11, 30, 16, 0.0)
    assert found.selection == selection
    row = await connection.fetchrow(
        "select type, position, settled_ahead, epoch, revision from collector.couriers "
        "where replay = $1",
        number,
    )
    assert tuple(row) == ("webhook", 10, 0, 0, 0)


async def test_a_replay_shows_how_far_it_is(connection: Connection) -> None:
    number = await replays.create(connection, "hook", Selection(), Span(11, 30), 16)
    await connection.execute(
        "update collector.couriers set position = 15, settled_ahead = 5, epoch = 1, "
        "reason = 'stalled', detail = 'the vendor is away' where replay = $1",
        number,
    )
    await add_counts(connection, "hook", number, delivered=7, refused__bad=1)
    await add_counts(connection, "hook", delivered=900)
    await add_log(connection, "hook", "delivered", range(11, 17), replay=number)
    await add_waiting(connection, "hook", 17, replay=number)
    found = await replays.replay(connection, number)
    assert (found.share, found.started, found.waiting) == (0.5, True, 1)
    assert found.outcomes == Outcomes(delivered=7, refused={"bad": 1})
    assert (found.rate_per_second, found.reason) == (0.1, "stalled")


async def test_replays_are_listed_newest_first(connection: Connection) -> None:
    await add_courier(connection, "other")
    for name in ("hook", "other", "hook"):
        await replays.create(connection, name, Selection(), Span(1, 2))
    assert [found.id for found in await replays.replays(connection)] == [3, 2, 1]
    assert [found.id for found in await replays.replays(connection, "hook")] == [3, 1]
    with pytest.raises(BadRequest, match="name one of hook, other"):
        await replays.replays(connection, "ga4")


async def test_there_is_a_bound_to_how_many_run(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "RUNNING_MAX", 1)
    await replays.create(connection, "hook", Selection(), Span(1, 2))
    with pytest.raises(BadRequest) as refusal:
        await replays.create(connection, "hook", Selection(), Span(1, 2))
    assert (refusal.value.code, refusal.value.status) == ("too_many_replays", 409)
    await replays.cancel(connection, 1)
    await replays.create(connection, "hook", Selection(), Span(1, 2))


async def test_a_replay_is_paused_resumed_and_cancelled(connection: Connection) -> None:
    number = await replays.create(connection, "hook", Selection(), Span(1, 2))
    assert await replays.pause_replay(connection, number, "later") is True
    found = await replays.replay(connection, number)
    assert (found.state, found.reason, found.detail) == ("paused", "by_hand", "later")
    assert await replays.resume_replay(connection, number) is True
    assert (await replays.replay(connection, number)).state == "running"
    assert await replays.cancel(connection, number) is True
    assert await replays.cancel(connection, number) is False
    for act in (replays.pause_replay, replays.resume_replay):
        with pytest.raises(BadRequest) as refusal:
            await act(connection, number)
        assert refusal.value.status == 409
    live = await connection.fetchval("select state from collector.couriers where replay = 0")
    assert live == "running"


async def test_what_is_done_cannot_be_cancelled(connection: Connection) -> None:
    number = await replays.create(connection, "hook", Selection(), Span(1, 2))
    await connection.execute("update collector.couriers set state = 'done' where replay > 0")
    with pytest.raises(BadRequest, match="is done"):
        await replays.cancel(connection, number)


async def test_a_cancelled_retry_leaves_its_dead_letters_free(connection: Connection) -> None:
    number = await replays.create(connection, "hook", Selection(dead_letters=True), Span(1, 2))
    await add_letter(connection, "hook", 1, retry=number)
    await replays.cancel(connection, number)
    assert await connection.fetchval("select retry from collector.dead_letters") is None


@pytest.mark.parametrize("number", [0, 5, 2**62])
async def test_an_unknown_number_is_404(connection: Connection, number: int) -> None:
    for act in (
        replays.replay, replays.cancel, replays.pause_replay, replays.resume_replay
    ):  # fmt: skip
        with pytest.raises(BadRequest) as refusal:
            await act(connection, number)
        assert (refusal.value.code, refusal.value.status) == ("unknown_replay", 404)
