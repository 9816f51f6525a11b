"""
Postgres: connections, and whose fault an error is.

    poison      SQLSTATE class 22 or 54, or an encoding error on our side: this data, for ever
    state       everything else: Postgres is away, full, read-only, busy; wait and try again

Through a transaction pooler our session settings do not reach Postgres and prepared statements do
not last: it is recognised when it refuses the settings, and used without either. TCP keep-alives
on the server's side of the session are what frees the `seq` lock when a collector is cut off in
the middle of COPY (8.6 s instead of two hours); behind a pooler they are the pooler's business,
which `collector check` says.

Errors   Unreachable, with what Postgres said.
"""

import asyncio
import logging
import ssl
from typing import TypeAlias

import asyncpg

from collector.errors import Unreachable

log = logging.getLogger(__name__)

Connection: TypeAlias = asyncpg.Connection

CONNECT_SECONDS = 15.0

SESSION = {
    "application_name": "collector",
    "timezone": "UTC",
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "60000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
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
                return await self._connect()
            except asyncpg.PostgresError as exc:
                if self.pooled or not _refuses_settings(exc):
                    raise
                log.info("Postgres is behind a pooler that takes no session settings")
                self.pooled = True
                return await self._connect()
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise Unreachable(_code(exc), f"Postgres refuses the connection: {exc}") from exc
        except (OSError, TimeoutError, ssl.SSLError) as exc:
            reason = str(exc) or "no answer in time"
            raise Unreachable("postgres_away", f"Postgres cannot be reached: {reason}") from exc
        except ValueError as exc:
            raise Unreachable("bad_dsn", f"store.dsn cannot be used: {exc}") from exc

    async def _connect(self) -> Connection:
        return await asyncpg.connect(
            self.dsn,
            timeout=CONNECT_SECONDS,
            server_settings=POOLED_SESSION if self.pooled else SESSION,
            statement_cache_size=0 if self.pooled else 100,
        )


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
    if isinstance(error, asyncpg.PostgresError):
        return f"{getattr(error, 'sqlstate', '')} {getattr(error, 'message', error)}".strip()
    return str(error) or type(error).__name__


async def close(connection: Connection | None) -> None:
    """Close a connection that may be broken, without waiting long."""
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=2)
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
    except asyncio.CancelledError:
        connection.terminate()
        raise
