"""
Store: Postgres, where every accepted event arrives exactly once.

Reads the journal, refines, and commits a batch together with the cursor that says so.
"""

from collector.store.settings import StoreSettings
from collector.store.store import Store

__all__ = ["Store", "StoreSettings"]
