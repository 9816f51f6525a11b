"""
Writer: batches into Postgres, exactly once, in one transaction each.

    lock the seq counter → read this journal's cursor and compare → take in the ids that others
    stored → look the ids up → COPY what is fresh → users, rejections, ids, counter
    → cursor where position = expected → books → commit

The order is what makes it exact (docs/decisions/exactly-once.md): with the look-up before the
lock, or the cursor set without a condition, a COMMIT in doubt stores a batch twice.

A batch with poison in it is taken apart by bisecting; the poison becomes rejected events.

Units    positions count frames, seq counts events.
Errors   Rewound when the cursor is not where it was expected; what Postgres raises passes
         through, and the caller tells poison from a state of Postgres (postgres.py).
"""

import asyncio
import base64
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import asyncpg
import msgspec

from collector import metrics
from collector.event import Event, Rejection
from collector.store import rows
from collector.store.accounts import Entries, enter
from collector.store.dedupe import SeenIndex
from collector.store.feeder import Batch
from collector.store.portions import UNDECODABLE, Prepared
from collector.store.postgres import Connection, is_poison, says
from collector.store.seen import history_of

log = logging.getLogger(__name__)

LOOKUP_IDS = 500  # looked up before the loop gets a turn
CATCH_UP_ROWS = 100  # of `seen` at once: each holds the ids of one batch
BUSY_SECONDS = 0.005
PAYLOAD_CHARS = 65_536
ENDS = "it ends the connection"  # the poison whose text must not pass there again
USER_TRAITS_BYTES_MAX = 1_048_576


class Rewound(Exception):
    """The cursor in Postgres is at *position*, not where it was left."""

    def __init__(self, position: int | None) -> None:
        super().__init__(f"cursor at {position}")
        self.position = position


class Stored:
    """What became of one batch."""

    __slots__ = ("books", "fresh", "last_seq")

    def __init__(self, last_seq: int, fresh: int, books: Entries) -> None:
        self.last_seq = last_seq
        self.fresh = fresh
        self.books = books


