"""
Cookies: the identity cookie of a source, and the ad networks' cookies that come with a request.

The identity cookie holds an anonymous id. The server sets it, no script sees it, and each request
of the person's browser that is recorded renews it:

    the request has the cookie    its id stays; it is the event's, whatever id a script made up
    the body has an anonymousId   becomes the cookie's
    neither                       an id is made, where a person's browser asks

It is neither read nor set where the browser objects (Sec-GPC: 1), for a page of another site, or
for one that the source does not list; nor set before the categories of `cookie_consent` were
granted, and it is taken back when one is denied.

Bounds   an id of 128 characters that a cookie can hold; of ad networks' cookies 20, 512 bytes each,
         2,048 in all.
Errors   none: an id that cannot be kept is left alone.
Source   RFC 6265; WebKit's and Chromium's limits, see docs/cookies.md
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from collector.event import BATCH, Envelope
from collector.ingest.machines import machine_of
from collector.ingest.protocol import Request
from collector.ingest.settings import SourceSettings

DAY_SECONDS: Final = 86_400
AD_COOKIES_MAX: Final = 20
AD_COOKIE_BYTES: Final = 512
AD_COOKIES_BYTES: Final = 2_048

NULL: Final = Raw(b"null")

# Some of them measure, the others only advertise: a browser that objects to that keeps these.
_ADS = re.compile(r"_fbp|_fbc|_ttp|_gcl_[a-z]{1,8}|(_ga(?:_[A-Za-z0-9]{1,32})?)")
_VALUE = re.compile(rf"[!#-+\--:<-\[\]-~]{{1,{AD_COOKIE_BYTES}}}")
_ID = re.compile(r"[!#-+\--:<-\[\]-~]{1,128}")
# What scripts write that have no id: everybody would become one person.
_NOBODY = frozenset({"undefined", "null", "none", "0", "00000000-0000-0000-0000-000000000000"})


class _Said(msgspec.Struct, gc=False):
    """What an event says of its visitor."""

    anonymousId: str | int | None = None  # noqa: N815
    context: Raw = NULL


class _Batch(msgspec.Struct, gc=False):
    batch: list[_Said]
    context: Raw = NULL


class _Consent(msgspec.Struct):
    categoryPreferences: dict[str, Any]  # noqa: N815


class _Chosen(msgspec.Struct):
    consent: _Consent


_decode_event = msgspec.json.Decoder(_Said).decode
_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_context = msgspec.json.Decoder(_Chosen).decode


def pairs(headers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values in Cookie headers; some proxies make several of one."""
    for header in headers:
        for pair in header.split(";"):
            name, sign, value = pair.partition("=")
            if sign:
                yield name.strip(" \t"), value.strip(" \t")


def ad_cookies(headers: Sequence[str], *, gpc: bool) -> dict[str, str]:
    """The ad networks' cookies in Cookie headers; where *gpc*, only those that measure."""
    found: dict[str, str] = {}
    size = 0
    for name, value in pairs(headers):
        if not name.startswith("_") or name in found or (match := _ADS.fullmatch(name)) is None:
            continue
        size += len(name) + len(value)
        if len(found) == AD_COOKIES_MAX or size > AD_COOKIES_BYTES:
            break
        if _VALUE.fullmatch(value) and (match[1] or not gpc):
            found[name] = value
    return found


def usable(text: str | int | None) -> str | None:
    """*text* as an id that a cookie can hold, or None."""
    if text is None or text == "":
        return None
    text = str(text)
    return text if _ID.fullmatch(text) and text.lower() not in _NOBODY else None


class Identity:
    """The identity cookie of one source."""

    def __init__(self, source: SourceSettings) -> None:
        self._name = source.cookie_name
        self._on = frozenset(source.cookie_on)
        self._origins = frozenset(source.origins)
        self._consent = tuple(source.cookie_consent)
        self._wins = source.cookie_wins
        domain = f"; Domain={source.cookie_domain}" if source.cookie_domain else ""
        rest = f"; Path=/{domain}; Secure; HttpOnly; SameSite=Lax\r\n"
        self._kept = f"; Max-Age={source.cookie_days * DAY_SECONDS}{rest}"
        self._gone = f"Set-Cookie: {self._name}=; Max-Age=0{rest}".encode()

    def visit(self, request: Request, envelope: Envelope, *, click: bool) -> None:
        """Put the visitor's id into *envelope*, and the cookie into the answer to *request*."""
        how = "redirect" if click else "pixel" if envelope.image else "script"
        if envelope.gpc or how not in self._on or not (click or self._is_of_the_site(request)):
            return
        had = self._brought(request)
        if had is None and not _is_browser(request, how):
            return
        said, granted = _said(envelope, self._consent)
        if granted is False:
            if had is not None:
                request.cookie_line = self._gone
            return
        own = usable(said)
        found = (had or own) if self._wins else (own or had)
        if found is None:
            # An id that no cookie can hold stays the event's, and is not given a second beside it.
            if said is not None or not granted:
                return
            found = str(uuid.uuid4())
        envelope.anonymous_id = found
        envelope.anonymous_id_wins = self._wins
        if granted:
            request.cookie_line = f"Set-Cookie: {self._name}={found}{self._kept}".encode()

    def _brought(self, request: Request) -> str | None:
        """The id in the cookie, if there is one that can be used."""
        for name, value in pairs(request.headers("Cookie")):
            if name == self._name and (found := usable(value)):
                return found
        return None

    def _is_of_the_site(self, request: Request) -> bool:
        """Whether the page that sends is one that the cookie belongs to."""
        site, origin = request.header("Sec-Fetch-Site"), request.header("Origin")
        if site is not None and site != "same-site":
            return site in {"same-origin", "none"}
        if origin is None or origin in self._origins:
            return True
        return site is None and origin.partition("://")[2] == request.header("Host")


def _said(envelope: Envelope, categories: Sequence[str]) -> tuple[str | int | None, bool | None]:
    """
    The first anonymousId in the body, and whether all of *categories* are granted there.

    None means that nothing is said of them. The last choice of a batch counts.
    """
    if envelope.call == BATCH:
        batch = _decode_batch(envelope.body)
        events, contexts = batch.batch, [batch.context]
    else:
        events, contexts = [_decode_event(envelope.body)], []
    said = next(
        (event.anonymousId for event in events if event.anonymousId not in {None, ""}), None
    )
    if not categories:
        return said, True
    contexts += [event.context for event in events]
    for context in reversed(contexts):
        chosen = _preferences(context)
        if chosen is not None:
            return said, all(chosen.get(category) is True for category in categories)
    return said, None


def _preferences(context: Raw) -> dict[str, Any] | None:
    try:
        return _decode_context(context).consent.categoryPreferences
    except msgspec.ValidationError:  # absent, null, or of another shape
        return None


def _is_browser(request: Request, how: str) -> bool:
    """Whether it is a person's browser that asks, which will bring the cookie again."""
    headers = request.message.headers
    # Programs on a server say neither.
    if how == "script" and "Origin" not in headers and "Sec-Fetch-Site" not in headers:
        return False
    return machine_of(request) is None
