"""
Strict: JSON as Postgres and everybody else must be able to read it, checked slowly and simply.

Shares nothing with the code that it judges.
"""

import json
import re
from decimal import Decimal
from typing import Any

from collector.event import Event


def _refuse(literal: str) -> Any:
    raise AssertionError(f"{literal} is no JSON")


def unquoted(body: bytes) -> bytes:
    """*body* with each string replaced by `s`, one character at a time."""
    rest, inside, escaped = bytearray(), False, False
    for byte in body:
        if inside:
            inside = escaped or byte != ord('"')
            escaped = not escaped and byte == ord("\\")
        elif byte == ord('"'):
            inside = True
            rest += b"s"
        else:
            rest.append(byte)
    return bytes(rest)


def depth(body: bytes) -> int:
    """How many brackets are open at once."""
    deepest = level = 0
    for byte in unquoted(body):
        level += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, level)
    return deepest


def fits(literal: str) -> bool:
    """Whether a number is within float64 and, written out, has at most 400 digits."""
    exponent = literal.lower().partition("e")[2]
    if len(exponent) > 9 or abs(int(exponent or 0)) > 5_000:
        return False
    number = Decimal(literal)
    written = sum(map(str.isdigit, format(number, "f")))
    return (
        written <= 400 and sum(map(str.isdigit, literal)) <= 410 and abs(number) < Decimal(2**1024)
    )


def texts(value: Any) -> list[str]:
    """All strings in *value*, keys included."""
    if isinstance(value, dict):
        return [*value, *(text for item in value.values() for text in texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def is_poison(body: bytes, depth_max: int) -> bool:
    """Whether *body*, which is JSON, is what jsonb refuses or nobody could read."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return True
    if depth(body) > depth_max:
        return True
    numbers = re.findall(rb"-?[0-9][0-9.eE+-]*", unquoted(body))
    return any(
        "\0" in text for text in texts(json.loads(body, parse_int=str, parse_float=str))
    ) or not all(fits(number.decode()) for number in numbers)


def strictly(body: bytes, depth_max: int) -> Any:
    """The value of *body*, which must be JSON that jsonb keeps and everybody reads."""
    value = json.loads(
        body.decode(), parse_int=str, parse_float=str, parse_constant=_refuse, strict=True
    )
    assert not is_poison(body, depth_max)
    for text in texts(value):
        text.encode()  # no half of a character
    return value


def columns(event: Event) -> list[str | None]:
    """The text columns of *event*."""
    return [
        *(event.message_id, event.type, event.event, event.name, event.category, event.source),
        *(event.user_id, event.anonymous_id, event.group_id, event.previous_id),
    ]
