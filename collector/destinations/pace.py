"""
Pace: when the next request to a destination may go.

    bucket     so many requests a second, as the vendor allows
    breaker    after failures in a row only one request at a time, after longer and longer waits
    turns      among the couriers of one collector, so that ingest is not behind all of them
    delay      of one event: full jitter, so that what failed together does not come back together

A destination that is away costs its events nothing: `passed_at` tells whether others got through
since an event failed, and only that time counts against its retry window. What the vendor asks to
be left alone for, it is left alone for, whatever was under way when it asked.

Units    seconds on the clock that is handed in.
Source   Brooker, "Exponential Backoff and Jitter" (full jitter)
"""

import asyncio
import random
import time
from typing import Protocol

OPEN_AFTER = 5  # failures in a row
PROBE_SECONDS_MAX = 60.0  # between two tries while it is away
EXPONENT_MAX = 30
TURN_SECONDS = 0.001


class Clock(Protocol):
    """What time it is, and waiting for a later one."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Wait until *event* is set or *seconds* are over; say whether it is set."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait *seconds*."""
        ...


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        return time.time()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Turns:
    """
    Whose turn it is to compute: one courier's in each round of the loop.

    What makes ten of them busy does so in the same moment. If they all went on at once, a request
    that has arrived would wait for ten; so it waits for one.
    """

    def __init__(self) -> None:
        self._line = asyncio.Lock()
        self._since = 0.0

    async def mine(self) -> None:
        """Wait for one's turn, which lasts until the next await."""
        async with self._line:
            await asyncio.sleep(0)
        self._since = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether it has lasted long enough: whoever goes on waits for the next one."""
        return time.perf_counter() - self._since > TURN_SECONDS


def delay(exponent: int, seconds_min: float, seconds_max: float) -> float:
    """Anything up to twice as long as before, within the bounds."""
    longest = min(seconds_max, seconds_min * 2 ** min(exponent, EXPONENT_MAX))
    return random.uniform(min(seconds_min, longest) / 2, longest)  # noqa: S311


class Bucket:
    """A token bucket: *rate* a second, *burst* at once; a rate of 0 is no limit."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float, tokens: float = 1.0) -> float:
        """Take *tokens*, and return how long to wait before they may be used."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)


class Breaker:
    """Whether the destination takes anything now."""

    def __init__(self, seconds_min: float) -> None:
        self._seconds_min = seconds_min
        self.failures = 0  # in a row
        self.passed_at: float | None = None  # when it last took something
        self.back_at = 0.0  # when it did so after it had been away
        self.until = 0.0  # nothing is sent before
        self._under_way = 0

    @property
    def open(self) -> bool:
        """Whether it counts as away: then only one request at a time is tried."""
        return self.failures >= OPEN_AFTER

    def blocked(self, now: float) -> float:
        """How long to wait before the next request; 0 when one may go."""
        if now < self.until:
            return self.until - now
        return PROBE_SECONDS_MAX if self.open and self._under_way else 0.0

    def began(self) -> None:
        """A request goes out. One of those below says how it ended."""
        self._under_way += 1

    def passed(self, now: float) -> bool:
        """It took something; say whether it had been away."""
        self._under_way -= 1
        was_open = self.open
        if was_open:
            self.back_at = now
        self.failures, self.passed_at = 0, now
        return was_open

    def answered(self) -> None:
        """It answered, though it took nothing."""
        self._under_way -= 1
        self.failures = 0

    def ended(self) -> None:
        """Nothing is known of it that was not known before."""
        self._under_way -= 1

    def failed(self, now: float, seconds: float | None = None) -> None:
        """It did not take a batch, and may have said for how long."""
        self._under_way -= 1
        self.failures += 1
        wait = 0.0
        if self.open:
            wait = delay(self.failures - OPEN_AFTER, self._seconds_min, PROBE_SECONDS_MAX)
        if seconds is not None:
            wait = max(wait, seconds)
        self.until = max(self.until, now + wait)
