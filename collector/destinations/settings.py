"""
Settings that every destination has. A destination adds its own, and gives some another default.

Units    seconds, bytes and plain counts, as the names say.
"""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from collector.settings import Bytes, Count, CountOrNone, Seconds, SecondsOrNone, Section, Share

if TYPE_CHECKING:
    from collector.destinations.base import Destination
    from collector.destinations.outbound import Outbound

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
EventType = Literal["track", "identify", "page", "screen", "group", "alias"]
Text = Annotated[str, Meta(min_length=1)]


class Override(Section, frozen=True, kw_only=True):
    """
    What is changed in an event before a destination maps it; see `overrides.py`.

    Expressions are JMESPath over the event as Segment's API has it; targets are dotted paths.
    """

    types: list[EventType] = []  # of events it is for; empty: all
    events: list[Text] = []  # names it is for, * and ? allowed; empty: all
    when: str = ""  # an expression that has to be true
    rename: str = ""  # another name for the event
    pick: list[Text] = []  # paths that stay; everything else of properties and traits goes
    set: dict[str, str] = {}  # path = expression
    constants: dict[str, str | int | float | bool] = {}  # path = value
    drop: list[Text] = []  # paths that go


class DestinationSettings(Section, frozen=True, kw_only=True, tag_field="type", tag="destination"):
    """One destination: who it is, what may go there, and how it is sent."""

    secrets: ClassVar[tuple[str, ...]] = ()  # settings that are never shown

    name: Name  # in metrics, tables and commands; the cursor belongs to the name
    enabled: bool = True
    start: str = "now"  # where a new destination begins: now, beginning, or a time (ISO 8601)

    # --- which events
    types: list[EventType] = []  # empty: all that this destination can take
    events: list[Text] = []  # names of track events, * and ? allowed; empty: all
    events_except: list[Text] = []
    sources: list[Text] = []  # empty: all
    sources_except: list[Text] = []
    sample_rate: Share = 1.0  # of the people, not of the events
    integrations: list[Text] = []  # its names in the sender's `integrations`, besides name
    consent: list[Text] = []  # categories that must be granted; see `gate.py`
    consent_required: bool = False  # without any consent on the event it is withheld
    consent_strategy: Literal["and", "or"] = "and"  # of RudderStack's deniedConsentIds
    purpose: Literal["analytics", "advertising"] = "analytics"
    on_opt_out: Literal["send", "restrict", "skip"] = "restrict"  # GPC: of advertising only
    bots: Literal["send", "skip"] = "send"  # crawlers, mail proxies and link scanners
    ip: Literal["full", "truncated", "none"] = "full"
    user_agent: Literal["full", "none"] = "full"
    once: dict[str, str] = msgspec.field(  # event = property of which each value is sent once
        default_factory=lambda: {"Order Completed": "order_id"}
    )
    overrides: list[Override] = []

    # --- how they are sent
    timeout_seconds: Seconds = 10.0
    concurrency: Count = 1  # batches under way at once
    batch_events_max: Count = 100
    batch_bytes_max: Bytes = 450_000
    linger_seconds: SecondsOrNone = 0.1  # a light load is gathered this long
    rate_per_second: SecondsOrNone = 0.0  # requests; 0: no limit
    rate_burst: Count = 10
    retry_seconds_min: Seconds = 1.0  # doubles with each attempt, jittered
    retry_seconds_max: Seconds = 600.0
    retry_window_seconds: Seconds = 14_400.0  # an event that fails this long while others pass
    on_ambiguous: Literal["retry", "dead_letter"] = "retry"  # sent, and no answer came
    refused_in_a_row_max: CountOrNone = 1_000  # then it is paused, not all refused; 0: never
    waiting_events_max: Count = 10_000  # that wait while others pass; beyond, it reads no more
    ahead_events_max: Count = 5_000  # read and not settled
    private_addresses: list[Text] = []  # networks it may connect to, such as 10.0.0.0/8

    # --- replays
    replay_rate_per_second: CountOrNone = 500  # events of a replay; 0: no limit

    def __post_init__(self) -> None:
        for network in self.private_addresses:
            ip_network(network, strict=False)  # its ValueError says what is wrong
        if self.start not in {"now", "beginning"}:
            try:
                at = datetime.fromisoformat(self.start)
            except ValueError:
                raise ValueError(
                    f"start is {self.start!r}: write now, beginning or a time such as 2026-01-31"
                ) from None
            if (at if at.tzinfo else at.replace(tzinfo=UTC)) > datetime.now(UTC):
                raise ValueError(f"start is {self.start!r}, a time to come: leave it out till then")

    def build(self, http: Outbound) -> Destination[Any]:
        """The destination with these settings, which sends through *http*."""
        raise NotImplementedError

    def secret_values(self) -> tuple[str, ...]:
        """What stands in `secrets`, for those that take it out of what people see."""
        found: list[str] = []
        for name in self.secrets:
            value = getattr(self, name)
            found += value.values() if isinstance(value, dict) else [value]
        return tuple(value for value in found if value)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [
            (name, "***" if name in self.secrets and value else value) for name, value in values
        ]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"
