"""
The ingest port without Postgres: the real edge, the real journal on a real disk, and refine.

What a test sends is read back from the journal and refined, as the store would do.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from collector import metrics
from collector.event import Event, Rejection, decode_envelope
from collector.ingest import Ingest, SourceSettings
from collector.journal import FileJournal
from collector.refine import Limits, refine
from tests.rawhttp import Answer, Headers, basic, encode, exchange

FULL = {"event": "E", "userId": "u", "groupId": "g", "previousId": "p"}  # right for every call
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36"
SHOP = SourceSettings(name="shop", write_key="demo")
BACKEND = SourceSettings(name="backend", write_key="secret-1", kind="server")


class Edge:
    """One ingest port on an ephemeral port of loopback."""

    def __init__(self, journal: FileJournal, ingest: Ingest) -> None:
        self.journal, self.ingest = journal, ingest
        settings = ingest.settings
        self._limits = Limits(settings.id_bytes_max, settings.name_bytes_max)
        self._read = 0

    @property
    def port(self) -> int:
        return self.ingest.port

    async def send(self, data: bytes, *, head: bool = False) -> Answer:
        return await exchange(self.port, data, head=head)

    async def get(self, target: str | bytes, headers: Headers = (), method: str = "GET") -> Answer:
        return await self.send(encode(method, target, headers), head=method == "HEAD")

    async def post(
        self, path: str, body: object, headers: Headers = (), *, key: str | None = "demo"
    ) -> Answer:
        """POST *body*, bytes as they are and all else as JSON, with *key* as Basic auth."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        if key is not None:
            pairs.append(("Authorization", basic(key)))
        return await self.send(encode("POST", path, pairs, data))

    async def results(self) -> list[Event | Rejection]:
        """What the requests since the last call left behind, in order."""
        await self.ingest._intake.settle()
        found: list[Event | Rejection] = []
        while self._read < self.journal.end:
            reading = await self.journal.read(self._read, 100_000_000)
            self._read = reading.end
            for record in reading.records:
                results = list(refine(decode_envelope(record.data), self._limits))
                # The books close only if every accepted event is one or the other.
                assert record.events in {0, len(results)}
                for result in results:
                    if isinstance(result, Rejection):
                        result.accepted = bool(record.events)
                found += results
        return found

    async def events(self) -> list[Event]:
        return [result for result in await self.results() if isinstance(result, Event)]

    async def event(self) -> Event:
        """The one event that came, and nothing else did."""
        (event,) = await self.results()
        assert isinstance(event, Event), event
        return event

    async def rejections(self) -> list[Rejection]:
        return [result for result in await self.results() if isinstance(result, Rejection)]

    async def take(self, body: object, path: str = "/v1/track", **headers: str) -> Event:
        """POST one event that must be taken, and return what became of it."""
        answer = await self.post(path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        assert (answer.status, answer.body) == (200, b'{"success":true}'), answer
        return await self.event()


MakeEdge = Callable[..., Awaitable[Edge]]


class Counted:
    """How far a counter has moved since this was made."""

    def __init__(self, name: str, **labels: str) -> None:
        self._name, self._labels = name, labels
        self._before = self._value()

    def _value(self) -> float:
        return metrics.REGISTRY.get_sample_value(self._name, self._labels) or 0.0

    @property
    def moved(self) -> int:
        return int(self._value() - self._before)


def read(text: bytes | None) -> Any:
    """A JSON column as Postgres would show it: of equal names the last counts."""
    return None if text is None else json.loads(text)


def refusal(answer: Answer) -> tuple[int, str]:
    """Check that *answer* says what is wrong, also to a page; its status and its word."""
    told = answer.json()
    assert told["success"] is False
    assert len(told["message"]) > 10
    assert answer.header("Access-Control-Allow-Origin") == "*"
    return answer.status, told["code"]


async def assert_in_flight_is_empty() -> None:
    await asyncio.sleep(0.05)
    assert metrics.REGISTRY.get_sample_value("collector_ingest_in_flight_bytes") == 0
