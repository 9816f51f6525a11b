"""When the next request may go: buckets, breakers and delays, on a clock that is handed in."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from collector.destinations.pace import (
    OPEN_AFTER,
    PROBE_SECONDS_MAX,
    Breaker,
    Bucket,
    SystemClock,
    delay,
)

NOW = 1_000_000.0


# --- bucket ------------------------------------------------------------------------------------


def test_without_a_rate_nobody_waits() -> None:
    bucket = Bucket(0, 1, NOW)
    assert [bucket.take(NOW) for _ in range(1_000)] == [0.0] * 1_000


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = Bucket(2.0, 3, NOW)
    assert [bucket.take(NOW) for _ in range(6)] == [0.0, 0.0, 0.0, 0.5, 1.0, 1.5]


@given(
    rate=st.floats(0.1, 1_000),
    burst=st.integers(1, 50),
    steps=st.lists(st.tuples(st.floats(-1, 10), st.integers(1, 20)), max_size=50),
)
def test_no_more_goes_than_the_rate_and_a_burst_allow(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    """Whatever is asked for when, and also when the clock is set back."""
    bucket, now, latest = Bucket(rate, burst, NOW), NOW, NOW
    sent: list[tuple[float, int]] = []
    for seconds, tokens in steps:
        now = max(now + seconds, sent[-1][0] if sent else NOW)  # one after the other
        latest = max(latest, now)
        wait = bucket.take(now, tokens)
        assert wait >= 0
        sent.append((now + wait, tokens))
    total = sum(tokens for _, tokens in sent)
    if sent:
        longest = max(at for at, _ in sent) - NOW
        most = max(tokens for _, tokens in sent)
        assert total <= burst + rate * longest + most + 1e-6


# --- breaker -----------------------------------------------------------------------------------


def failed(breaker: Breaker, times: int, now: float = NOW, seconds: float | None = None) -> None:
    for _ in range(times):
        breaker.began()
        breaker.failed(now, seconds)


def test_a_few_failures_stop_nobody_and_many_in_a_row_do() -> None:
    breaker = Breaker(1.0)
    failed(breaker, OPEN_AFTER - 1)
    assert not breaker.open
    assert breaker.blocked(NOW) == 0
    breaker.began()
    breaker.passed(NOW)
    failed(breaker, OPEN_AFTER - 1)
    assert not breaker.open
    failed(breaker, 1)
    assert breaker.open
    assert 0 < breaker.blocked(NOW) <= 1.0


def test_while_it_is_open_one_request_at_a_time_is_tried() -> None:
    breaker = Breaker(1.0)
    failed(breaker, OPEN_AFTER)
    assert breaker.blocked(NOW + 1.0) == 0
    breaker.began()
    assert breaker.blocked(NOW + 1.0) == PROBE_SECONDS_MAX
    breaker.failed(NOW + 1.0)
    assert breaker.blocked(NOW + 10.0) == 0


def test_others_that_were_under_way_when_it_opened_leave_the_probe_the_only_one() -> None:
    breaker = Breaker(1.0)
    for _ in range(OPEN_AFTER + 2):
        breaker.began()
    for _ in range(OPEN_AFTER):
        breaker.failed(NOW)
    assert breaker.blocked(NOW + 5.0) == PROBE_SECONDS_MAX, "two are under way"
    breaker.failed(NOW)
    assert breaker.blocked(NOW + 5.0) == PROBE_SECONDS_MAX, "one is"
    breaker.failed(NOW)
    assert breaker.blocked(NOW + 60.0) == 0


def test_it_says_when_what_was_away_is_back() -> None:
    breaker = Breaker(1.0)
    failed(breaker, OPEN_AFTER)
    breaker.began()
    assert breaker.passed(NOW + 60)
    breaker.began()
    assert not breaker.passed(NOW + 61)
    assert not breaker.open
    assert (breaker.passed_at, breaker.back_at) == (NOW + 61, NOW + 60)


def test_a_refusal_is_an_answer() -> None:
    breaker = Breaker(1.0)
    failed(breaker, OPEN_AFTER)
    breaker.began()
    breaker.answered()
    assert not breaker.open
    assert breaker.passed_at is None


def test_what_the_vendor_asks_for_outlives_an_answer_that_was_under_way() -> None:
    breaker = Breaker(1.0)
    breaker.began()
    breaker.began()
    breaker.failed(NOW, 30.0)
    breaker.passed(NOW + 1)
    assert breaker.blocked(NOW + 1) == 29.0
    assert breaker.blocked(NOW + 30) == 0


def test_one_of_which_nothing_is_learnt_changes_nothing() -> None:
    breaker = Breaker(1.0)
    failed(breaker, OPEN_AFTER - 1)
    breaker.began()
    breaker.ended()
    assert not breaker.open
    failed(breaker, 1)
    assert breaker.open


@given(st.integers(OPEN_AFTER, 10_000))
def test_it_is_tried_every_minute_however_long_it_is_away(times: int) -> None:
    breaker = Breaker(1.0)
    breaker.failures = times - 1
    failed(breaker, 1)
    assert 0 < breaker.blocked(NOW) <= PROBE_SECONDS_MAX


# --- delay and clock ---------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(0.001, 100), st.floats(0.001, 10_000))
def test_a_delay_stays_within_its_bounds(
    exponent: int, seconds_min: float, seconds_max: float
) -> None:
    found = delay(exponent, seconds_min, seconds_max)
    assert min(seconds_min, seconds_max) / 2 <= found <= seconds_max


def test_what_failed_together_does_not_come_back_together() -> None:
    delays = sorted(delay(8, 1.0, 600.0) for _ in range(1_000))
    assert delays[100] < 64, "spread over the whole of it"
    assert delays[-100] > 192


async def test_the_systems_clock_wakes_for_an_event_or_in_time() -> None:
    clock, event = SystemClock(), asyncio.Event()
    assert not await clock.wait(event, 0.01)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await clock.wait(event, None)
    assert await clock.wait(event, 10.0)
