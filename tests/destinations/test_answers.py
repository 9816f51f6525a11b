"""What a status means, how long a vendor asks to wait, and what of an answer is shown."""

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from collector.destinations.answers import judge, quoted, wait_seconds
from collector.destinations.outbound import Answer
from collector.errors import (
    Ambiguous,
    CollectorError,
    Denied,
    TooLarge,
    Unacceptable,
    Unreachable,
)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDictProxy(CIMultiDict(named)), body)


EXPECTED = (
    dict.fromkeys((408, 423, 429, 503), Unreachable)
    | dict.fromkeys((401, 403), Denied)
    | {413: TooLarge}
    | dict.fromkeys((301, 302, 304, 307, 400, 404, 405, 409, 410, 415, 422), Unacceptable)
    | dict.fromkeys((101, 451, 501), Unacceptable)
    | dict.fromkeys((500, 502, 504, 507, 520, 598, 599), Ambiguous)
)


@pytest.mark.parametrize(("status", "error"), EXPECTED.items())
def test_each_status_is_somebodys_move(status: int, error: type[CollectorError]) -> None:
    with pytest.raises(CollectorError) as raised:
        judge(answer(status, b"what is wrong"))
    assert type(raised.value) is error
    assert f"HTTP {status} what is wrong: " in raised.value.detail


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
def test_two_hundreds_are_taken(status: int) -> None:
    judge(answer(status, b"\xff"))


def test_a_vendor_may_use_other_statuses() -> None:
    with pytest.raises(Unreachable):
        judge(answer(460), waits={460})
    with pytest.raises(Unacceptable):
        judge(answer(403), denied={401})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry_After": "0"}, 0),
        ({"Retry_After": "17"}, 17),
        ({"Retry_After": " 1.5 "}, 1.5),
        ({"Retry_After": "-5"}, 0),
        ({"Retry_After": "1e9"}, 86_400),
        ({"Retry_After": "inf"}, 86_400),
        ({"Retry_After": "nan"}, None),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "soon", "X_Ratelimit_Retry_After": "3"}, 3),
        ({"X_Ratelimit_Retry_After": "4"}, 4),
        ({"X_RateLimit_Reset": "8"}, 8),
        ({"Retry_After": "2", "X_RateLimit_Reset": "8"}, 2),
        (
            {
                "Retry_After": "Sun, 06 Nov 1994 08:49:37 GMT",
                "Date": "Sun, 06 Nov 1994 08:49:07 GMT",
            },
            30,
        ),
        ({"Retry_After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
        ({"Retry_After": "Sun, 06 Nov 99999 08:49:37 GMT"}, None),
    ],
)
def test_a_vendor_says_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert wait_seconds(answer(429, **headers)) == seconds
    with pytest.raises(Unreachable) as raised:
        judge(answer(429, **headers))
    assert raised.value.seconds == seconds


def test_a_moment_to_wait_for_is_a_time_from_now() -> None:
    at = time.time() + 60
    for headers in ({"Retry_After": formatdate(at, usegmt=True)}, {"X_RateLimit_Reset": f"{at}"}):
        seconds = wait_seconds(answer(503, **headers))
        assert seconds is not None
        assert 58 < seconds <= 60


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_header_breaks_the_wait(text: str, date: str) -> None:
    seconds = wait_seconds(answer(429, Retry_After=text, Date=date))
    assert seconds is None or 0 <= seconds <= 86_400


@given(st.binary(max_size=3_000))
def test_what_is_quoted_is_one_short_line(body: bytes) -> None:
    text = quoted(answer(400, body))
    assert len(text) <= 201
    assert text.isprintable()


def test_secrets_are_not_quoted() -> None:
    said = quoted(answer(400, b'{"error":"key s3cr%2Fet or s3cr/et is unknown"}'), ("s3cr/et", ""))
    assert said == '{"error":"key *** or *** is unknown"}'


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_json_is_none(body: bytes) -> None:
    assert answer(200, body).json() is None
