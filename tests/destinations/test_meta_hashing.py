"""What Meta recognises people by: its published vectors, and its own SDK's opinion."""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from collector.destinations.meta import hashing
from collector.destinations.meta.hashing import hashes
from collector.destinations.meta.phones import country_codes, international
from collector.destinations.meta.places import country_of, state_of

with warnings.catch_warnings():  # what it imports warns of itself
    warnings.simplefilter("ignore")
    from facebook_business.adobjects.serverside.normalize import Normalize

UPPER = "6915771BE1C5AA0C886870B6951B03D7EAFC121FEA0E80A5EA83BEB7C449F4EC"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def one(value: Any, normalise: Callable[[str], hashing.Forms]) -> str | None:
    found = hashes([value], normalise)
    assert len(found) <= 1
    return found[0] if found else None


def phone(country: str | None) -> Callable[[str], hashing.Forms]:
    return lambda text: hashing.phone(text, country)


def state(country: str | None) -> Callable[[str], hashing.Forms]:
    return lambda text: hashing.state(text, country)


def postcode(country: str | None) -> Callable[[str], hashing.Forms]:
    return lambda text: hashing.postcode(text, country)


# --- published by Meta ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalise", "given_", "hashed"),
    [
        (
            hashing.email,
            "John_Smith@gmail.com",
            "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f",
        ),
        (
            phone("us"),
            "(650)555-1212",
            "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176",
        ),
        (
            hashing.name,
            "Mary",
            "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec",
        ),
        (hashing.name, "정", "8fa8cd9c440be61d0151429310034083132b35975c4bea67fdd74158eb51db14"),
        (
            hashing.name,
            "Valéry",
            "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c",
        ),
        (
            hashing.birthday,
            "2/16/1997",
            "01acdbf6ec7b4f478a225f1a246e5d6767eeab1a7ffa17f025265b5b94f40f0c",
        ),
        (
            hashing.country,
            "United States",
            "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621",
        ),
    ],
)
def test_metas_published_vectors(
    normalise: Callable[[str], hashing.Forms], given_: str, hashed: str
) -> None:
    assert one(given_, normalise) == hashed


@pytest.mark.parametrize(
    ("normalise", "given_", "form"),
    [
        (hashing.city, "Paris", "paris"),
        (hashing.city, "New York", "newyork"),
        (state("us"), "Arizona", "az"),
        (state("us"), "CA", "ca"),
        (postcode("us"), "94035", "94035"),
        (postcode("au"), "1987", "1987"),
        (postcode("fr"), "75018", "75018"),
        (postcode("gb"), "M1 1AE", "m11ae"),
        (hashing.gender, "Female", "f"),
        (hashing.gender, "m", "m"),
    ],
)
def test_metas_published_forms(
    normalise: Callable[[str], hashing.Forms], given_: str, form: str
) -> None:
    assert normalise(given_) == (form,)


# --- one key each ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "form"),
    [
        ("  Ann+Shop@Example.COM ", "ann+shop@example.com"),  # plus and dots stay
        ("j.o.hn@gmail.com", "j.o.hn@gmail.com"),
        ("ann@localhost", None),
        ("ann@@example.com", None),
        ("ann smith@example.com", None),
        ("mailto:ann", None),
    ],
)
def test_emails(given_: str, form: str | None) -> None:
    assert hashing.email(given_) == ((form,) if form else ())


@pytest.mark.parametrize(
    ("given_", "country", "digits"),
    [
        ("+44 (0)20 7946 0018", None, "442079460018"),
        ("00442079460018", None, "442079460018"),
        ("020 7946 0018", "gb", "442079460018"),
        ("1-650-555-1212", "us", "16505551212"),
        ("011 44 20 7946 0018", "us", "442079460018"),
        ("650 555 1212 ext 44", "us", "16505551212"),
        ("tel:+1-650-555-1212", None, "16505551212"),
        ("0176 12345678", "de", "4917612345678"),
        ("4917612345678", "de", "4917612345678"),
        ("9198765432", "in", "919198765432"),  # begins like the country code, and is not it
        ("919876543210", "in", "919876543210"),
        ("8 912 345-67-89", "ru", "79123456789"),
        ("8029 123-45-67", "by", "375291234567"),
        ("06 30 123 4567", "hu", "36301234567"),
        ("06 1234567", "it", "39061234567"),  # Italy's zero is part of the number
        ("٠١٧٦١٢٣٤٥٦٧٨", "de", "4917612345678"),
        ("(650)555-1212", None, None),  # whose country?
        ("16505551212", None, None),
        ("555-1212", "us", None),
        ("+1", None, None),
        ("+1234567890123456", None, None),
        ("call me", "us", None),
        ("0", "gb", None),
    ],
)
def test_phones(given_: str, country: str | None, digits: str | None) -> None:
    assert international(given_, country) == digits


