"""
Expressions: JMESPath over an event as Segment's API has it.

The library finds some mistakes only when it comes to them: calls of functions that do not exist,
or with too few arguments. They are looked for at start. What remains is odd data, such as a sum
over text: the expression then says null.

Errors   ConfigError at start; none for an event.
Source   JMESPath, "Specification"
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions
from msgspec import Raw

from collector.errors import ConfigError
from collector.store.stored import StoredEvent

Expression: TypeAlias = Callable[[dict[str, Any]], Any]

OBJECTS: Final = ("properties", "traits", "context", "integrations")
_FUNCTIONS: Final[dict[str, Any]] = Functions.FUNCTION_TABLE
_decode = msgspec.json.Decoder().decode


def expression(text: str, where: str) -> Expression:
    """What *text*, the setting *where*, says of a message."""
    try:
        compiled = jmespath.compile(text)
    except JMESPathError as exc:
        reason = " ".join(str(exc).split())
        raise ConfigError(f"{where}: {reason}; write a JMESPath expression") from exc
    _check(compiled.parsed, where)

    def search(message: dict[str, Any]) -> Any:
        try:
            return compiled.search(message)
        except (JMESPathError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
            return None  # the library lets through what Python thinks of odd data

    return search


def message_of(event: StoredEvent) -> dict[str, Any]:
    """*event* as Segment's API has it, decoded."""
    found = event.message()
    for name, value in found.items():
        if isinstance(value, Raw):  # decoded once for all destinations, but for unknown members
            found[name] = getattr(event, name) if name in OBJECTS else _decode(value)
    return found


def is_true(value: Any) -> bool:
    """Truth as JMESPath has it: 0 is true, and what is empty is false."""
    return value is not None and value is not False and value not in ("", [], {})


def _check(node: Any, where: str) -> None:
    if node["type"] == "function_expression":
        known = _FUNCTIONS.get(node["value"])
        if known is None:
            names = ", ".join(sorted(_FUNCTIONS))
            raise ConfigError(f"{where}: there is no function {node['value']}; use one of {names}")
        takes, given = known["signature"], len(node["children"])
        variadic = bool(takes) and takes[-1].get("variadic", False)
        if given < len(takes) or (given > len(takes) and not variadic):
            raise ConfigError(
                f"{where}: {node['value']}() takes {len(takes)} arguments, not {given}; "
                "write all of them"
            )
    for child in node["children"]:
        if isinstance(child, dict):
            _check(child, where)
