"""
Maintenance: what is done to the tables once a minute, by one collector at a time.

    partitions ahead → default ones emptied → days past their retention dropped
    → warehouse views that could not be made at the start → indexes for days that are over

Each collector besides drops from its own dedupe index what has left the window. A step that fails
holds up none of the others: a report that runs for hours keeps partitions from being made or
dropped, not indexes from being built.

Errors   none get out: what fails is logged and tried again in the next round.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable
from datetime import UTC, date, datetime, timedelta

import asyncpg

from collector.errors import Unreachable
from collector.store import partitions
from collector.store.dedupe import SeenIndex
from collector.store.leases import acquire
from collector.store.postgres import CLIENT_ERRORS, Connection, Postgres, close, says, within
from collector.store.settings import StoreSettings
from collector.store.warehouse import Publisher

log = logging.getLogger(__name__)

ROUND_SECONDS = 60.0
LEASE_SECONDS = 150.0
DELETE_ROWS = 10_000


class Maintenance:
    """Looks after the tables, round after round."""

    def __init__(self, postgres: Postgres, settings: StoreSettings, index: SeenIndex) -> None:
        self._postgres = postgres
        self._settings = settings
        self._index = index
        self._publisher = Publisher()
        # In containers all may have one name and be process 1.
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            connection: Connection | None = None
            try:
                connection = await self._postgres.connect()
                await within(connection, None, self.round(connection))
            except (Unreachable, *CLIENT_ERRORS, OSError) as exc:
                log.warning("Maintenance is put off to the next round: %s", says(exc))
            except Exception:
                log.exception("Maintenance failed inside the collector")
            finally:
                await close(connection)

    async def round(self, connection: Connection) -> None:
        """One round of maintenance."""
        if await acquire(connection, "maintenance", self._owner, LEASE_SECONDS) is not None:
            settings = self._settings
            # By the clock that is behind: one that runs ahead must not drop what is young.
            today = min(await partitions.today(connection), datetime.now(UTC).date())
            oldest = today - timedelta(settings.retention_days) if settings.retention_days else None
            # A day more than the window: its first hours must still be there on its last.
            oldest_seen = today - timedelta(settings.dedupe.window_days + 1)
            await self._try(connection, partitions.make_ahead(connection))
            await self._try(connection, partitions.rescue(connection, "events", oldest))
            await self._try(connection, partitions.rescue(connection, "seen", oldest_seen))
            if oldest is not None:
                await self._try(connection, self._drop_events(connection, oldest))
            await self._try(connection, partitions.drop_before(connection, "seen", oldest_seen))
            await self._try(connection, self._drop_rejected(connection))
            await self._try(connection, self._drop_delivery_log(connection))
            await self._try(connection, self._drop_claims(connection))
            await self._try(connection, self._drop_ended(connection))
            await self._try(connection, self._publisher.publish(connection))
            await self._try(connection, partitions.index_closed_days(connection))
        first_seq = await connection.fetchval("select min(first_seq) from collector.seen")
        if first_seq is not None:
            self._index.expire(first_seq)

    async def _try(self, connection: Connection, step: Awaitable[object]) -> None:
        """Do one step; what Postgres says against it is logged."""
        try:
            await step
        except asyncpg.PostgresError as exc:
            if connection.is_closed():
                raise
            log.warning("A step of maintenance is put off to the next round: %s", says(exc))

    async def _drop_events(self, connection: Connection, oldest: date) -> None:
        """Drop the days before *oldest*, but for what a destination has not come past."""
        settings = self._settings
        # One that no collector has had for a day was taken out of the settings.
        beyond = await connection.fetchval(
            "select min(c.position) from collector.couriers c "
            "where c.state in ('running', 'paused') and exists (select from collector.leases l "
            "where l.name = 'destination:' || c.destination "
            "and l.expires_at > now() - interval '1 day')"
        )
        keep = None
        if beyond is not None:
            since = oldest - timedelta(settings.retention_extra_days)
            keep = partitions.Keep(beyond, since)
        await partitions.drop_before(connection, "events", oldest, unless=keep)

    async def _drop_rejected(self, connection: Connection) -> None:
        """Delete old rejected events, a few at a time."""
        days = self._settings.rejected_retention_days
        await self._delete(connection, "rejected_events", "rejected_at", days)

    async def _drop_delivery_log(self, connection: Connection) -> None:
        """Delete what `trace` need not tell any more."""
        days = self._settings.delivery_log_days
        await self._delete(connection, "delivery_log", "at", days)

    async def _drop_claims(self, connection: Connection) -> None:
        """Delete the business keys of events that are gone."""
        days = self._settings.retention_days
        if days:
            await self._delete(connection, "claims", "claimed_at", days)

    async def _drop_ended(self, connection: Connection) -> None:
        """Delete what waited in replays that were cancelled."""
        await connection.execute(
            "delete from collector.deliveries d using collector.couriers c "
            "where d.replay > 0 and c.destination = d.destination and c.replay = d.replay "
            "and c.state = 'cancelled'"
        )

    async def _delete(self, connection: Connection, table: str, column: str, days: int) -> None:
        while True:
            done = await connection.execute(
                f"delete from collector.{table} where ctid = any(array("
                f"select ctid from collector.{table} "
                f"where {column} < now() - make_interval(days => $1) "
                f"order by {column} limit $2))",
                days,
                DELETE_ROWS,
            )
            if done != f"DELETE {DELETE_ROWS}":
                return
