"""
Coerce: one event whose fields have the wrong types, read as it was obviously meant.

    42 as a user id       is "42"; so is 42.0; 42.5, true and objects are not ids
    5 as an event's name  is "5"
    a number as a time    is seconds, or milliseconds from 1e11 on
    anything else there   stays as text, which refine flags as a clock that cannot be used

Errors   a Problem says which field is wrong and what it should be.
"""

from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from collector.event import Problem

_IDS = ("messageId", "userId", "anonymousId", "groupId", "previousId")
_NAMES = ("event", "name", "category")
_TIMES = ("timestamp", "originalTimestamp", "sentAt")
_MILLISECONDS_FROM = 1e11  # as seconds that is the year 5138

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def coerce(element: bytes) -> bytes | Problem:
    """*element*, strict JSON, with every field of the type that WireEvent expects."""
    try:
        members = _decode_members(element)
    except msgspec.ValidationError:
        return Problem("not_an_object", "an event must be a JSON object")
    for name in _IDS:
        if name in members:
            text = _id(members[name])
            if text is None:
                return Problem("wrong_type", f"{name} must be text or a whole number")
            members[name] = text
    for name in _NAMES:
        if name in members:
            text = _name(members[name])
            if text is None:
                return Problem("wrong_type", f"{name} must be text")
            members[name] = text
    for name in _TIMES:
        if name in members:
            members[name] = coerce_time(members[name])
    if not isinstance(_value(members.get("type", Raw(b"null"))), str | None):
        members["type"] = _as_text(members["type"])  # unknown, unless the path names it
    if not isinstance(_value(members.get("writeKey", Raw(b"null"))), str | None):
        del members["writeKey"]
    return _encode(members)


def _value(raw: Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:  # a number out of range
        return float("inf")


def _id(raw: Raw) -> Raw | None:
    value = _value(raw)
    if value is None or isinstance(value, str):
        return raw
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Raw(_encode(str(value)))
    return None


def _name(raw: Raw) -> Raw | None:
    value = _value(raw)
    if value is None or isinstance(value, str):
        return raw
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Raw(_encode(bytes(raw).decode()))
    return None


def coerce_time(raw: Raw) -> Raw:
    """A time as text, whatever it is written as."""
    value = _value(raw)
    if value is None or isinstance(value, str):
        return raw
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value / 1000 if abs(value) >= _MILLISECONDS_FROM else value
        try:
            return Raw(_encode(datetime.fromtimestamp(seconds, UTC)))
        except (OverflowError, ValueError, OSError):
            pass
    return _as_text(raw)


def _as_text(raw: Raw) -> Raw:
    return Raw(_encode(bytes(raw)[:100].decode(errors="replace")))
