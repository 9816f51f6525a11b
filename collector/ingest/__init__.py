"""
Ingest: the HTTP edge. A 200 means that the event is on disk.

Knows neither Postgres nor any destination; puts all that refining needs into the frame.
"""

from collector.ingest.server import Ingest
from collector.ingest.settings import (
    IngestSettings,
    LimitSettings,
    RedirectSettings,
    SourceSettings,
)

__all__ = ["Ingest", "IngestSettings", "LimitSettings", "RedirectSettings", "SourceSettings"]
