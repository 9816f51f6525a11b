"""
Columns: what a view shows of a JSON object, and how it reads each member whatever that is.

    order_id                     text: what a string says; of anything else its JSON
    total:number                 numeric: a number, or text that plainly is one; else null
    full_screen:boolean          boolean: true, false, "yes", "0", 1, …; else null
    created_at:time              timestamptz: ISO 8601, or seconds or milliseconds since 1970
    birthday:date                date: the same, in UTC
    products:list                jsonb: an array; else null
    sorts:json                   jsonb: anything but null
    campaign.name                a member of a member: column campaign_name
    coupon_id|coupon             the first of these that has a value that can be read

A member is found under its snake_case and its camelCase name.

Source   functions.py has the conversions, none of which can fail.
"""

import hashlib
import re
from typing import Final, NamedTuple

SCHEMA: Final = "warehouse"

# By kind: the type that Postgres has for it, and the function that reads it, if it takes one.
KINDS: Final = {
    "text": ("text", None),
    "number": ("numeric", "as_number"),
    "boolean": ("boolean", "as_boolean"),
    "time": ("timestamp with time zone", "as_time"),
    "date": ("date", "as_date"),
    "list": ("jsonb", "as_list"),
    "json": ("jsonb", "as_json"),
}
_WORD: Final = re.compile(r"([a-z0-9_.|]+)(?::([a-z]+))?")


class Column(NamedTuple):
    """A column of a view: its name, Postgres' name for its type, and the SQL that gives it."""

    name: str
    type: str
    sql: str


def columns(source: str, text: str, *, prefix: str = "") -> tuple[Column, ...]:
    """The columns that *text* lists, separated by spaces, read from the jsonb that is *source*."""
    return tuple(_column(source, word, prefix) for word in text.split())


def _column(source: str, word: str, prefix: str) -> Column:
    found = _WORD.fullmatch(word)
    assert found is not None, word
    keys, kind = found[1].split("|"), found[2] or "text"
    paths = [path for key in keys for path in _paths(key)]
    type_, function = KINDS[kind]
    read = [_read(source, path, function) for path in paths]
    name = prefix + keys[0].replace(".", "_")
    return Column(name, type_, read[0] if len(read) == 1 else f"coalesce({', '.join(read)})")


def _paths(key: str) -> list[list[str]]:
    """Where the member is: `user.first_name` and `user.firstName`."""
    snake = key.split(".")
    camel = [re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), part) for part in snake]
    return [snake] if snake == camel else [snake, camel]


def _read(source: str, path: list[str], function: str | None) -> str:
    steps = [f"'{part}'" for part in path]
    if function is None:
        return " ".join([source, *(f"-> {step}" for step in steps[:-1]), f"->> {steps[-1]}"])
    return f"{SCHEMA}.{function}({' '.join([source, *(f'-> {step}' for step in steps)])})"


def digest_of(sql: str) -> str:
    """What tells one definition from another."""
    return hashlib.sha256(sql.encode()).hexdigest()[:16]
