"""
Hashing: personal data in the one form that Meta recognises it by.

    text ─normalise─▶ ("mary ann", "maryann") ─SHA-256─▶ 64 hexadecimal digits, lower case

Shapes   a normaliser gives the forms to hash, none of them empty, or none at all: nothing is sent
         rather than the hash of something that matches nobody. There are two forms where Meta's
         own libraries disagree (see `names`); Meta takes a list for every hashed key.
         A value that is a SHA-256 already, all of it, is passed on in lower case.
Errors   none: what cannot be normalised is left out.
Source   Meta, "Conversions API: Customer Information Parameters"
"""

import re
import unicodedata
from base64 import b64decode
from collections.abc import Callable, Iterable
from datetime import date
from hashlib import sha256
from typing import Any, Final, TypeAlias

from collector.destinations.meta.phones import international
from collector.destinations.meta.places import country_of, state_of

Forms: TypeAlias = tuple[str, ...]

VALUES_MAX = 10  # of one key: a person has few addresses
TEXT_CHARS_MAX = 500  # beyond this it is no name, address or number
EARLIEST_YEAR = 1900  # that Meta takes

_HASHED = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_BASE64 = re.compile(r"[0-9A-Za-z+/]{43}=")
_EMPTY_HASH = sha256(b"").hexdigest()
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_DATE = re.compile(r"(\d{4})[-/. ]?(\d{2})[-/. ]?(\d{2})(?:[T ].*)?", re.DOTALL)
_WRITTEN_DATE = re.compile(r"(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4})")
_CITY_DROPS = re.compile(r"[0-9.\-()\s]")
_NOBODY = {"", "undefined", "null", "none", "nan", "[object object]", "n/a"}
_GENDERS: Final = {"m": "m", "male": "m", "man": "m", "f": "f", "female": "f", "woman": "f"}


def text_of(value: Any) -> str | None:
    """*value* as text that says something; whole numbers are written out."""
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
    elif isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
    elif isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        text = str(int(value))
    else:
        return None
    return None if len(text) > TEXT_CHARS_MAX or text.lower() in _NOBODY else text


def hashes(values: Iterable[Any], normalise: Callable[[str], Forms]) -> list[str]:
    """The hash of each form of each of *values*, in order, each once."""
    found: dict[str, None] = {}
    for value in values:
        text = text_of(value)
        if text is None:
            continue
        if hashed := _hash_of(text):
            found[hashed] = None
        else:
            for form in normalise(text):
                found[sha256(form.encode("utf-8", "replace")).hexdigest()] = None
        if len(found) >= VALUES_MAX:
            break
    found.pop(_EMPTY_HASH, None)  # a sender hashed nothing
    return list(found)[:VALUES_MAX]


def _hash_of(text: str) -> str | None:
    """*text* as Meta has it if all of it is a SHA-256, in hexadecimal or in base64."""
    if _HASHED.fullmatch(text):
        return text.lower()
    return b64decode(text).hex() if _BASE64.fullmatch(text) else None


def email(text: str) -> Forms:
    """Trimmed and in lower case. Dots and plus signs stay, unlike at Google."""
    folded = _folded(text)
    return (folded,) if _EMAIL.fullmatch(folded) else ()


def name(text: str) -> Forms:
    """
    In lower case without punctuation; letters of any script stay.

    Meta's page says nothing of a space within a name: its server SDKs keep it, its pixel and
    parameter builder drop it. Both forms are sent, so that either matches.
    """
    words = _letters(_folded(text), keep=" ").split()
    spaced, joined = " ".join(words), "".join(words)
    if not joined:
        return ()
    return (joined,) if spaced == joined else (spaced, joined)


def gender(text: str) -> Forms:
    """`m` or `f`; Meta knows no other."""
    initial = _GENDERS.get(text.strip().lower())
    return (initial,) if initial else ()


def birthday(text: str) -> Forms:
    """
    As YYYYMMDD.

    A date with the year last is taken where day and month cannot be mistaken for each other.
    """
    if found := _DATE.fullmatch(text):
        year, month, day = (int(part) for part in found.groups())
    elif found := _WRITTEN_DATE.fullmatch(text):
        month, day, year = (int(part) for part in found.groups())
        if month > 12:
            month, day = day, month
        elif day <= 12 and day != month:
            return ()  # 3/4/1990: March in one country, April in another
    else:
        return ()
    try:
        born = date(year, month, day)
    except ValueError:
        return ()
    return (f"{born:%Y%m%d}",) if year >= EARLIEST_YEAR else ()


def phone(text: str, country: str | None) -> Forms:
    """Digits only, the country code first, no leading zeros."""
    found = international(text, country)
    return (found,) if found else ()


def city(text: str) -> Forms:
    """
    In lower case without digits, dots, hyphens, brackets and spaces, as Meta's server SDKs do.

    Meta's page wants no punctuation at all; a city with more of it is sent in both forms.
    """
    theirs = _CITY_DROPS.sub("", _folded(text))
    bare = _letters(theirs)
    return tuple(form for form in dict.fromkeys((theirs, bare)) if form) if bare else ()


def state(text: str, country: str | None) -> Forms:
    """The two letters of a state of the US; elsewhere its name, without spaces and punctuation."""
    found = state_of(text, country) or _letters(_folded(text))
    return (found,) if found else ()


def postcode(text: str, country: str | None) -> Forms:
    """In lower case without spaces, up to the first hyphen; the first five digits in the US."""
    found = "".join(_folded(text).split()).split("-", 1)[0]
    if country == "us" and found.isdecimal():
        # A number has lost its leading zeros: 2139 is 02139, in Cambridge.
        found = found.zfill(5)[:5]
    return (found,) if found else ()


def country(text: str) -> Forms:
    """The two letters of ISO 3166-1, in lower case."""
    found = country_of(text)
    return (found,) if found else ()


def identifier(text: str) -> Forms:
    """In lower case without spaces, as Meta's parameter builder makes it in the browser."""
    found = "".join(text.lower().split())
    return (found,) if found else ()


def _folded(text: str) -> str:
    # One spelling of an accented letter: phones and desktops write "é" differently.
    return unicodedata.normalize("NFC", text).strip().lower()


def _letters(text: str, keep: str = "") -> str:
    return "".join(
        " " if c.isspace() and keep else c
        for c in text
        if unicodedata.category(c)[0] in "LMN" or (keep and c.isspace())
    )
