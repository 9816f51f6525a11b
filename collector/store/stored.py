"""
Stored: one event as it was read back from Postgres, for those that send it on.

What a destination does not look at is never decoded: `context`, `properties`, `traits`,
`integrations` and `extra` stay the JSON text that Postgres gave, and become objects when they are
first asked for. Many couriers share one stored event, so what it returns is read only.

Shapes   names as in the table; decoded members are dicts (empty for null), numbers int or float.
Units    microseconds since 1970, UTC.
Errors   none; Postgres gives back nothing that is no JSON.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Raw

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS_KEPT_MAX = 4_096
OURS = "collector"  # the member of `extra` with our own notes; it leaves the collector never

Json = Mapping[str, Any]
NOTHING: Final[Json] = MappingProxyType({})
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


_MILLISECONDS: Final = tuple(f".{number:03d}Z" for number in range(1_000))  # writing takes longer


def moment(at: int) -> str:
    """*at*, in microseconds, as ISO 8601 with milliseconds, as SDKs write it."""
    second, rest = divmod(at, 1_000_000)
    return _second(second) + _MILLISECONDS[rest // 1_000]


@lru_cache(SECONDS_KEPT_MAX)
def _second(since: int) -> str:
    """Events that are read together share most of their seconds, and half of the cost was this."""
    return (EPOCH + timedelta(seconds=since)).isoformat()[:19]


class StoredEvent:
    """One row of `collector.events`."""

    __slots__ = (
        "_context",
        "_extra",
        "_integrations",
        "_message_text",
        "_properties",
        "_traits",
        "anonymous_id",
        "category",
        "context_text",
        "event",
        "extra_text",
        "group_id",
        "integrations_text",
        "message_id",
        "name",
        "original_timestamp",
        "previous_id",
        "properties_text",
        "received_at",
        "sent_at",
        "seq",
        "size",
        "source",
        "timestamp",
        "traits_text",
        "type",
        "user_id",
    )

    def __init__(
        self,
        seq: int,
        received_at: int,
        timestamp: int,
        original_timestamp: int | None,
        sent_at: int | None,
        message_id: str,
        type: str,  # noqa: A002  the name of the column
        event: str | None = None,
        name: str | None = None,
        category: str | None = None,
        source: str = "default",
        user_id: str | None = None,
        anonymous_id: str | None = None,
        group_id: str | None = None,
        previous_id: str | None = None,
        context: bytes | None = None,
        properties: bytes | None = None,
        traits: bytes | None = None,
        integrations: bytes | None = None,
        extra: bytes | None = None,
    ) -> None:
        self.seq = seq
        self.received_at = received_at
        self.timestamp = timestamp
        self.original_timestamp = original_timestamp
        self.sent_at = sent_at
        self.message_id = message_id
        self.type = type
        self.event = event
        self.name = name
        self.category = category
        self.source = source
        self.user_id = user_id
        self.anonymous_id = anonymous_id
        self.group_id = group_id
        self.previous_id = previous_id
        self.context_text = context
        self.properties_text = properties
        self.traits_text = traits
        self.integrations_text = integrations
        self.extra_text = extra
        self.size = sum(
            map(len, filter(None, (context, properties, traits, integrations, extra)))
        )  # bytes of JSON
        self._context: Json | None = None
        self._properties: Json | None = None
        self._traits: Json | None = None
        self._integrations: Json | None = None
        self._extra: dict[str, Raw] | None = None
        self._message_text: bytes | None = None

    @property
    def context(self) -> Json:
        """The context, decoded."""
        if self._context is None:
            self._context = _object(self.context_text)
        return self._context

    @property
    def properties(self) -> Json:
        """The properties, decoded."""
        if self._properties is None:
            self._properties = _object(self.properties_text)
        return self._properties

    @property
    def traits(self) -> Json:
        """The traits that this event itself brought, decoded."""
        if self._traits is None:
            self._traits = _object(self.traits_text)
        return self._traits

    @property
    def integrations(self) -> Json:
        """Which tools the sender wants, and does not want, to have the event."""
        if self._integrations is None:
            self._integrations = _object(self.integrations_text)
        return self._integrations

    @property
    def extra(self) -> dict[str, Raw]:
        """Top-level members of the sender's that have no column, each as its text."""
        if self._extra is None:
            found = _decode_raw(self.extra_text) if self.extra_text else {}
            found.pop(OURS, None)
            self._extra = found
        return self._extra

    def message(self) -> dict[str, Any]:
        """The event as Segment's API has it; JSON members as text (msgspec.Raw), to be encoded."""
        found: dict[str, Any] = {"messageId": self.message_id, "type": self.type}
        # Spelt out, because this is done for every event and destination.
        if self.event is not None:
            found["event"] = self.event
        if self.name is not None:
            found["name"] = self.name
        if self.category is not None:
            found["category"] = self.category
        if self.user_id is not None:
            found["userId"] = self.user_id
        if self.anonymous_id is not None:
            found["anonymousId"] = self.anonymous_id
        if self.group_id is not None:
            found["groupId"] = self.group_id
        if self.previous_id is not None:
            found["previousId"] = self.previous_id
        found["timestamp"] = moment(self.timestamp)
        if self.original_timestamp is not None:
            found["originalTimestamp"] = moment(self.original_timestamp)
        if self.sent_at is not None:
            found["sentAt"] = moment(self.sent_at)
        found["receivedAt"] = moment(self.received_at)
        for key, text in (
            ("context", self.context_text),
            ("properties", self.properties_text),
            ("traits", self.traits_text),
            ("integrations", self.integrations_text),
        ):
            if text is not None:
                found[key] = Raw(text)
        for key, text in self.extra.items():
            found.setdefault(key, text)
        return found

    @property
    def message_text(self) -> bytes:
        """`message` as JSON. It is kept: of ten couriers that send it, one has to write it."""
        if self._message_text is None:
            self._message_text = _encode(self.message())
        return self._message_text


def _object(text: bytes | None) -> Json:
    return _decode(text) if text else NOTHING
