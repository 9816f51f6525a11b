"""
Line: one connection for many short jobs, made when it is needed and made anew when it broke.

Jobs take turns. One that Postgres does not answer in time, or that is cancelled half-way, takes
the connection with it, because nobody could tell what state it is in.

Errors   Unreachable for whatever is Postgres' state or the way to it; a job's own pass through.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from collector.errors import Unreachable
from collector.store.postgres import (
    CLIENT_ERRORS,
    Connection,
    Postgres,
    close,
    is_poison,
    says,
    within,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

JOB_SECONDS = 60.0


class Line:
    """A connection that heals."""

    def __init__(
        self,
        postgres: Postgres,
        *,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
        seconds: float = JOB_SECONDS,
    ) -> None:
        self._postgres = postgres
        self._prepare = prepare
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None
        self._trouble: str | None = None  # the last that was told

    async def do(self, job: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do *job*, which is given a connection and *arguments*."""
        async with self._turn:
            try:
                connection = await self._connected()

                async def work() -> T:
                    return await job(connection, *arguments)

                done = await within(connection, self._seconds, work())
            except (asyncpg.PostgresError, *CLIENT_ERRORS, OSError, TimeoutError) as exc:
                if is_poison(exc):
                    raise
                await self._drop()
                self._tell(says(exc))
                code = f"sqlstate_{getattr(exc, 'sqlstate', None) or 'none'}"
                raise Unreachable(code, f"Postgres cannot be used now: {says(exc)}") from exc
            except Unreachable as exc:
                self._tell(exc.detail)
                raise
            except BaseException:
                if self._connection is not None and self._connection.is_closed():
                    await self._drop()
                raise

            self._trouble = None
            return done

    def _tell(self, trouble: str) -> None:
        """Log *trouble* once: whoever waits tries again every second."""
        if trouble != self._trouble:
            log.warning("Destinations wait for Postgres: %s", trouble)
        self._trouble = trouble

    async def close(self) -> None:
        """End the connection."""
        async with self._turn:
            await self._drop()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            connection = await self._postgres.connect()
            try:
                if self._prepare is not None:
                    await within(connection, self._seconds, self._prepared(connection))
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
        return self._connection

    async def _prepared(self, connection: Connection) -> None:
        assert self._prepare is not None
        await self._prepare(connection)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        await close(connection)
