"""
Overrides: an event changed for one destination, before that maps it.

    when ─▶ rename ─▶ pick ─▶ set ─▶ constants ─▶ drop        for each override, in their order
    then     ip, user_agent                                   what is told of the person's device

Expressions are JMESPath over the event as Segment's API has it. All of one override see the event
as it came to that override, also what `pick` takes away; the next override sees what became of it.
A target is what its expression says: null leaves it out, and so does an expression that fails on
an event (a sum over text). That is how a field of a mapping behaves at Segment; `a || b` names
what else to take. An event keeps its name if no other is given.

Shapes   members that no override touches stay the bytes that they are. An event to which nothing
         applies is the same object; the stored event itself is never changed.
Errors   ConfigError at start for a bad expression or path; none for an event.
Source   JMESPath, "Specification"; Segment, "Customize mappings"
"""

import math
from typing import Any, Final

import msgspec

from collector.destinations.device import withheld
from collector.destinations.expressions import OBJECTS, Expression, expression, is_true, message_of
from collector.destinations.gate import pattern_of
from collector.destinations.paths import Path, Tree, drop, keep, parse, put, tree_of
from collector.destinations.settings import DestinationSettings, Override
from collector.errors import ConfigError
from collector.store.stored import Json, StoredEvent

TEXTS: Final = {  # targets of text, and their columns
    "event": "event",
    "name": "name",
    "category": "category",
    "userId": "user_id",
    "anonymousId": "anonymous_id",
    "groupId": "group_id",
    "previousId": "previous_id",
}
NAMED_TYPES: Final = {"track": "event", "page": "name", "screen": "name"}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Overrides:
    """What one destination's settings change: call it with an event for the event to map."""

    def __init__(self, settings: DestinationSettings) -> None:
        self._rules = tuple(
            _Rule(override, f"destination {settings.name}: overrides[{index}]")
            for index, override in enumerate(settings.overrides)
        )
        self._ip = settings.ip
        self._user_agent = settings.user_agent
        self._withholds = settings.ip != "full" or settings.user_agent != "full"

    def __call__(self, event: StoredEvent) -> StoredEvent:
        """*event* as the destination is to have it."""
        for rule in self._rules:
            event = rule(event)
        if self._withholds and (context := event.context_text) is not None:
            told = withheld(context, self._ip, self._user_agent)
            if told is not context:
                return changed(event, {"context": told})
        return event

    def person(self, event: StoredEvent, person: Json) -> Json:
        """
        What the destination may know of *person*, whose *event* is on its way to it.

        A trait that is dropped for the event, or not picked where traits are, would come back
        from an earlier identify otherwise.
        """
        for rule in self._rules:
            if rule.hides and rule.applies(event):
                person = rule.hidden(person)
            event = rule(event)
        return person


class _Rule:
    """One override, compiled."""

    def __init__(self, override: Override, where: str) -> None:
        self._types = frozenset(override.types)
        self._names = pattern_of(override.events) if override.events else None
        self._when = expression(override.when, f"{where}.when") if override.when else None
        self._rename = override.rename
        self._sets: list[tuple[Path, Expression]] = []
        for path, text in override.set.items():
            at = f"{where}.set.{path}"
            self._sets.append((_path(path, at), expression(text, at)))
        self._constants: list[tuple[Path, Any]] = []
        for path, value in override.constants.items():
            at = f"{where}.constants.{path}"
            self._constants.append((_path(path, at), _constant(path, value, at)))
        picked = [_path(path, f"{where}.pick", {"properties", "traits"}) for path in override.pick]
        self._pick = tree_of(picked) if picked else None
        self._drop = tree_of(
            _path(path, f"{where}.drop", {*OBJECTS, *TEXTS} - {"event"}) for path in override.drop
        )

        traits = ("traits" in self._drop, self._pick is not None and "traits" in self._pick)
        self.hides = any(traits)  # whether it takes away anything that is known of a person

    def __call__(self, event: StoredEvent) -> StoredEvent:
        if not self._is_for(event):
            return event
        message = message_of(event) if self._when or self._sets else {}
        if self._when is not None and not is_true(self._when(message)):
            return event
        edit = _Edit(event)
        if self._rename and event.type in NAMED_TYPES:
            edit.put((NAMED_TYPES[event.type],), self._rename)
        if self._pick is not None:
            edit.keep(self._pick)
        for path, search in self._sets:
            edit.put(path, search(message))
        for path, value in self._constants:
            edit.put(path, value)
        edit.drop(self._drop)
        return changed(event, edit.changes) if edit.changes else event

    def applies(self, event: StoredEvent) -> bool:
        """Whether *event* is one that it changes."""
        if not self._is_for(event):
            return False
        return self._when is None or is_true(self._when(message_of(event)))

    def _is_for(self, event: StoredEvent) -> bool:
        if self._types and event.type not in self._types:
            return False
        if self._names is None:
            return True
        if event.type not in NAMED_TYPES:
            return False
        name = event.event if event.type == "track" else event.name
        return name is not None and self._names.match(name) is not None

    def hidden(self, person: Json) -> Json:
        """*person* without the traits that it takes away."""
        text: bytes | None = _encode({"traits": dict(person)})
        if self._pick is not None and "traits" in self._pick:
            text = keep(text or b"", {"traits": self._pick["traits"]})
        text = drop(text or b"", {"traits": self._drop["traits"]} if "traits" in self._drop else {})
        found: Json = _decode(text).get("traits") or {}
        return found


