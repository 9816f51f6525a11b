"""
Destinations: where events go on, one file each.

    Postgres ─read─▶ courier ─gate, overrides─▶ map ─▶ send ─▶ vendor

An event that was stored reaches every destination that may have it, in the order of each person,
or is in a table that says why not. One destination slows no other: each has its own courier, with
its own cursor, connections and limits.
"""

from typing import TypeAlias

from collector.destinations.meta import MetaSettings
from collector.destinations.segment import SegmentSettings
from collector.destinations.settings import DestinationSettings
from collector.destinations.webhook import WebhookSettings

# One line for each destination: `type` in the settings tells them apart.
AnyDestination: TypeAlias = (
    WebhookSettings
    | SegmentSettings
    | MetaSettings
)  # fmt: skip

__all__ = ["AnyDestination", "DestinationSettings"]
