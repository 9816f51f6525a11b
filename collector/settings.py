"""
Settings: the base that each room's table of settings builds on.

A room declares its own `Section`; `config.py` composes them. Every default stands in one place,
next to the room that uses it, with its unit last in the name.

Units    bytes, seconds and plain counts, as the name says.
Errors   msgspec.ValidationError, which `config.py` turns into a ConfigError with file and setting.
"""

from typing import Annotated, Any, get_origin, get_type_hints

import msgspec
from msgspec import Meta

SECONDS_MAX = 1e9  # thirty years; keeps infinity out

Count = Annotated[int, Meta(gt=0)]
CountOrNone = Annotated[int, Meta(ge=0)]
Bytes = Annotated[int, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
Port = Annotated[int, Meta(ge=0, le=65535)]  # 0 asks the system for a free one
Share = Annotated[float, Meta(gt=0, le=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of settings: immutable, and a misspelt name stops the start."""


def is_table(kind: Any) -> bool:
    """Whether a field of this type is a table of its own, written `[name]` in the file."""
    return isinstance(kind, type) and issubclass(kind, Section)


def is_list(kind: Any) -> bool:
    """Whether a field of this type is a list, written as an array or as `[[name]]` in the file."""
    return get_origin(kind) is list


def kinds(section: type[Section]) -> dict[str, Any]:
    """The type of each setting of *section*, with its bounds."""
    return get_type_hints(section, include_extras=True)
