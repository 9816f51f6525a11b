"""
Store: Postgres, where every accepted event arrives exactly once.

Reads the journal, refines, and commits a batch together with the cursor that says so.
"""

from typing import TYPE_CHECKING, Any

from collector.store.settings import StoreSettings

if TYPE_CHECKING:
    from collector.store.store import Store

__all__ = ["Store", "StoreSettings"]


def __getattr__(name: str) -> Any:
    """`Store` when it is asked for: the refiner's process goes without asyncio and asyncpg."""
    if name == "Store":
        from collector.store.store import Store  # noqa: PLC0415

        return Store
    raise AttributeError(name)
