"""
Problem: what an event must have to be one.

Asked twice about the same bytes: by ingest, which names the answer to the sender, and by refine,
which turns the event down. The codes are a closed list; `docs/errors.md` explains each.

Source   Segment, "Spec", one page for each call; limits are settings.
"""

from typing import NamedTuple

from collector.event import EVENT_TYPES, NOTHING, BriefWireEvent, Problem, WireEvent

_MISSING_TYPE = Problem("missing_type", "an event of a batch needs a type: add one")
_UNKNOWN_TYPE = Problem(
    "unknown_type", "type must be one of track, identify, page, screen, group, alias"
)
_MISSING_EVENT = Problem("missing_event", "a track call needs the event's name: add event")
_MISSING_GROUP = Problem("missing_group_id", "a group call needs a groupId: add it")
_MISSING_USER = Problem("missing_user_id", "an alias call needs the userId that stays: add it")
_MISSING_PREVIOUS = Problem(
    "missing_previous_id", "an alias call needs a previousId, or the anonymousId it replaces"
)

_OBJECT_OR_NULL = frozenset(b"{n")
_OBJECTS = ("properties", "context", "traits", "integrations")
_IDS = ("messageId", "userId", "anonymousId", "groupId", "previousId")
_NAMES = ("event", "name", "category")


class Limits(NamedTuple):
    """How long ids and names may be, in bytes of UTF-8."""

    id_bytes_max: int
    name_bytes_max: int


def problem_of(event: WireEvent, kind: str | None, limits: Limits) -> Problem | None:
    """Why *event* of type *kind* cannot be taken, or None."""
    if problem := lack_of(event, kind):
        return problem
    for raw in (event.properties, event.context, event.traits, event.integrations):
        if raw is not NOTHING and memoryview(raw)[0] not in _OBJECT_OR_NULL:
            return _no_object(event) or _too_long(event, limits)
    if isinstance(event, BriefWireEvent):
        return None
    return _too_long(event, limits)


def lack_of(event: WireEvent, kind: str | None) -> Problem | None:
    """What an event of type *kind* needs and *event* does not have, or None."""
    if kind == "track":
        if not event.event:
            return _MISSING_EVENT
    elif kind not in EVENT_TYPES:
        return _UNKNOWN_TYPE if kind else _MISSING_TYPE
    elif kind == "group":
        if _empty(event.groupId):
            return _MISSING_GROUP
    elif kind == "alias":
        if _empty(event.userId):
            return _MISSING_USER
        if _empty(event.previousId) and _empty(event.anonymousId):
            return _MISSING_PREVIOUS
    return None


def _empty(value: str | int | None) -> bool:
    return value is None or value == ""


def _no_object(event: WireEvent) -> Problem | None:
    for name in _OBJECTS:
        text = bytes(getattr(event, name))
        if text[:1] in {b"", b"{", b"n"}:
            continue
        if text[:1] == b"[" and not text[1:-1].strip():
            continue  # PHP writes an empty object as an empty list
        return Problem("wrong_type", f"{name} must be an object")
    return None


def _too_long(event: WireEvent, limits: Limits) -> Problem | None:
    for code, names, most in (
        ("id_too_long", _IDS, limits.id_bytes_max),
        ("name_too_long", _NAMES, limits.name_bytes_max),
    ):
        for name in names:
            value = getattr(event, name)
            if value is not None and len(str(value).encode()) > most:
                return Problem(code, f"{name} is longer than {most} bytes: shorten it")
    return None
