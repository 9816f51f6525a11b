"""
Postgres: connections, and whose fault an error is.

    poison      SQLSTATE class 22 or 54, or an encoding error on our side: this data, for ever
    state       everything else: Postgres is away, full, read-only, busy; wait and try again

Through a transaction pooler our session settings do not reach Postgres and prepared statements do
not last: it is recognised when it refuses the settings, or when the process that answers is not
the one we were connected to, and used without either. TCP keep-alives on the server's side of the
session are what frees the `seq` lock when a collector is cut off in the middle of COPY (8.6 s
instead of two hours); behind a pooler they are the pooler's business, which `collector check`
says. Those on our side tell us that a Postgres has gone that can no longer say so.

Errors   Unreachable, with what Postgres said.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import asyncpg

from collector.errors import Unreachable

log = logging.getLogger(__name__)

Connection: TypeAlias = asyncpg.Connection
T = TypeVar("T")

# What asyncpg raises when Postgres refuses or goes; the last one, "cannot switch to state", when
# the connection ends between two of its steps.
CLIENT_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
CONNECT_SECONDS = 15.0
ENDED_SECONDS = 1.0  # from the end of a connection until whoever waits for it is woken by force
KEEPALIVE_SECONDS, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 5, 2, 2

SESSION = {
    "application_name": "collector",
    "timezone": "UTC",
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "60000",
    # Made for people's queries; they would end every index of a large day.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "tcp_keepalives_idle": str(KEEPALIVE_SECONDS),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL),
    "tcp_keepalives_count": str(KEEPALIVE_COUNT),
}
POOLED_SESSION = {"application_name": "collector"}


class Postgres:
    """Where the events go: makes connections to one database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.pooled = False  # behind a transaction pooler

    async def connect(self) -> Connection:
        """A new connection; Unreachable if there is none to be had now."""
        try:
            try:
                connection = await self._connect()
            except asyncpg.PostgresError as exc:
                if self.pooled or not _refuses_settings(exc):
                    raise
            else:
                if self.pooled or not await _is_pooled(connection):
                    return connection
            log.info("Postgres is behind a pooler: session settings do not reach it")
            self.pooled = True
            return await self._connect()
        except CLIENT_ERRORS as exc:
            raise Unreachable(_code(exc), f"Postgres refuses the connection: {exc}") from exc
        except (OSError, TimeoutError, ssl.SSLError) as exc:
            reason = str(exc) or "no answer in time"
            raise Unreachable("postgres_away", f"Postgres cannot be reached: {reason}") from exc
        except ValueError as exc:
            raise Unreachable("bad_dsn", f"store.dsn cannot be used: {exc}") from exc

    async def _connect(self) -> Connection:
        connection = await asyncpg.connect(
            self.dsn,
            timeout=CONNECT_SECONDS,
            server_settings=POOLED_SESSION if self.pooled else SESSION,
            statement_cache_size=0 if self.pooled else 100,
        )
        _keep_alive(connection)
        return connection


async def within(connection: Connection, seconds: float | None, work: Coroutine[Any, Any, T]) -> T:
    """
    Do *work* on *connection*; Unreachable if it takes longer than *seconds*.

    Left to itself, asyncpg waits for as long as Postgres hangs: after a cancellation for the
    ROLLBACK of the transaction, and in COPY for a full socket even when the connection has ended.
    So when time is up or the caller is cancelled the connection is cut, and when it has ended so
    does *work*, with whatever error that gives.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def ended(_: Connection) -> None:
        loop.call_later(ENDED_SECONDS, task.cancel)  # most errors come by themselves, and say more

    connection.add_termination_listener(ended)
    try:
        await asyncio.wait({task}, timeout=seconds)
        late = not task.done()
        if late:
            connection.terminate()
            await asyncio.wait({task})
    except BaseException:
        connection.terminate()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    finally:
        connection.remove_termination_listener(ended)
    if late:
        detail = f"Postgres did not answer within {seconds:g} seconds"
        raise Unreachable("postgres_slow", detail) from (
            None if task.cancelled() else task.exception()
        )
    if task.cancelled():
        raise asyncpg.ConnectionDoesNotExistError("the connection ended")
    return task.result()


def _keep_alive(connection: Connection) -> None:
    """Have our kernel ask whether the other side is still there."""
    ours = connection._transport.get_extra_info("socket")
    if ours is None or ours.family == socket.AF_UNIX:
        return
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ):
        if hasattr(socket, name):  # Linux
            ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _is_pooled(connection: Connection) -> bool:
    """Whether a pooler stands between; then the connection is closed."""
    own = None
    try:
        own = await connection.fetchval("select pg_backend_pid()", timeout=CONNECT_SECONDS)
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        pass  # the statement was prepared by another process
    finally:
        pooled: bool = own != connection.get_server_pid()  # a pooler makes one up
        if pooled:
            await close(connection)
    return pooled


def _refuses_settings(error: asyncpg.PostgresError) -> bool:
    text = str(error).lower()
    return "startup parameter" in text or "unsupported startup" in text


def _code(error: Exception) -> str:
    return f"sqlstate_{getattr(error, 'sqlstate', None) or 'none'}"


def is_poison(error: BaseException) -> bool:
    """Whether the data itself is what Postgres will never take."""
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state[:2] in {"22", "54"}
    # asyncpg's own encoding errors, and text that is no UTF-8.
    return isinstance(error, asyncpg.DataError | UnicodeError)


def says(error: BaseException) -> str:
    """What went wrong, in one line, without the data that Postgres quotes in its details."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, asyncpg.ConnectionDoesNotExistError | asyncpg.InterfaceError) and (
        isinstance(cause, asyncpg.PostgresError | OSError)
    ):
        return says(cause)  # why the connection has ended
    message = getattr(error, "message", None)
    if isinstance(error, asyncpg.PostgresError) and message:
        return f"{getattr(error, 'sqlstate', '')} {message}".strip()
    return str(error) or type(error).__name__


async def close(connection: Connection | None) -> None:
    """Close a connection that may be broken, without waiting long."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=2)
    except (TimeoutError, OSError, *CLIENT_ERRORS):
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise
