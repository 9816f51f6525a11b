"""
Verdict: what Meta's answer means for the batch that was sent.

    {"events_received": n}                   taken, if n is what was sent
    a page of HTML                           Ambiguous     an edge of theirs answered
    1 2 341 368 5000 21009                   Unreachable   failed before it was looked at
    4 17 32 613 80000 to 80014               Unreachable   rate limits, as long as they say
    190 102, 3 10 200 to 299, 803 100/33     Denied        token, permission or dataset
    2635 2500, appsecret_proof               Denied        version, address or app secret
    100 with any other subcode, 105          Unacceptable  an event in it; nothing was processed
    another code                             by is_transient, else by HTTP status

What Meta writes for people may quote the event, so that details name codes only.

Units    seconds.
Source   Meta, "Graph API: Error Handling", "Conversions API: Troubleshooting", "Rate Limits"
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from collector.destinations.answers import WAIT_SECONDS_MAX, judge, wait_seconds
from collector.destinations.outbound import Answer
from collector.errors import Ambiguous, Denied, Unacceptable, Unreachable

TRANSIENT: Final = frozenset({1, 2, 341, 368, 5000, 21009})
RATE_LIMITS: Final = frozenset({4, 17, 32, 613, *range(80000, 80015)})
TOKENS: Final = frozenset({102, 190})
PERMISSIONS: Final = frozenset({3, 10, *range(200, 300), 803})
VERSIONS: Final = frozenset({2500, 2635})
INVALID: Final = 100
NO_DATASET: Final = 33  # subcode of INVALID
TOO_OLD: Final = 2804003  # subcode of INVALID
TOO_MANY: Final = 105
USAGE_HEADER: Final = "X-Business-Use-Case-Usage"
TRACE_CHARS_MAX = 64
QUOTED_BYTES_MAX = 200


def judge_answer(answer: Answer, sent: int, secrets: Iterable[str] = ()) -> None:
    """Return if Meta took all of the *sent* events; else raise what it says, without *secrets*."""
    body = answer.json()
    if isinstance(body, dict):
        error = body.get("error")
        if isinstance(error, dict):
            _judge_error(answer, error)
        elif 200 <= answer.status < 300:
            _judge_count(body.get("events_received"), sent)
            return
    elif _is_page(answer) and answer.status not in {413, 429}:
        raise Ambiguous(
            "no_json",
            f"HTTP {answer.status} with a page instead of JSON: an edge of Meta's answered",
            seconds=_wait(answer),
        )
    # A few words cannot repeat what was sent.
    quotable = body is None and len(answer.body) <= QUOTED_BYTES_MAX
    judge(answer if quotable else answer._replace(body=b""), secrets=secrets)
    raise Ambiguous("bad_answer", f"HTTP {answer.status} with an answer of an unknown shape")


def _is_page(answer: Answer) -> bool:
    kind = answer.headers.get("Content-Type", "")
    return kind.startswith("text/html") or answer.body.lstrip()[:1] == b"<"


def _judge_count(received: Any, sent: int) -> None:
    if isinstance(received, bool) or received != sent:
        raise Ambiguous(
            "miscounted", f"{sent} events were sent and Meta says it received another number"
        )


def _judge_error(answer: Answer, error: Mapping[str, Any]) -> None:
    """Raise what *error* means, or nothing if the HTTP status has to say."""
    code, subcode = _integer(error.get("code")), _integer(error.get("error_subcode"))
    said = f"Meta: code {code}/{subcode}, HTTP {answer.status}{_trace(error)}"
    if code in RATE_LIMITS:
        raise Unreachable(
            "rate_limited", f"{said}: limit reached, it is tried again", seconds=_wait(answer)
        )
    if code in TRANSIENT:
        raise Unreachable("unavailable", f"{said}: it is tried again", seconds=_wait(answer))
    if code in TOKENS:
        raise Denied(
            "token_refused",
            f"{said}: the token is invalid or expired; set a new `access_token`, then resume",
        )
    if code in PERMISSIONS or (code == INVALID and subcode == NO_DATASET):
        raise Denied(
            "dataset_refused",
            f"{said}: there is no such dataset or the token may not write to it; look at "
            "`dataset_id` and at the system user's permissions, then resume",
        )
    if code in VERSIONS:
        raise Denied("version_refused", f"{said}: set `version` to one that Meta serves")
    if "appsecret_proof" in str(error.get("message", "")):
        raise Denied("secret_refused", f"{said}: `app_secret` is not that of the token's app")
    if code == INVALID:
        reason = "too_old" if subcode == TOO_OLD else "invalid_event"
        raise Unacceptable(reason, f"{said}: look the subcode up in Meta's list, correct, replay")
    if code == TOO_MANY:
        raise Unacceptable("invalid_event", f"{said}: too many parameters")
    if error.get("is_transient") is True:
        raise Unreachable("unavailable", f"{said}: it is tried again", seconds=_wait(answer))
    if 200 <= answer.status < 300:
        raise Unacceptable("refused", f"{said}: look the code up in Meta's list")


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _trace(error: Mapping[str, Any]) -> str:
    """What Meta's support asks for."""
    trace = error.get("fbtrace_id")
    if isinstance(trace, str) and 0 < len(trace) <= TRACE_CHARS_MAX:
        return f", fbtrace_id {''.join(c for c in trace if c.isalnum() or c in '_-')}"
    return ""


def _wait(answer: Answer) -> float | None:
    """How long Meta asks to wait: as others do, or in minutes in a header of its own."""
    seconds = wait_seconds(answer)
    if seconds is not None:
        return seconds
    try:
        usage = msgspec.json.decode(answer.headers.get(USAGE_HEADER, ""))
    except (msgspec.DecodeError, RecursionError):
        return None
    lists = usage.values() if isinstance(usage, dict) else ()
    minutes = [
        minutes
        for uses in lists
        if isinstance(uses, list)
        for use in uses
        if isinstance(use, dict)
        and isinstance(minutes := use.get("estimated_time_to_regain_access"), int | float)
        and not isinstance(minutes, bool)
    ]
    longest = max(minutes, default=0)
    return min(longest * 60.0, WAIT_SECONDS_MAX) if longest > 0 else None
