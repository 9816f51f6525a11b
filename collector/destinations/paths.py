"""
Paths: places in an event, and the JSON text around them, changed without being decoded.

    properties.total      traits.address.city      context.page.url      properties."a.b"

Only the objects on the way to a place are taken apart, each into the texts of its members. What
stands beside the place goes on as the bytes that it is, so that no number loses a digit.

Lists    have no places of their own; `drop` and `keep` mean each of their elements.
Errors   ValueError from `parse`, with what to write instead; none for any text.
"""

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

Path: TypeAlias = tuple[str, ...]
Tree: TypeAlias = dict[str, "Tree | None"]  # None: the place itself

_NAME: Final = re.compile(r'"([^"]+)"|([^."\[\]*]+)')
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_elements = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode


def parse(text: str) -> Path:
    """The names that *text* leads through."""
    found: list[str] = []
    at = 0
    while at <= len(text):
        name = _NAME.match(text, at)
        if name is None or text[name.end() : name.end() + 1] not in {"", "."}:
            raise ValueError(
                f"{text} is no path; write names with dots between them, such as "
                'properties.total, and a name that has a dot itself as "a.b"'
            )
        found.append(name[1] or name[2].strip())
        at = name.end() + 1
    return tuple(found)


def tree_of(paths: Iterable[Path]) -> Tree:
    """All of *paths* at once; of two places one inside the other, the outer counts."""
    root: Tree = {}
    for path in paths:
        node = root
        for name in path[:-1]:
            below = node.setdefault(name, {})
            if below is None:
                break
            node = below
        else:
            node[path[-1]] = None
    return root


def put(text: bytes | Raw | None, path: Path, value: bytes | None) -> bytes | None:
    """The object *text* with *value*, JSON text, at *path*; None takes away what is there."""
    if not path:
        return value
    members = _members(text)
    if members is None:
        if value is None:
            return None if text is None else bytes(text)
        members = {}  # what was no object cannot have members and stay what it was
    name = path[0]
    if value is None and name not in members:
        return None if text is None else bytes(text)
    below = put(members.get(name), path[1:], value)
    if below is None:
        members.pop(name, None)
    else:
        members[name] = Raw(below)
    return _encode(members)


def drop(text: bytes | Raw, tree: Tree) -> bytes:
    """The JSON *text* without the places of *tree*."""
    members = _members(text)
    if members is not None:
        for name, below in tree.items():
            if name not in members:
                continue
            if below is None:
                del members[name]
            else:
                members[name] = Raw(drop(members[name], below))
        return _encode(members)
    elements = _elements(text)
    if elements is not None:
        return _encode([Raw(drop(element, tree)) for element in elements])
    return bytes(text)


def keep(text: bytes | Raw, tree: Tree) -> bytes | None:
    """The JSON *text* with nothing but the places of *tree*; None if it has none of them."""
    members = _members(text)
    if members is not None:
        kept: dict[str, Raw] = {}
        for name, member in members.items():
            if name in tree:
                below = tree[name]
                found = bytes(member) if below is None else keep(member, below)
                if found is not None:
                    kept[name] = Raw(found)
        return _encode(kept)
    elements = _elements(text)
    if elements is not None:
        found_ones = (keep(element, tree) for element in elements)
        return _encode([Raw(found) for found in found_ones if found is not None])
    return None


def _members(text: bytes | Raw | None) -> dict[str, Raw] | None:
    if text is None or bytes(text)[:1] != b"{":
        return None
    return _decode_members(text)


def _elements(text: bytes | Raw) -> list[Raw] | None:
    return _decode_elements(text) if bytes(text)[:1] == b"[" else None
