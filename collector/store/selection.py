"""
Selection: which events a replay is for, as it stands in `couriers.filter`, and as SQL.

    {"since": …, "until": …, "events": ["Order *"], "types": …, "sources": …, "message_ids": …,
     "where": "e.properties->>'currency' = 'EUR'", "dead_letters": true}

Each member narrows. Without `types` a replay is of what happened (track, page, screen) and leaves
out what is (identify, group, alias): old traits sent again would overwrite newer ones at a vendor,
and an old alias would join people anew. Whoever names types, message ids or dead letters gets them.

`where` is the one piece of SQL that comes from outside. It becomes part of a statement as it is, so
`check_where` refuses what could end its parentheses; that it only reads and ends in time is seen to
by `reading` in reader.py, in which every statement with such a clause belongs.

Shapes   globs know * and ? and nothing else, and mind case; `since` is included, `until` is not;
         both are about `received_at`, and UTC if they name no zone.
Errors   BadRequest("bad_where") for an expression that is not taken.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from collector.errors import BadRequest

WHERE_CHARS_MAX: Final = 4_000
STATES: Final = ("identify", "group", "alias")  # say what is, not what happened

Words = Annotated[list[Annotated[str, Meta(min_length=1, max_length=1_024)]], Meta(max_length=100)]
Ids = Annotated[list[Annotated[str, Meta(min_length=1, max_length=4_096)]], Meta(max_length=10_000)]

# One token at a time: strings and quoted names as a whole, then what must not stand outside them.
_TOKEN = re.compile(
    r"""
      (?P<escapes>(?<![^\W\d])[eE]'|[uU]&['"])    # in which a backslash means something
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<open>['"])                      # one that does not end
    | (?P<comment>--|/\*|\*/)
    | (?P<semicolon>;)
    | (?P<dollar>\$)
    | (?P<bracket>[()\[\]])
    """,
    re.VERBOSE,
)
_REFUSED = {
    "escapes": "write strings as 'text', without E or U& before them",
    "open": "a quote is opened and not closed",
    "comment": "take the comment out",
    "semicolon": "it is one expression: take the semicolon out",
    "dollar": "write values as 'text': $ stands for arguments, of which there are none",
}
_PAIRS = {")": "(", "]": "["}


class Selection(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Which events; without any member all that happened."""

    since: datetime | None = None
    until: datetime | None = None
    events: Words = []  # names of track events, * and ? allowed
    types: Words = []
    sources: Words = []
    message_ids: Ids = []
    where: str = ""
    dead_letters: bool = False  # only those whose dead letter this replay tries again


def decode(text: str | bytes | None) -> Selection:
    """The selection in `couriers.filter`, read as text."""
    return msgspec.json.decode(text, type=Selection) if text else Selection()


def encode(selection: Selection) -> str:
    """The text for `couriers.filter`."""
    return msgspec.json.encode(selection).decode()


def clause(
    selection: Selection, first_argument: int, replay: int | None = None
) -> tuple[str, list[object]]:
    """
    The SQL condition on `collector.events e`, and its arguments, from `$first_argument` on.

    *replay* is the replay's number, which only a selection of dead letters needs.
    """
    parts: list[str] = []
    arguments: list[object] = []

    def add(condition: str, argument: object) -> None:
        parts.append(condition.format(f"${first_argument + len(arguments)}"))
        arguments.append(argument)

    if selection.since is not None:
        add("e.received_at >= {}::timestamptz", in_utc(selection.since))
    if selection.until is not None:
        add("e.received_at < {}::timestamptz", in_utc(selection.until))
    if selection.events:
        add("e.event like any({}::text[])", [pattern(glob) for glob in selection.events])
    if selection.types:
        add("e.type = any({}::text[])", list(selection.types))
    elif not selection.message_ids and not selection.dead_letters:
        parts.append(f"e.type not in ({', '.join(repr(type_) for type_ in STATES)})")
    if selection.sources:
        add("e.source = any({}::text[])", list(selection.sources))
    if selection.message_ids:
        add("e.message_id = any({}::text[])", list(selection.message_ids))
    if selection.dead_letters:
        assert replay is not None, "a selection of dead letters is that of one replay"
        add(
            "exists (select from collector.dead_letters d where d.seq = e.seq and d.retry = {})",
            replay,
        )
    if selection.where:
        check_where(selection.where)
        # Last, and on lines of its own, so that Postgres' messages point at something readable.
        parts.append(f"(\n{selection.where}\n)")
    return " and ".join(parts) or "true", arguments


def pattern(glob: str) -> str:
    r"""*glob* for `like`, with its own % _ and \ taken as they are."""
    quoted = re.sub(r"([\\%_])", r"\\\1", glob)
    return quoted.replace("*", "%").replace("?", "_")


def in_utc(at: datetime) -> datetime:
    """*at*, which is UTC if it names no zone."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def check_where(where: str) -> None:
    """Refuse with BadRequest what is more than one expression, or less."""
    if not where.strip():
        raise _refusal("it is empty")
    if len(where) > WHERE_CHARS_MAX:
        raise _refusal(f"it has more than {WHERE_CHARS_MAX:,} characters")
    if any(ord(character) < 32 and character not in "\t\n\r" for character in where):
        raise _refusal("take the control characters out")
    opened: list[str] = []
    for token in _TOKEN.finditer(where):
        kind = token.lastgroup or ""
        if kind in _REFUSED:
            raise _refusal(_REFUSED[kind])
        if kind == "bracket":
            _follow(token[0], opened)
    if opened:
        raise _refusal(f"a {opened[-1]} is opened and not closed")


def _follow(bracket: str, opened: list[str]) -> None:
    if bracket not in _PAIRS:
        opened.append(bracket)
    elif not opened or opened.pop() != _PAIRS[bracket]:
        raise _refusal(f"a {bracket} closes what was not opened")


def _refusal(reason: str) -> BadRequest:
    return BadRequest(
        "bad_where",
        f"the where expression is not taken: {reason}. It is a boolean expression over "
        "collector.events e, such as e.properties->>'currency' = 'EUR'",
    )
