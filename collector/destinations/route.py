"""
Route: the way of one event up to what is sent of it. Pure.

    gate ─▶ overrides ─▶ the destination's own mapping
"""

from collections.abc import Mapping
from typing import Any, Literal

from collector.destinations.base import Destination, Mail, Mapped
from collector.destinations.gate import Gate
from collector.destinations.overrides import Overrides
from collector.store.stored import Json, StoredEvent

Kind = Literal["browser", "server"]


class Route:
    """One destination's."""

    def __init__(self, destination: Destination[Any], kinds: Mapping[str, Kind]) -> None:
        settings = destination.settings
        self._destination = destination
        self._gate = Gate(settings, destination.types, destination.integrations, kinds)
        self._overrides = Overrides(settings)
        self.reads_person = destination.reads_person

    def skip(self, event: StoredEvent) -> str | None:
        """Why *event* does not go there, as a fixed word; None if it may."""
        return self._gate(event)

    def map(self, event: StoredEvent, person: Json) -> Mapped:
        """What is sent for *event*."""
        changed, person = self._overrides(event), self._overrides.person(event, person)
        return self._destination.map(Mail(changed, person, self._gate.restricts(event)))
