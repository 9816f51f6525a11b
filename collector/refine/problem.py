"""
Problem: what an event must have to be one.

Asked twice about the same bytes: by ingest, which names the answer to the sender, and by refine,
which turns the event down. The codes are a closed list; `docs/errors.md` explains each.

Source   Segment, "Spec", one page for each call; limits are settings.
"""

from msgspec import Raw

from collector.event import EVENT_TYPES, NOTHING, Problem, WireEvent

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


class Limits:
    """How long ids and names may be, in bytes of UTF-8."""

    __slots__ = ("id_bytes_max", "ids_chars", "name_bytes_max", "names_chars")

    def __init__(self, id_bytes_max: int, name_bytes_max: int) -> None:
        self.id_bytes_max = id_bytes_max
        self.name_bytes_max = name_bytes_max
        # One character takes at most four bytes: below these lengths nothing can be too long.
        self.ids_chars = id_bytes_max // 4
        self.names_chars = name_bytes_max // 4


def problem_of(event: WireEvent, kind: str | None, limits: Limits) -> Problem | None:
    """Why *event* of type *kind* cannot be taken, or None."""
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
    for name in ("properties", "context", "traits", "integrations"):
        raw = getattr(event, name)
        if (
            raw is not NOTHING
            and memoryview(raw)[0] not in _OBJECT_OR_NULL
            and not _empty_list(raw)
        ):
            return Problem("wrong_type", f"{name} must be an object")
    return _too_long(event, limits)


def _empty(value: str | int | None) -> bool:
    return value is None or value == ""


def _empty_list(raw: Raw) -> bool:
    """PHP writes an empty object as an empty list."""
    text = bytes(raw)
    return text[:1] == b"[" and not text[1:-1].strip()


def _too_long(event: WireEvent, limits: Limits) -> Problem | None:
    chars = limits.ids_chars
    for name in ("messageId", "userId", "anonymousId", "groupId", "previousId"):
        value = getattr(event, name)
        if value.__class__ is str and len(value) > chars and _bytes(value) > limits.id_bytes_max:
            return Problem("id_too_long", f"{name} is longer than {limits.id_bytes_max} bytes")
    chars = limits.names_chars
    for name in ("event", "name", "category"):
        value = getattr(event, name)
        if value is not None and len(value) > chars and _bytes(value) > limits.name_bytes_max:
            return Problem("name_too_long", f"{name} is longer than {limits.name_bytes_max} bytes")
    return None


def _bytes(text: str) -> int:
    return len(text.encode())