class _Edit:
    """The columns of one event that change."""

    def __init__(self, event: StoredEvent) -> None:
        self._event = event
        self.changes: dict[str, Any] = {}

    def _text(self, name: str) -> bytes | None:
        found: bytes | None = self.changes.get(name, getattr(self._event, f"{name}_text"))
        return found

    def put(self, path: Path, value: Any) -> None:
        """Let *value* be at *path*; what cannot stand there is left out."""
        name, *rest = path
        if name in TEXTS:
            if name == "event" and self._event.type != "track":
                return
            text = _text(value)
            if text is not None or name != "event":
                self.changes[TEXTS[name]] = text
        elif rest or isinstance(value, dict):
            self.changes[name] = put(self._text(name), tuple(rest), _json(value))
        else:
            self.changes[name] = None

    def keep(self, tree: Tree) -> None:
        """Let nothing but *tree* stay of properties and traits."""
        for name in ("properties", "traits"):
            text = self._text(name)
            if text is None or tree.get(name, {}) is None:
                continue
            self.changes[name] = keep(text, tree[name] or {}) if name in tree else None

    def drop(self, tree: Tree) -> None:
        """Take away the places of *tree*."""
        for name, below in tree.items():
            if name in TEXTS:
                self.changes[TEXTS[name]] = None
            elif below is None:
                self.changes[name] = None
            elif (text := self._text(name)) is not None:
                self.changes[name] = drop(text, below)


def changed(event: StoredEvent, changes: dict[str, Any]) -> StoredEvent:
    """A copy of *event* with other values for the arguments of its constructor in *changes*."""
    arguments = {
        "seq": event.seq,
        "received_at": event.received_at,
        "timestamp": event.timestamp,
        "original_timestamp": event.original_timestamp,
        "sent_at": event.sent_at,
        "message_id": event.message_id,
        "type": event.type,
        "event": event.event,
        "name": event.name,
        "category": event.category,
        "source": event.source,
        "user_id": event.user_id,
        "anonymous_id": event.anonymous_id,
        "group_id": event.group_id,
        "previous_id": event.previous_id,
        "context": event.context_text,
        "properties": event.properties_text,
        "traits": event.traits_text,
        "integrations": event.integrations_text,
        "extra": event.extra_text,
    }
    return StoredEvent(**(arguments | changes))


# --- values -------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _json(value: Any) -> bytes | None:
    """*value* as JSON text; None for null and for what JSON has no way to write."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    try:
        return _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None  # such as an expression that answers with an expression


# --- settings ------------------------------------------------------------------------------------


def _path(text: str, where: str, roots: set[str] | None = None) -> Path:
    try:
        path = parse(text)
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}") from exc
    allowed = roots or {*OBJECTS, *TEXTS}
    if path[0] not in allowed:
        raise ConfigError(
            f"{where}: {text} cannot be changed here; begin with {', '.join(sorted(allowed))}"
        )
    if path[0] in TEXTS and len(path) > 1:
        raise ConfigError(f"{where}: {path[0]} is text and has no members; write {path[0]} alone")
    return path


def _constant(path: str, value: str | float | bool, where: str) -> str | float | bool:
    if path in TEXTS and _text(value) is None:
        raise ConfigError(f"{where}: {path} is text; write it in quotes, and not empty")
    if path in OBJECTS:
        raise ConfigError(f"{where}: {path} is an object; name a member of it, as {path}.name")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: JSON has no {value}; write a number or text")
    return value
