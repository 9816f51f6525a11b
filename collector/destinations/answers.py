"""
Answers: what a vendor's HTTP status means for the batch that was sent.

    2xx                    taken
    408 423 429 503        Unreachable    not now; as long as it says
    401 403                Denied         credentials or account
    413                    TooLarge
    501, other 3xx and 4xx Unacceptable   sending it again changes nothing
    other 5xx              Ambiguous      what failed may have been kept before it failed

A destination looks at what is particular to its vendor first, and gives the rest to `judge`.

Units    seconds.
Errors   as above.
Source   Segment, "Build a Destination", error handling; RFC 9110 (Retry-After, Date)
"""

import math
import time
from collections.abc import Container, Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from collector.destinations.masking import mask
from collector.destinations.outbound import Answer
from collector.errors import Ambiguous, Denied, TooLarge, Unacceptable, Unreachable

WAITS: Final = frozenset({408, 423, 429, 503})
DENIED: Final = frozenset({401, 403})
TOO_LARGE: Final = frozenset({413})
WAIT_SECONDS_MAX: Final = 86_400.0  # whatever a vendor asks for
WAIT_HEADERS: Final = ("Retry-After", "X-Ratelimit-Retry-After", "X-RateLimit-Reset")
QUOTED_CHARS_MAX: Final = 200
QUOTED_BYTES_MAX: Final = 2_000  # of an answer that are looked at for it


def judge(
    answer: Answer,
    *,
    waits: Container[int] = WAITS,
    denied: Container[int] = DENIED,
    secrets: Iterable[str] = (),
) -> None:
    """
    Return if *answer* says that the batch was taken; else raise what it says.

    *waits* and *denied* are for vendors that use other statuses; *secrets* are not quoted.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    said = f"HTTP {status} {quoted(answer, secrets)}".strip()
    if status in waits:
        code = "rate_limited" if status == 429 else "unavailable"
        raise Unreachable(code, f"{said}: it is tried again", seconds=wait_seconds(answer))
    if status in denied:
        raise Denied(
            "denied", f"{said}: correct the credentials or the account, then resume the destination"
        )
    if status in TOO_LARGE:
        raise TooLarge(f"{said}: it is tried again in halves; lower `batch_bytes_max`")
    if status >= 500 and status != 501:
        raise Ambiguous(
            "server_error", f"{said}: it may have been kept", seconds=wait_seconds(answer)
        )
    if 300 <= status < 400:
        raise Unacceptable(
            "redirected", f"{said}: redirects are not followed; set the address it leads to"
        )
    raise Unacceptable("refused", f"{said}: correct what it names, then replay")


def wait_seconds(answer: Answer) -> float | None:
    """How long the vendor asks to wait, a day at most; None if it does not say."""
    for name in WAIT_HEADERS:
        if text := answer.headers.get(name, "").strip():
            seconds = _seconds(text, answer.headers.get("Date", ""))
            if seconds is not None:
                return min(max(seconds, 0.0), WAIT_SECONDS_MAX)
    return None


def quoted(answer: Answer, secrets: Iterable[str] = ()) -> str:
    """The beginning of the body for people: in one line, without control characters, *secrets*."""
    text = answer.body[:QUOTED_BYTES_MAX].decode("utf-8", "replace")
    text = " ".join("".join(c if c.isprintable() else " " for c in mask(text, secrets)).split())
    return f"{text[:QUOTED_CHARS_MAX]}…" if len(text) > QUOTED_CHARS_MAX else text


def _seconds(text: str, date: str) -> float | None:
    """Seconds from now of a number of them, or of an HTTP date by the clock that wrote it."""
    try:
        seconds = float(text)
    except ValueError:
        at = _moment(text)
        if at is None:
            return None
        now = _moment(date)
        return at - (time.time() if now is None else now)
    if math.isnan(seconds):
        return None
    # X-RateLimit-Reset of some is no time to wait but a moment in seconds since 1970.
    return seconds - time.time() if seconds > 1e9 else seconds


def _moment(text: str) -> float | None:
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
