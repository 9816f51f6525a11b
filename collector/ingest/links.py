"""
Links: signed click links: made for mails and ads, read when somebody follows one.

    /r/<token>      token = version ‖ base64url(payload) ‖ base64url(HMAC-SHA256, 16 bytes)

The payload says where the link leads, and what its click is recorded as. The signature is over the
characters of the token, not over the bytes that they stand for: base64 has several spellings of the
same bytes, and only ours is valid. The first secret signs; all of them are tried, each in constant
time, so that links made with an older one keep working until it is taken from the list.

Shapes   payload: msgpack array of target, source, event, user id, anonymous id, properties, expiry.
Units    expiry in seconds since 1970.
Bounds   4,096 characters of token, as long as mail programs and proxies take an address.
Errors   BadRequest(bad_link), BadRequest(expired_link): 404. To make one: BadRequest(bad_target),
         (bad_expiry), (bad_properties), (link_too_long), (links_off).
"""

import binascii
import hmac
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
import yarl
from msgspec import Meta

from collector.errors import BadRequest
from collector.ingest.settings import RedirectSettings

VERSION: Final = "1"
EVENT: Final = "Email Link Clicked"
TOKEN_CHARS_MAX: Final = 4_096
TARGET_CHARS_MAX: Final = 2_048
MAC_BYTES: Final = 16  # nobody finds one of 2**128 by asking
PATH: Final = "/r/"
PURPOSE: Final = b"collector click link "  # the same secret for anything else signs something else

_MAC_CHARS = (MAC_BYTES * 4 + 2) // 3
_TOKEN = re.compile(rf"{VERSION}[A-Za-z0-9_-]{{1,{TOKEN_CHARS_MAX - _MAC_CHARS - 1}}}")
_PLAIN = re.compile(r"[!#-;=?-\[\]^_a-z{|}~]+")  # what may stand in a header, without " < > \ `
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u2028\u2029]|^ | $")

_AHEAD = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": 60, "h": 3_600, "d": 86_400}

Id = Annotated[str, Meta(min_length=1, max_length=128)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a click leads, and what it is recorded as."""

    target: str
    source: str
    event: Name = EVENT
    user_id: Id | None = None
    anonymous_id: Id | None = None
    properties: dict[str, Any] = {}
    expires: Annotated[int, Meta(ge=0, lt=2**40)] | None = None


class _Packed(msgspec.Struct, array_like=True):
    """The same in few bytes."""

    target: str
    source: str
    event: str | None  # None is the usual one
    user_id: str | None
    anonymous_id: str | None
    properties: dict[str, Any] | None
    expires: int | None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Packed).decode


class Links:
    """Makes links and reads them; both may change their secrets while they run."""

    def __init__(self, settings: RedirectSettings) -> None:
        self.use(settings)

    def use(self, settings: RedirectSettings) -> None:
        """From now on sign and verify with the secrets of *settings*."""
        self.base_url = settings.base_url.rstrip("/")
        self._keys = [secret.encode() for secret in settings.secrets]

    def __bool__(self) -> bool:
        """Whether there are links at all."""
        return bool(self._keys)

    def token(self, link: Link) -> str:
        """The token of *link*."""
        if not self._keys:
            raise BadRequest(
                "links_off", "no secret signs links: set redirect.secrets, and start it again"
            )
        packed = _Packed(
            target_of(link.target),
            link.source,
            None if link.event == EVENT else link.event,
            link.user_id,
            link.anonymous_id,
            link.properties or None,
            link.expires,
        )
        try:
            payload = _base64(_pack(packed))
        except (OverflowError, UnicodeEncodeError, RecursionError) as exc:
            raise BadRequest(
                "bad_properties", f"the properties cannot be kept in a link ({exc}): send them less"
            ) from exc
        signed = VERSION + payload
        if len(signed) + _MAC_CHARS > TOKEN_CHARS_MAX:
            raise BadRequest(
                "link_too_long",
                f"the link would have more than {TOKEN_CHARS_MAX} characters: give it an id to "
                "look its properties up by, and leave them out",
            )
        return signed + _mac(self._keys[0], signed)

    def url(self, link: Link) -> str:
        """The whole address of *link*."""
        return f"{self.base_url}{PATH}{self.token(link)}"

    def read(self, token: str) -> Link:
        """The link whose token this is, if it is as one of our secrets signed it."""
        signed, mac = token[:-_MAC_CHARS], token[-_MAC_CHARS:]
        if not token.isascii() or not _TOKEN.fullmatch(signed):
            raise _bad()
        right = False
        for key in self._keys:  # all of them: how long it takes does not tell which
            right |= hmac.compare_digest(_mac(key, signed), mac)
        if not right:
            raise _bad()
        try:
            packed = _unpack(_unbase64(signed[len(VERSION) :]))
            target = target_of(packed.target)
        except (ValueError, BadRequest) as exc:  # signed by whoever else has the secret
            raise _bad() from exc
        if packed.expires is not None and time.time() >= packed.expires:
            raise BadRequest("expired_link", "this link has expired: ask for a new one", status=404)
        return Link(
            target=target,
            source=packed.source,
            event=packed.event or EVENT,
            user_id=packed.user_id,
            anonymous_id=packed.anonymous_id,
            properties=packed.properties or {},
            expires=packed.expires,
        )


def expiry_of(text: str) -> int:
    """The seconds since 1970 that *text* means: a date, a time, or so long from now (30d, 12h)."""
    if ahead := _AHEAD.fullmatch(text):
        return int(time.time()) + int(ahead[1]) * _UNITS[ahead[2]]
    try:
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as exc:
        raise BadRequest(
            "bad_expiry", "the end of a link is no time: write 2026-06-01, or 30d for in 30 days"
        ) from exc


def target_of(text: str) -> str:
    """*text* as the address that a link may lead to, in ASCII."""
    try:
        if not _ODD.search(text) and not _PLAIN.fullmatch(text):
            text = str(yarl.URL(text))  # names and paths in other scripts, encoded
        parts = urlsplit(text)
        good = (
            _PLAIN.fullmatch(text) is not None
            and len(text) <= TARGET_CHARS_MAX
            and parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and (parts.port is None or parts.port > 0)
        )
    except (ValueError, TypeError, UnicodeError):  # an odd port or host
        good = False
    if not good:
        raise BadRequest(
            "bad_target",
            "a link leads to an http or https address without user, password and control "
            f"characters, of at most {TARGET_CHARS_MAX} characters: write it as "
            "https://shop.example/offer",
        )
    return text


def _bad() -> BadRequest:
    return BadRequest("bad_link", "no link of ours: it was cut, changed or made up", status=404)


def _mac(key: bytes, signed: str) -> str:
    return _base64(hmac.digest(key, PURPOSE + signed.encode(), "sha256")[:MAC_BYTES])


def _base64(data: bytes) -> str:
    text = binascii.b2a_base64(data, newline=False).decode()
    return text.rstrip("=").replace("+", "-").replace("/", "_")


def _unbase64(text: str) -> bytes:
    plain = text.replace("-", "+").replace("_", "/")
    return binascii.a2b_base64(plain + "=" * (-len(plain) % 4))
