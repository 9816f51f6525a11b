"""
Members: JSON objects as vendors' SDKs send them, taken apart no further than needed.

Shapes   an object is a dict from name to raw JSON, so that what goes on keeps every digit.
Errors   Invalid, with the field that is wrong; nothing else comes out of here.
"""

import msgspec
from msgspec import Raw

from collector.event import Problem
from collector.leniency import Unreadable, doubtful, repair

Members = dict[str, Raw]

NULL = Raw(b"null")

_decode_members = msgspec.json.Decoder(Members).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_REFUSED = (ValueError, RecursionError)


class Invalid(Exception):
    """A call that cannot be taken: why, and which of its fields is to blame."""

    def __init__(self, problem: Problem, field: str = "") -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.field = field


def read(text: bytes, depth_max: int) -> Members:
    """The members of a body, or of one element of a batch; without a body there are none."""
    if not text.strip():
        return {}
    try:
        if not doubtful(text, depth_max=depth_max):
            return _decode_members(text)
    except _REFUSED:
        pass
    try:
        return _decode_members(repair(text, depth_max=depth_max))
    except Unreadable as exc:
        raise Invalid(Problem(exc.code, exc.detail)) from exc
    except msgspec.ValidationError as exc:
        raise Invalid(Problem("not_an_object", "send one JSON object")) from exc


def given(members: Members, name: str) -> bool:
    """Whether *name* is there and not null."""
    return bytes(members.get(name, NULL)) != b"null"


def text(members: Members, name: str, field: str = "") -> str | None:
    """An id or a name: text or a whole number; None if it is absent, null or empty."""
    raw = members.get(name, NULL)
    try:
        value = _decode_any(raw)
    except _REFUSED:
        value = 0.5
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    field = field or name
    raise Invalid(Problem("wrong_type", f"{field} must be text or a whole number"), field)


def members(outer: Members, name: str, field: str = "") -> Members:
    """The object *name*; absent, null and PHP's empty list have no members."""
    raw = bytes(outer.get(name, NULL))
    if raw == b"null" or (raw[:1] == b"[" and not raw[1:-1].strip()):
        return {}
    try:
        return _decode_members(raw)
    except _REFUSED as exc:
        field = field or name
        raise Invalid(Problem("wrong_type", f"{field} must be an object"), field) from exc


def elements(outer: Members, name: str) -> list[Raw]:
    """The list *name*; absent and null have no elements."""
    raw = bytes(outer.get(name, NULL))
    if raw == b"null":
        return []
    try:
        return _decode_list(raw)
    except _REFUSED as exc:
        raise Invalid(Problem("wrong_type", f"{name} must be a list"), name) from exc