@pytest.mark.parametrize(
    ("given_", "forms"),
    [
        ("O'Brien", ("obrien",)),
        ("Jean-Luc", ("jeanluc",)),
        ("St. James", ("st james", "stjames")),
        (" Mary  Ann ", ("mary ann", "maryann")),
        ("Vale\u0301ry", ("valéry",)),  # as a Mac writes it
        ("किरण", ("किरण",)),
        ("--", ()),
    ],
)
def test_names(given_: str, forms: hashing.Forms) -> None:
    assert hashing.name(given_) == forms


@pytest.mark.parametrize(
    ("given_", "form"),
    [
        ("1997-02-16", "19970216"),
        ("1997-02-16T00:00:00.000Z", "19970216"),
        ("19970216", "19970216"),
        ("16.02.1997", "19970216"),
        ("4/4/1990", "19900404"),
        ("3/4/1990", None),  # March or April
        ("1997-02-30", None),
        ("1850-01-01", None),
        ("yesterday", None),
        ("856051200", None),
    ],
)
def test_birthdays(given_: str, form: str | None) -> None:
    assert hashing.birthday(given_) == ((form,) if form else ())


@pytest.mark.parametrize(
    ("given_", "country", "form"),
    [
        ("California", None, "ca"),
        ("new york", "us", "ny"),
        ("US-TX", "us", "tx"),
        ("Washington D.C.", "us", "dc"),
        ("Bayern", "de", "bayern"),
        ("Île-de-France", "fr", "îledefrance"),
        ("Georgia", "ge", "georgia"),
        ("13", "fr", "13"),
        ("CA", None, "ca"),
        ("-", "us", None),
    ],
)
def test_states(given_: str, country: str | None, form: str | None) -> None:
    assert hashing.state(given_, country) == ((form,) if form else ())


@pytest.mark.parametrize(
    ("given_", "country", "form"),
    [
        ("94035-1234", "us", "94035"),
        ("940351234", "us", "94035"),
        ("2139", "us", "02139"),  # a number lost its zero
        ("SW1A 1AA", "gb", "sw1a1aa"),
        ("110-0001", "jp", "110"),
        ("2139", None, "2139"),
        ("-", "us", None),
    ],
)
def test_postcodes(given_: str, country: str | None, form: str | None) -> None:
    assert hashing.postcode(given_, country) == ((form,) if form else ())


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        ("DE", "de"),
        ("DEU", "de"),
        ("Germany", "de"),
        ("UK", "gb"),
        ("U.S.A.", "us"),
        ("Turkey", "tr"),
        ("Türkiye", "tr"),
        ("South Korea", "kr"),
        ("Cote d'Ivoire", "ci"),
        ("Vietnam", "vn"),
        ("Atlantis", None),
        ("", None),
    ],
)
def test_countries(given_: str, code: str | None) -> None:
    assert country_of(given_) == code


def test_every_state_of_the_us_is_two_letters() -> None:
    assert state_of("Wyoming", "us") == "wy"
    assert state_of("Wyoming", "au") is None


def test_a_country_code_is_known_for_nearly_every_country() -> None:
    import pycountry

    codes = {country.alpha_2.lower() for country in pycountry.countries}
    assert country_codes() <= codes | {"xk"}
    # Islands without a telephone exchange of their own.
    assert codes - country_codes() <= {"aq", "bv", "gs", "hm", "pn", "tf", "um"}


# --- what is hashed, and what is not --------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "  ", "undefined", "null", "NULL", None, [], {}, True, 1.5])
def test_nothing_is_made_of_nothing(value: Any) -> None:
    assert hashes([value], hashing.name) == []


def test_a_hash_is_passed_on_in_lower_case() -> None:
    assert one(UPPER, hashing.email) == UPPER.lower()


def test_text_that_contains_a_hash_is_none() -> None:
    assert one(f"x{UPPER.lower()}", hashing.identifier) == sha(f"x{UPPER.lower()}")
    assert hashes([f"{UPPER}0"], hashing.email) == []


def test_the_hash_of_nothing_is_dropped() -> None:
    assert hashes([sha("")], hashing.email) == []


def test_values_are_bounded_and_each_is_sent_once() -> None:
    assert hashes(["a@b.co", "A@B.CO "], hashing.email) == [sha("a@b.co")]
    assert len(hashes([f"a{i}@b.co" for i in range(99)], hashing.email)) == hashing.VALUES_MAX


anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
)


@given(anything, st.sampled_from([None, "us", "de", "it", "hu", "ru"]))
def test_whatever_is_given_a_hash_or_nothing_comes_out(value: Any, country: str | None) -> None:
    for normalise in (
        hashing.email,
        hashing.name,
        hashing.gender,
        hashing.birthday,
        hashing.city,
        hashing.country,
        hashing.identifier,
        phone(country),
        state(country),
        postcode(country),
    ):
        for found in hashes([value], normalise):
            assert len(found) == 64
            assert found == found.lower()
            assert found != sha("")


