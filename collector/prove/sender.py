"""
Sender: what an SDK does: a request is sent again until it is answered 200.

Each sender waits for the answer to one request before it makes the next, so its events must be
stored in the order of their numbers. Most requests are batches, some a single event as browsers
send it, some an image address. A share of what was acknowledged is sent again on purpose: the same
request at once, or events of long ago.

Shapes   an event is made from its number: sent again, it is the same.
Units    seconds; rates in events a second.
Errors   Refused if the collector says that this will never be taken.
"""

import asyncio
import base64
import random
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from collector.errors import CollectorError
from collector.prove.ledger import EVENTS_MAX, Ledger

PAUSE_SECONDS_MIN = 0.05
PAUSE_SECONDS_MAX = 1.0
RETRY_AFTER_SECONDS_MAX = 5.0
CATCH_UP_SECONDS = 0.5  # what a fault held up is not made up for: the rate is a limit, not an aim
LOOK_SECONDS = 0.2
ANSWER_BYTES_MAX = 100_000
REASON_CHARACTERS_MAX = 200
# Whoever gets one of these has to change the request; all else is worth another try.
FOR_GOOD = frozenset({400, 401, 403, 404, 405, 413, 414, 415})
KINDS, WEIGHTS = ("batch", "single", "pixel"), (8, 1, 1)


class Refused(CollectorError):
    """The collector will not take what is sent, however often."""


class Pace:
    """How fast all senders together may be; a rate of 0 is as fast as they can."""

    def __init__(self, rate: float, ends: Callable[[], bool]) -> None:
        self._rate = rate
        self._ends = ends
        self._due = time.monotonic()

    async def turn(self, events: int) -> bool:
        """Wait until *events* may be sent; False if sending ends before."""
        if self._rate:
            due = max(self._due, time.monotonic() - CATCH_UP_SECONDS)
            self._due = due + events / self._rate
            while (wait := due - time.monotonic()) > 0 and not self._ends():  # noqa: ASYNC110
                await asyncio.sleep(min(wait, LOOK_SECONDS))
        return not self._ends()