class Writer:
    """Stores the batches of one journal over one connection."""

    def __init__(
        self,
        connection: Connection,
        journal_id: str,
        epoch: int,
        index: SeenIndex,
        *,
        pooled: bool = False,
    ) -> None:
        self._connection = connection
        self._journal_id = journal_id
        self._epoch = epoch
        self._index = index
        self._pooled = pooled

    async def store(self, batch: Batch, poison: Sequence[tuple[Prepared, str]] = ()) -> Stored:
        """Store *batch* without its *poison*, which is kept as rejected events; then it is done."""
        connection, index = self._connection, self._index
        began = time.perf_counter()
        bad = {id(prepared) for prepared, _ in poison}
        await self._room()
        # Each statement must see what was committed before it began, whatever the default is.
        async with connection.transaction(isolation="read_committed"):
            last, history = await self._lock()
            await self._compare(batch.expected)
            await self.catch_up(last, history)
            good = [p for p in batch.events if id(p) not in bad] if bad else batch.events
            fresh = await self._fresh(good)
            books = _books(batch, good, fresh, poison)
            ids = b"".join([prepared.id for prepared in fresh])
            if fresh:
                await self._copy(fresh, last + 1)
                history = history_of(history, ids)
                await self._remember(last, len(fresh), ids, history)
            rejections = [*batch.rejections, *(_poisoned(p, why) for p, why in poison)]
            if rejections:
                await self._reject(rejections)
            await self._move(batch.expected, batch.end)
            await enter(connection, self._journal_id, books)
        # Only now: what was rolled back must not be known as stored.
        if fresh:
            index.add(last + 1, ids, history)
        metrics.copy_seconds.observe(time.perf_counter() - began)
        metrics.copy_events.inc(len(fresh))
        return Stored(last + len(fresh), len(fresh), books)

    async def _lock(self) -> tuple[int, bytes]:
        if self._pooled:  # the session's settings did not reach Postgres
            await self._connection.execute(
                "set local synchronous_commit = on; set local statement_timeout = 0; "
                "set local lock_timeout = 0"
            )
        row = await self._connection.fetchrow(
            "select last, history from collector.sequence for update"
        )
        if row is None:
            raise asyncpg.InternalServerError("collector.sequence is empty: restore its row")
        return row["last"], row["history"]

    async def _compare(self, expected: int) -> None:
        row = await self._connection.fetchrow(
            "select position, epoch from collector.journals where id = $1", self._journal_id
        )
        if row is None or row["epoch"] != self._epoch:
            raise Rewound(None)
        if row["position"] != expected:
            raise Rewound(row["position"])

    # --- dedupe ----------------------------------------------------------------------------

    async def catch_up(self, last: int, history: bytes) -> None:
        """Take in the ids that were stored since, up to *last*, by whatever collector."""
        index = self._index
        if index.last_seq == last and index.history == history:
            return
        if index.last_seq and not await self._goes_on(last):
            index.reset()
        while index.last_seq < last:
            found = await self._connection.fetch(
                "select first_seq, ids, history from collector.seen where first_seq > $1 "
                "order by first_seq limit $2",
                index.last_seq,
                CATCH_UP_ROWS,
            )
            if not found:
                # Nothing behind this is in the window any more.
                index.reset()
                index.adopt(last, history)
                return
            for row in found:
                await self._room()
                if row["first_seq"] != index.last_seq + 1:
                    # What lies between has left the window; the digest goes on from here.
                    index.skip(row["first_seq"] - 1)
                index.add(row["first_seq"], row["ids"], row["history"])
                await asyncio.sleep(0)

    async def _room(self) -> None:
        while self._index.busy:  # noqa: ASYNC110  it is busy in a thread
            await asyncio.sleep(BUSY_SECONDS)

    async def _goes_on(self, last: int) -> bool:
        """Whether this Postgres holds the history that the index has read, up to there."""
        index = self._index
        row = await self._connection.fetchrow(
            "select first_seq + events - 1 as last_seq, history from collector.seen "
            "where first_seq <= $1 order by first_seq desc limit 1",
            index.last_seq,
        )
        if row is not None and row["last_seq"] == index.last_seq:
            if row["history"] == index.history:
                return True
        elif index.last_seq < last and (row is None or row["last_seq"] < index.last_seq):
            return False  # all that the index knows has left the window
        log.warning("Postgres' history is another one; message ids are read anew")
        metrics.journal_anomalies.labels("history_changed").inc()
        return False

    async def _fresh(self, events: Sequence[Prepared]) -> list[Prepared]:
        """Those of *events* that were not stored before, the first of each id."""
        unique: dict[bytes, Prepared] = {}
        for prepared in events:
            unique.setdefault(prepared.id, prepared)
        ids = list(unique)
        found: list[tuple[int, int]] = []
        for at in range(0, len(ids), LOOKUP_IDS):
            part = self._index.candidates(ids[at : at + LOOKUP_IDS])
            found += [(at + index, seq) for index, seq in part]
            await asyncio.sleep(0)
        for id_ in await self._confirmed([(ids[index], seq) for index, seq in found]):
            unique.pop(id_, None)
        return list(unique.values())

    async def _confirmed(self, candidates: Sequence[tuple[bytes, int]]) -> list[bytes]:
        """The ids that really were stored as the seq they are said to be."""
        if not candidates:
            return []
        found = await self._connection.fetch(
            "select q.id from unnest($1::bytea[], $2::bigint[]) q (id, seq) "
            "cross join lateral (select first_seq, events, ids from collector.seen "
            "  where first_seq <= q.seq order by first_seq desc limit 1) s "
            "where q.seq < s.first_seq + s.events "
            "and substring(s.ids from ((q.seq - s.first_seq) * 16 + 1)::int for 16) = q.id",
            [id_ for id_, _ in candidates],
            [seq for _, seq in candidates],
        )
        return [row["id"] for row in found]

    async def _remember(self, last: int, count: int, ids: bytes, history: bytes) -> None:
        connection = self._connection
        await connection.execute(
            "insert into collector.seen (first_seq, events, ids, history) values ($1, $2, $3, $4)",
            last + 1,
            count,
            ids,
            history,
        )
        await connection.execute(
            "update collector.sequence set last = $1, history = $2", last + count, history
        )

    # --- what is stored --------------------------------------------------------------------

    async def _copy(self, fresh: Sequence[Prepared], first_seq: int) -> None:
        await self._connection.copy_to_table(
            "events",
            schema_name="collector",
            columns=rows.COLUMNS,
            format="binary",
            source=_stream(rows.chunks([prepared.row for prepared in fresh], first_seq)),
        )
        identified = [
            (prepared.event, seq)
            for seq, prepared in enumerate(fresh, first_seq)
            if prepared.event is not None and prepared.event.user_id and prepared.event.traits
        ]
        if identified:
            await self._identify(identified)

    async def _identify(self, events: Sequence[tuple[Event, int]]) -> None:
        """Merge traits into users: of two values of one trait the one that came in later wins."""
        latest: dict[str, tuple[bytes, int, int]] = {}
        for event, seq in events:
            user, traits = event.user_id or "", event.traits or b"{}"
            if user in latest:
                traits = _overlaid(latest[user][0], traits)
            latest[user] = (traits, event.received_at, seq)
        users = sorted(latest)
        await self._connection.execute(
            "insert into collector.users as u (user_id, traits, received_at, seq) "
            "select q.user_id, q.traits, to_timestamp(q.at / 1e6), q.seq "
            "from unnest($1::text[], $2::jsonb[], $3::bigint[], $4::bigint[]) "
            "q (user_id, traits, at, seq) "
            "on conflict (user_id) do update set "
            # Traits are few; a sender that makes up new names for ever starts anew.
            "traits = case when pg_column_size(u.traits) > $5 then excluded.traits "
            # Another collector took in, later, what was stored earlier.
            "  when u.received_at > excluded.received_at then excluded.traits || u.traits "
            "  else u.traits || excluded.traits end, "
            "received_at = greatest(u.received_at, excluded.received_at), "
            "seq = case when u.received_at > excluded.received_at then u.seq "
            "  else excluded.seq end",
            users,
            [latest[user][0].decode() for user in users],
            [latest[user][1] for user in users],
            [latest[user][2] for user in users],
            USER_TRAITS_BYTES_MAX,
        )

    async def _reject(self, rejections: Sequence[Rejection]) -> None:
        await self._connection.execute(
            "insert into collector.rejected_events (received_at, source, accepted, reason, detail, "
            "message_id, payload, payload_bytes) "
            "select to_timestamp(q.at / 1e6), nullif(q.source, ''), q.accepted, q.reason, "
            "q.detail, q.message_id, q.payload, q.bytes from unnest($1::bigint[], $2::text[], "
            "$3::boolean[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[]) "
            "q (at, source, accepted, reason, detail, message_id, payload, bytes)",
            [r.received_at for r in rejections],
            [r.source for r in rejections],
            [r.accepted for r in rejections],
            [r.code for r in rejections],
            [_readable(r.detail) for r in rejections],
            [None if r.message_id is None else _readable(r.message_id) for r in rejections],
            [
                _readable(r.data, None if r.code == UNDECODABLE else PAYLOAD_CHARS)
                for r in rejections
            ],
            [len(r.data) for r in rejections],
        )

    async def _move(self, expected: int, end: int) -> None:
        moved = await self._connection.execute(
            "update collector.journals set position = $3, updated_at = now() "
            "where id = $1 and position = $2 and epoch = $4",
            self._journal_id,
            expected,
            end,
            self._epoch,
        )
        if moved != "UPDATE 1":
            raise Rewound(None)

    # --- poison ----------------------------------------------------------------------------

    async def refuses(self, events: Sequence[Prepared]) -> str | None:
        """What Postgres says if it will never take *events*, all or some; they are not stored."""
        try:
            await self.probe(events)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, UnicodeError) as exc:
            if not is_poison(exc):
                raise
            return says(exc)
        return None

    async def probe(self, events: Sequence[Prepared]) -> None:
        """Have Postgres take *events* and throw them away; without the lock, which others need."""
        transaction = self._connection.transaction(isolation="read_committed")
        await transaction.start()
        try:
            await self._copy(events, 0)
        finally:
            await transaction.rollback()