# --- Meta's own SDK -------------------------------------------------------------------------------

ascii_words = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1)


def sdk(field: str, value: str) -> str:
    found: str = Normalize.normalize_field(field, value)
    return found


@given(st.emails())
def test_the_sdk_hashes_emails_alike(value: str) -> None:
    assert one(value, hashing.email) == sdk("em", value)


@given(ascii_words)
def test_the_sdk_hashes_plain_names_alike(value: str) -> None:
    assume(value.lower() not in {"null", "none", "nan", "undefined"})
    assert one(value, hashing.name) == sdk("fn", value)
    assert one(value, state("de")) == sdk("st", value)


@given(st.lists(ascii_words, min_size=2, max_size=3).map(" ".join))
def test_the_sdk_hashes_one_of_our_forms_of_a_name_with_spaces(value: str) -> None:
    assert sdk("fn", value) in hashes([value], hashing.name)


@given(st.text("abcDEFé0123 .-()", min_size=1))
def test_the_sdk_hashes_cities_alike(value: str) -> None:
    theirs = sdk("ct", value)
    assert one(value, hashing.city) == (None if theirs == sha("") else theirs)


@given(st.text("abcDEF0123 -", min_size=1))
def test_the_sdk_hashes_postcodes_alike(value: str) -> None:
    theirs = sdk("zp", value)
    assert one(value, postcode(None)) == (None if theirs == sha("") else theirs)


def test_the_sdk_hashes_countries_alike() -> None:
    import pycountry

    for country in pycountry.countries:
        assert one(country.alpha_2, hashing.country) == sdk("country", country.alpha_2)


@given(
    st.sampled_from(["+", "00"]),
    st.sampled_from(["1", "44", "49", "91", "972"]),
    st.text("123456789", min_size=9, max_size=10),
    st.sampled_from(["", " ", "-"]),
)
def test_the_sdk_hashes_international_phones_alike(
    prefix: str, code: str, number: str, gap: str
) -> None:
    value = f"{prefix}{code}{gap}{number}"
    assert one(value, phone(None)) == sdk("ph", value)


# Where the SDK differs, Meta's page is right, and we follow the page.
@pytest.mark.parametrize(
    ("field", "value", "normalise", "theirs", "ours", "why"),
    [
        ("fn", "O'Brien", hashing.name, "o'brien", "obrien", "the page: no punctuation"),
        ("fn", "  ", hashing.name, "", None, "the hash of nothing is everybody's"),
        ("fn", "null", hashing.name, "null", None, "what a program writes for nobody"),
        ("st", "California", state("us"), "california", "ca", "the page: two-letter code"),
        ("st", "75", state("fr"), "", "75", "digits dropped leave the hash of nothing"),
        ("zp", "2139", postcode("us"), "2139", "02139", "the page: five digits"),
        ("ct", "12", hashing.city, "", None, "the hash of nothing is everybody's"),
        ("ph", "6505551212", phone("us"), "6505551212", "16505551212", "the page: country code"),
        ("ph", "6505551212", phone(None), "6505551212", None, "the same, and none is known"),
        ("ph", "+44(0)2079460018", phone(None), "4402079460018", "442079460018", "no such number"),
        ("db", "2/16/1997", hashing.birthday, "2/16/1997", "19970216", "the page: YYYYMMDD"),
        ("em", "a b@c.de", hashing.email, "a b@c.de", None, "no address has spaces"),
    ],
)
def test_where_the_sdk_differs(
    field: str,
    value: str,
    normalise: Callable[[str], hashing.Forms],
    theirs: str,
    ours: str | None,
    why: str,
) -> None:
    assert sdk(field, value) == sha(theirs), why
    assert one(value, normalise) == (sha(ours) if ours else None), why


def test_where_the_sdk_takes_an_md5_for_a_hash() -> None:
    """Meta takes SHA-256 alone for these keys, and an MD5 is no address."""
    md5 = "d41d8cd98f00b204e9800998ecf8427e"
    assert sdk("em", md5) == md5
    assert hashes([md5], hashing.email) == []


def test_where_the_sdk_raises() -> None:
    with pytest.raises(TypeError):
        sdk("country", "United States")
    assert one("United States", hashing.country) == sha("us")
    with pytest.raises(TypeError):
        sdk("em", "nobody")
    assert hashes(["nobody"], hashing.email) == []
    with pytest.raises(ValueError, match="phone"):
        sdk("ph", "020 7946 0018 x1")
    assert one("020 7946 0018 x1", phone("gb")) == sha("442079460018")


def test_a_city_with_an_apostrophe_is_sent_as_the_sdk_and_as_the_page_have_it() -> None:
    assert hashes(["St. John's"], hashing.city) == [sha("stjohn's"), sha("stjohns")]
    assert sdk("ct", "St. John's") == sha("stjohn's")
