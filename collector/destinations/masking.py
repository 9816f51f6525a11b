"""
Masking: requests and answers as people may see them, without what gives access.

Hidden are headers that carry credentials, parameters and headers that are named like a token, a key
or a secret, and the secrets that the settings hold, wherever they stand.

Errors   none.
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from multidict import CIMultiDict, CIMultiDictProxy

from collector.destinations.outbound import Answer, Exchange

MASK: Final = "***"
HEADERS: Final = frozenset({"cookie", "set-cookie"})
WORDS: Final = ("auth", "key", "passw", "secret", "signature", "token")
NOT_SECRET: Final = frozenset({"idempotency-key"})
SECRET_CHARS_MIN = 4  # a shorter one is found in everything


def masked(exchange: Exchange, secrets: Iterable[str] = ()) -> Exchange:
    """*exchange* without credentials, and without *secrets* anywhere in it."""
    found = list(secrets)
    answer = exchange.answer
    if answer is not None:
        headers = CIMultiDict(
            (name, _mask_header(name, value, found)) for name, value in answer.headers.items()
        )
        answer = Answer(answer.status, CIMultiDictProxy(headers), _mask_bytes(answer.body, found))
    return exchange._replace(
        url=mask(_mask_query(exchange.url), found),
        headers=_mask_headers(exchange.headers, found),
        body=_mask_bytes(exchange.body, found),
        answer=answer,
    )


def mask(text: str, secrets: Iterable[str]) -> str:
    """*text* without any of *secrets*, also where they are written for an address."""
    for secret in secrets:
        if len(secret) >= SECRET_CHARS_MIN:
            text = text.replace(secret, MASK).replace(quote(secret, safe=""), MASK)
    return text


def _mask_query(url: str) -> str:
    address, question, query = url.partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    shown = [f"{name}={MASK if _is_secret(name) else value}" for name, _, value in pairs]
    return f"{address}?{'&'.join(shown)}" if question else url


def _mask_headers(headers: Mapping[str, str], secrets: list[str]) -> dict[str, str]:
    return {name: _mask_header(name, value, secrets) for name, value in headers.items()}


def _mask_header(name: str, value: str, secrets: list[str]) -> str:
    return MASK if _is_secret(name) else mask(value, secrets)


def _mask_bytes(body: bytes, secrets: list[str]) -> bytes:
    return mask(body.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")


def _is_secret(name: str) -> bool:
    name = name.lower()
    return name in HEADERS or (name not in NOT_SECRET and any(word in name for word in WORDS))