class Sender:
    """One of several that share a ledger, a pace and a session."""

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        *,
        url: str,
        key: str,
        batch: int,
        resend: float,
        answer_seconds: float,
        chance: random.Random,
    ) -> None:
        self._ledger = ledger
        self._number = number
        self._url = url.rstrip("/")
        self._key = key
        self._basic = f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}"
        self._batch = batch
        self._resend = resend
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds)
        self._chance = chance
        self.trouble = ""  # why the last try was not acknowledged; empty when it was

    async def run(self, session: aiohttp.ClientSession, pace: Pace) -> None:
        """Send until *pace* ends it; what is under way then is sent until it is acknowledged."""
        ledger, chance = self._ledger, self._chance
        while ledger.sent < EVENTS_MAX:
            (kind,) = chance.choices(KINDS, WEIGHTS)
            count = self._batch if kind == "batch" else 1
            if not await pace.turn(count):
                return
            numbers = ledger.take(self._number, count)
            refused = await self._deliver(session, kind, numbers)
            ledger.acknowledge(numbers, refused)
            if chance.random() < self._resend and await pace.turn(count):
                if chance.random() < 0.5:
                    turn = chance.randrange(ledger.turns(self._number))
                    kind, numbers = "batch", ledger.earlier(self._number, turn, count)
                await self._deliver(session, kind, numbers)
                ledger.resent += len(numbers)
                ledger.heard()

    async def _deliver(
        self, session: aiohttp.ClientSession, kind: str, numbers: range
    ) -> dict[int, str]:
        """Send it until it is acknowledged; the code of each event that was turned down."""
        wait = PAUSE_SECONDS_MIN
        request = self._request(kind, numbers)
        while True:
            refused, retry_after = await self._try(session, kind, request, len(numbers))
            if refused is not None:
                return refused
            self._ledger.retries += 1
            await asyncio.sleep(max(wait, retry_after) * self._chance.uniform(0.7, 1.0))
            wait = min(wait * 2, PAUSE_SECONDS_MAX)

    async def _try(
        self, session: aiohttp.ClientSession, kind: str, request: dict[str, Any], events: int
    ) -> tuple[dict[int, str] | None, float]:
        """What was turned down of it, or None if it was not acknowledged, and when to try again."""
        try:
            async with session.request(
                **request, timeout=self._timeout, allow_redirects=False
            ) as answer:
                text = await _read(answer)
                if kind == "pixel" and answer.status == 200:
                    outcome = answer.headers.get("X-Collector", "no header X-Collector")
                    if outcome == "stored":
                        self.trouble = ""
                        return {}, 0.0
                    text = outcome.encode()
                elif answer.status == 200:
                    refused = _refused(text, events)
                    if refused is not None:
                        self.trouble = ""
                        return refused, 0.0
                shown = text.decode(errors="replace")[:REASON_CHARACTERS_MAX]
                self.trouble = f"it answers {answer.status} {shown}"
                if answer.status in FOR_GOOD:
                    where = f"{request['method']} {request['url']}"
                    raise Refused("refused", f"{where}: {self.trouble}")
                return None, _seconds(answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            self.trouble = str(exc) or "no answer in time"
            return None, 0.0

    # --- requests --------------------------------------------------------------------------

    def _request(self, kind: str, numbers: range) -> dict[str, Any]:
        if kind == "pixel":
            event = self._event(numbers[0])
            parameters = {
                "wk": self._key,
                "e": str(event["event"]),
                "mid": str(event["messageId"]),
                "uid": str(event["userId"]),
                "p.number": str(numbers[0]),
            }
            return {"method": "GET", "url": f"{self._url}/px.gif", "params": parameters}
        if kind == "single":  # as a browser that leaves the page
            body = msgspec.json.encode(self._event(numbers[0]) | {"writeKey": self._key})
            return {
                "method": "POST",
                "url": f"{self._url}/v1/track",
                "data": body,
                "headers": {"Content-Type": "text/plain"},
            }
        body = msgspec.json.encode({"batch": [self._event(number) for number in numbers]})
        return {
            "method": "POST",
            "url": f"{self._url}/v1/batch",
            "data": body,
            "headers": {"Content-Type": "application/json", "Authorization": self._basic},
        }

    def _event(self, number: int) -> dict[str, object]:
        ledger = self._ledger
        return {
            "type": "track",
            "event": "Prove",
            "messageId": ledger.id_of(number),
            "userId": ledger.user_of(number),
            "properties": {"run": ledger.run, "number": number, "price": 19.99, "shown": "Ünï ✓"},
            "context": {"library": {"name": "collector-prove", "version": "1"}},
        }


class _Rejection(msgspec.Struct):
    index: int
    code: str


class _Answer(msgspec.Struct):
    success: bool
    rejected_count: int = 0
    rejected: list[_Rejection] = []


def _refused(text: bytes, events: int) -> dict[int, str] | None:
    """Which of so many *events* a 200 turns down; None if no collector answers like that."""
    try:
        answer = msgspec.json.decode(text, type=_Answer)
    except msgspec.DecodeError:
        return None
    if not answer.success:
        return None
    if answer.rejected_count > len(answer.rejected):  # only the first are named
        return dict.fromkeys(range(events), answer.rejected[0].code if answer.rejected else "")
    return {entry.index: entry.code for entry in answer.rejected}


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body, as far as one of ours could be long."""
    text = b""
    async for chunk in answer.content.iter_any():
        text += chunk
        if len(text) > ANSWER_BYTES_MAX:
            break
    return text


def _seconds(text: str) -> float:
    return min(float(text), RETRY_AFTER_SECONDS_MAX) if text.isdecimal() else 0.0
