"""
Places: the codes of countries and of the states of the US, from what people write.

Shapes   codes in lower case, as Meta wants them.
Errors   none: an unknown place is None.
Source   ISO 3166-1 and 3166-2, by `pycountry`, which is loaded when the first place is looked up
"""

import unicodedata
from functools import lru_cache
from typing import Final

PLACES_KEPT = 2_000  # looked up and remembered

# What people write and ISO does not.
_ALSO: Final = {
    "america": "us",
    "brunei": "bn",
    "burma": "mm",
    "cape verde": "cv",
    "deutschland": "de",
    "east timor": "tl",
    "england": "gb",
    "espana": "es",
    "great britain": "gb",
    "holland": "nl",
    "ivory coast": "ci",
    "kosovo": "xk",
    "macau": "mo",
    "macedonia": "mk",
    "north korea": "kp",
    "northern ireland": "gb",
    "osterreich": "at",
    "palestine": "ps",
    "russia": "ru",
    "schweiz": "ch",
    "scotland": "gb",
    "south korea": "kr",
    "swaziland": "sz",
    "the netherlands": "nl",
    "turkey": "tr",
    "u.k.": "gb",
    "u.s.": "us",
    "u.s.a.": "us",
    "uk": "gb",
    "united states of america": "us",
    "vatican": "va",
    "wales": "gb",
    "xk": "xk",
}


@lru_cache(PLACES_KEPT)
def country_of(text: str) -> str | None:
    """The two letters of the country that *text* names or abbreviates."""
    import pycountry  # noqa: PLC0415  half a second of reading, for those who need it

    wanted = " ".join(text.split()).lower()
    if not wanted:
        return None
    if found := _ALSO.get(_plain(wanted)):
        return found
    try:
        code: str = pycountry.countries.lookup(wanted).alpha_2
    except LookupError:
        return _country_names().get(_plain(wanted))
    return code.lower()


@lru_cache(PLACES_KEPT)
def state_of(text: str, country: str | None) -> str | None:
    """The two letters of a state of the US, if *text* is one and *country* is not another."""
    if country not in {None, "us"}:
        return None
    wanted = " ".join(text.split()).lower()
    codes, names = _states()
    short = wanted.removeprefix("us-").replace(".", "")
    if country == "us" and short in codes:
        return short
    return names.get(wanted)


@lru_cache(1)
def _states() -> tuple[frozenset[str], dict[str, str]]:
    import pycountry  # noqa: PLC0415  see country_of

    found = {
        part.name.lower(): part.code[3:].lower()
        for part in pycountry.subdivisions
        if part.country_code == "US"
    }
    found["washington dc"] = found["washington, d.c."] = found["washington d.c."] = "dc"
    return frozenset(found.values()), found


@lru_cache(1)
def _country_names() -> dict[str, str]:
    import pycountry  # noqa: PLC0415  see country_of

    return {
        _plain(written.lower()): country.alpha_2.lower()
        for country in pycountry.countries
        for written in (country.name, getattr(country, "common_name", country.name))
    }


def _plain(text: str) -> str:
    """*text* without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