async def bisect(
    events: Sequence[Prepared], refused: Callable[[Sequence[Prepared]], Awaitable[str | None]]
) -> list[tuple[Prepared, str]]:
    """The single events for which *refused* gives a reason; it is asked about halves first."""
    why = await refused(events)
    if why is None:
        return []
    if len(events) == 1:
        return [(events[0], why)]
    middle = len(events) // 2
    return [*await bisect(events[:middle], refused), *await bisect(events[middle:], refused)]


async def _stream(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)  # a socket that takes everything would give nobody else a turn


def _books(
    batch: Batch,
    good: Sequence[Prepared],
    fresh: Sequence[Prepared],
    poison: Sequence[tuple[Prepared, str]],
) -> Entries:
    """What became of every accepted event of the batch."""
    books: Entries = Counter()
    stored = Counter(prepared.source for prepared in fresh)
    given = Counter(prepared.source for prepared in good)
    for source, count in given.items():
        books[source, "stored", ""] = stored[source]
        books[source, "duplicate", ""] = count - stored[source]
    for (source, reason), count in batch.rejected.items():
        books[source, "rejected", reason] += count
    for prepared, _ in poison:
        books[prepared.source, "rejected", "poison"] += 1
    for source, count in batch.lost.items():
        books[source, "lost", ""] += count
    return books


def _poisoned(prepared: Prepared, why: str) -> Rejection:
    data = rows.readable(prepared.row)
    if why.startswith(ENDS):
        data, why = base64.b64encode(data), f"{why} (the payload is in base64)"
    return Rejection(
        source=prepared.source,
        received_at=rows.received_at(prepared.row),
        code="poison",
        detail=f"Postgres will never take it: {why}",
        data=data,
    )


def _overlaid(base: bytes, own: bytes) -> bytes:
    """Two JSON objects as one; the members of the second win."""
    decode = msgspec.json.decode
    members = decode(base, type=dict[str, msgspec.Raw])
    members.update(decode(own, type=dict[str, msgspec.Raw]))
    return msgspec.json.encode(members)


def _readable(data: bytes | str, chars: int | None = None) -> str:
    """Anything as text that Postgres keeps: what is no UTF-8, and NUL, as \\xNN."""
    if isinstance(data, bytes):
        data = (data if chars is None else data[: 4 * chars]).decode(errors="backslashreplace")
    return data.encode(errors="backslashreplace").decode().replace("\0", "\\x00")[:chars]
