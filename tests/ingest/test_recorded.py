"""
What real clients sent, replayed byte for byte against the running collector: every event is a row
with what the client said, and the client gets the answer with which it goes on.

What a row must hold is worked out here from the recording, with nothing of the collector's own.
"""

import asyncio
import base64
import gzip
import itertools
import json
import os
import tempfile
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PostgresServer
from tests.expected import kept, moment
from tests.process import CollectorProcess
from tests.rawhttp import Answer, Wire, exchange
from tests.recordings import KEY, Recorded, load, names

BROWSER = names("segment-browser", "cdp-browser", "mobile-from-source", "rudder-browser")
BROWSER += names("jitsu-browser", "jitsu-node")
SERVER = names("segment-python", "segment-node", "cdp-node", "rudder-node", "rudder-python")
SERVER += names("jitsu-node")
PAIR = "wkid:secret"  # Jitsu's write key
COLUMNS = ("event", "name", "category", "userId", "anonymousId", "groupId", "previousId")
TYPES = {"t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias"}
TYPES |= {word: word for word in TYPES.values()}
BATCHES = {"batch", "b", "import"}
NO_EXTRA = {
    *("type", "messageId", "timestamp", "originalTimestamp", "sentAt", "writeKey"),
    *("context", "properties", "traits", "integrations"),
    *COLUMNS,
}
SERVER_CLIENTS = {
    *("analytics-python", "analytics-node", "@segment/analytics-node"),
    *("@customerio/cdp-analytics-node", "@rudderstack/rudder-sdk-node"),
}


class Replay:
    """Collectors with nothing in them, shared by recordings that have no message id in common."""

    def __init__(self, postgres: PostgresServer, directory: Path) -> None:
        self._postgres, self._directory = postgres, directory
        self._running: dict[tuple[str, ...], list[tuple[CollectorProcess, set[str]]]] = {}
        self._numbers = itertools.count(1)

    def collector(
        self, kind: str, ids: set[str], origins: str = "", key: str = KEY
    ) -> CollectorProcess:
        slots = self._running.setdefault((kind, origins, key), [])
        for process, taken in slots:
            if not ids & taken:
                taken.update(ids)
                return process
        number = next(self._numbers)
        name = f"recorded_{os.getpid()}_{number}"
        asyncio.run(
            self._postgres.execute(f"create database {name} template template owner collector")
        )
        config = f'[[sources]]\nname = "s"\nwrite_key = "{key}"\nkind = "{kind}"\n{origins}\n'
        process = CollectorProcess(
            self._directory / f"data{number}", self._postgres.dsn(name), config
        )
        slots.append((process, set(ids)))
        return process.start()

    def stop(self) -> None:
        for process, _ in itertools.chain.from_iterable(self._running.values()):
            process.kill()


@pytest.fixture(scope="module")
def replay(postgres: PostgresServer) -> Iterator[Replay]:
    with tempfile.TemporaryDirectory() as directory:
        replay = Replay(postgres, Path(directory))
        yield replay
        replay.stop()


# --- what a recording says, read without the collector -------------------------------------------


class Said:
    """One event of a recording, and the request around it."""

    def __init__(self, request: Recorded, event: dict[str, Any], batch: dict[str, Any]) -> None:
        self.request, self.event, self.batch = request, event, batch

    @property
    def type(self) -> str:
        word = word_of(self.request)
        return self.event["type"] if word in BATCHES else TYPES[word]

    @property
    def context(self) -> dict[str, Any]:
        return (self.batch.get("context") or {}) | (self.event.get("context") or {})

    @property
    def traits(self) -> Any:
        traits = self.event.get("traits")
        if self.type == "identify" and not traits:
            return self.context.get("traits") or traits
        return traits

    @property
    def original(self) -> datetime:
        return moment(self.event.get("originalTimestamp") or self.event["timestamp"])

    @property
    def sent(self) -> datetime | None:
        text = self.event.get("sentAt") or self.batch.get("sentAt")
        return moment(text) if text else None

    def timestamp(self, received: datetime) -> datetime:
        if "originalTimestamp" in self.event and "timestamp" in self.event:
            return moment(self.event["timestamp"])
        return received - (self.sent - self.original) if self.sent else self.original

    def full_context(self, kind: str) -> dict[str, Any]:
        """The context as sent, and what the request adds to it for a person's own device."""
        context = dict(self.context)
        library = (context.get("library") or {}).get("name")
        node = library == "@jitsu/js" and self.context["library"]["env"] == "node"
        if kind == "browser" and library not in SERVER_CLIENTS and not node:
            context.setdefault("ip", "127.0.0.1")
            if agent := self.request.header("User-Agent"):
                context.setdefault("userAgent", agent)
            if "page" not in context and (referrer := self.request.header("Referer")):
                context["page"] = {"url": referrer}
        query = urllib.parse.urlsplit((context.get("page") or {}).get("url") or "").query
        utm = {
            "name" if name == "utm_campaign" else name[4:]: value
            for name, value in urllib.parse.parse_qsl(query)
            if name.startswith("utm_")
        }
        if utm:
            context.setdefault("campaign", utm)
        return context


def word_of(request: Recorded) -> str:
    """The last word of the path, which says what is in the body."""
    return urllib.parse.urlsplit(request.path).path.rsplit("/", 1)[1]


def said(requests: list[Recorded]) -> list[Said]:
    """Every event of a recording, resent ones included."""
    found = []
    for request in requests:
        if request.method != "POST" or request.path.endswith("/m"):
            continue
        body = request.json()
        events = body["batch"] if word_of(request) in BATCHES else [body]
        batch = body if "batch" in body else {}
        found += [Said(request, event, batch) for event in events]
    return found


def ids_of(requests: list[Recorded]) -> set[str]:
    return {event.event["messageId"] for event in said(requests)}


# --- the tests -----------------------------------------------------------------------------------


async def send(port: int, requests: list[Recorded]) -> list[Answer]:
    """Send *requests* in order over one connection, as a browser does."""
    async with await Wire.open(port) as wire:
        answers = []
        for request in requests:
            await wire.send(request.bytes)
            answers.append(await wire.answer(head=request.method == "HEAD"))
        return answers


def books_of(collector: CollectorProcess) -> Counter[str]:
    books = Counter[str]()
    for source in collector.wait_until_stored()["store"]["sources"]:
        books.update({word: count for word, count in source.items() if isinstance(count, int)})
    return books


@pytest.mark.parametrize(
    ("name", "kind"), [(n, "browser") for n in BROWSER] + [(n, "server") for n in SERVER]
)
def test_what_a_client_sent_is_stored_as_it_said_it(replay: Replay, name: str, kind: str) -> None:
    requests = [r for r in load(name) if not r.path.endswith(".js")]
    key = PAIR if name.startswith("jitsu") else KEY
    collector = replay.collector(kind, ids_of(requests), key=key)
    before = books_of(collector)
    began = datetime.now(UTC)
    answers = asyncio.run(send(collector.port, requests))
    after = books_of(collector)

    for request, answer in zip(requests, answers, strict=True):
        if request.method == "POST":
            assert (answer.status, answer.json()) == (200, {"success": True})
    events = said(requests)
    first = {event.event["messageId"]: event for event in reversed(events)}
    counts = {word: after[word] - before[word] for word in after}
    assert counts["accepted"] == len(events)
    assert counts["stored"] == len(first)
    assert counts["duplicate"] == len(events) - len(first)
    assert counts["rejected"] == counts["missing"] == 0

    sql = "select * from collector.events where message_id = any($1) order by seq"
    rows = asyncio.run(collector.rows(sql, list(first)))
    assert [row["message_id"] for row in rows] == list(reversed(first))
    for row in rows:
        event = first[row["message_id"]]
        assert began - timedelta(seconds=1) < row["received_at"] <= datetime.now(UTC)
        assert row["source"] == "s"
        assert row["type"] == event.type
        for name_ in COLUMNS:
            column = "".join("_" + c.lower() if c.isupper() else c for c in name_)
            assert row[column] == (event.event.get(name_) or None), column
        for name_ in ("properties", "integrations"):
            assert row[name_] == kept(event.event.get(name_)), name_
        assert row["traits"] == event.traits
        assert row["context"] == event.full_context(kind)
        assert row["original_timestamp"] == event.original
        assert row["sent_at"] == event.sent
        assert row["timestamp"] == event.timestamp(row["received_at"])
        extra = {n: v for n, v in event.event.items() if n not in NO_EXTRA}
        assert row["extra"] == (extra or None)

    traits: dict[str, dict[str, Any]] = {}
    for event in map(first.__getitem__, reversed(first)):
        if event.type == "identify":
            traits.setdefault(event.event["userId"], {}).update(event.traits)
    for user, latest in traits.items():
        (row,) = asyncio.run(
            collector.rows("select * from collector.users where user_id = $1", user)
        )
        assert row["traits"] == latest


def test_no_column_of_any_table_holds_a_write_key(replay: Replay) -> None:
    checked = 0
    for name, kind in (
        ("segment-browser/standard", "browser"),
        ("segment-python/batch-plain", "server"),
    ):
        collector = replay.collector(kind, set())
        requests = [r for r in load(name) if r.method == "POST"]
        asyncio.run(send(collector.port, requests))
        # Neither may one that was turned down give it away.
        for path, body in (
            ("/v1/track", {"writeKey": KEY}),
            ("/v1/batch", {"writeKey": KEY, "batch": [{"writeKey": KEY, "type": "nothing"}, 5]}),
            ("/v1/batch", {"writeKey": KEY, "batch": [{"writeKey": KEY, "type": 5, "userId": {}}]}),
        ):
            assert collector.post(path, body, key="")[0] in {200, 400}
        data = base64.b64encode(json.dumps({"writeKey": KEY, "properties": 5}).encode()).decode()
        collector.get(f"/v1/pixel/track?data={data}")
        collector.get(f"/px.gif?e=&wk={KEY}&t=track")
        books_of(collector)
        time.sleep(0.3)  # what was turned down is kept behind the answer's back
        books_of(collector)
        tables = asyncio.run(
            collector.rows("select tablename from pg_tables where schemaname = 'collector'")
        )
        for table in (row["tablename"] for row in tables):
            sql = f"select t::text from collector.{table} t"
            for row in asyncio.run(collector.rows(sql)):
                checked += 1
                assert KEY not in row["t"], table
                assert base64.b64encode(KEY.encode()).decode()[:-4] not in row["t"], table
    assert checked > 30


def test_a_retried_recording_is_stored_once(replay: Replay) -> None:
    requests = load("segment-node/batch")
    collector = replay.collector("server", ids_of(requests))
    before = books_of(collector)
    for _ in range(3):
        asyncio.run(send(collector.port, requests))
    after = books_of(collector)
    events = len(said(requests))
    assert after["accepted"] - before.get("accepted", 0) == 3 * events
    assert after["stored"] - before.get("stored", 0) == events
    assert after["duplicate"] - before.get("duplicate", 0) == 2 * events


def test_a_batch_that_is_no_json_loses_no_event(replay: Replay) -> None:
    (request,) = load("segment-python/batch-nan")
    with pytest.raises(ValueError, match="NaN"):
        json.loads(request.text, parse_constant=int)
    collector = replay.collector("server", ids_of([request]))
    asyncio.run(send(collector.port, [request]))
    books_of(collector)
    sql = "select properties from collector.events where message_id = 'msg-track-nan'"
    (row,) = asyncio.run(collector.rows(sql))
    assert row["properties"] == {"nan": None, "inf": None, "lone": "\ufffd"}


@pytest.mark.parametrize(
    ("name", "origins"),
    [
        (name, origins)
        for name in BROWSER
        for origins in ("", 'origins = ["http://shop.test"]')
        # Apps are no browsers, and a page that includes credentials must be listed.
        if "-browser/" in name and (origins or not name.endswith("-include"))
    ],
)
def test_a_browser_may_go_on_after_each_answer(replay: Replay, name: str, origins: str) -> None:
    requests = [r for r in load(name) if not r.path.endswith(".js")]
    key = PAIR if name.startswith("jitsu") else KEY
    collector = replay.collector("browser", set(), origins, key)
    for request, answer in zip(requests, asyncio.run(send(collector.port, requests)), strict=True):
        allowed = answer.header("Access-Control-Allow-Origin")
        assert allowed == (request.header("Origin") if origins else "*")
        credentials = answer.header("Access-Control-Allow-Credentials")
        assert credentials == ("true" if origins else None)
        assert answer.header("Vary") == ("Origin" if origins else None)
        if request.method == "OPTIONS":
            assert answer.status == 204
            asked = request.header("Access-Control-Request-Headers") or ""
            listed = (answer.header("Access-Control-Allow-Headers") or "").lower().split(",")
            assert set(asked.split(",")) <= {word.strip() for word in listed}
            methods = (answer.header("Access-Control-Allow-Methods") or "").split(", ")
            assert request.header("Access-Control-Request-Method") in methods
            assert int(answer.header("Access-Control-Max-Age") or 0) >= 600
        else:
            assert answer.header("Access-Control-Expose-Headers") == "Retry-After"


def test_analytics_js_finds_in_the_settings_where_to_send(replay: Replay) -> None:
    request = load("segment-browser/settings-driven")[0]
    collector = replay.collector("browser", set())
    answer = asyncio.run(exchange(collector.port, request.bytes))
    settings = answer.json()
    # One integration alone; the key that bodies will carry; an address without a scheme.
    assert list(settings["integrations"]) == ["Segment.io"]
    mine = settings["integrations"]["Segment.io"]
    assert mine["apiKey"] == KEY
    assert mine["protocol"] == "http"
    assert mine["apiHost"] == "collector.test/v1"
    assert settings["metrics"]["sampleRate"] == 0
    assert settings["metrics"]["host"] == "collector.test/v1"
    for member in ("plan", "edgeFunction", "middlewareSettings"):
        assert isinstance(settings[member], dict)
    assert len(answer.body) < 2_000


def test_what_an_sdk_reports_about_itself_is_counted_and_not_stored(replay: Replay) -> None:
    request = load("segment-browser/metrics")[-1]
    assert request.path == "/v1/m"
    collector = replay.collector("browser", set())
    name = "collector_ingest_sdk_metrics_total"
    before, rows = collector.metrics()[name], books_of(collector).get("accepted", 0)
    answer = asyncio.run(exchange(collector.port, request.bytes))
    assert (answer.status, answer.json()) == (200, {"success": True})
    assert collector.metrics()[name] - before == len(request.json()["series"])
    assert books_of(collector).get("accepted", 0) == rows


def test_the_recordings_are_as_their_index_says() -> None:
    """A recording that changed by accident would prove nothing."""
    index = (Path(__file__).parents[1] / "wire" / "INDEX.md").read_text()
    for line in index.splitlines():
        name, _, count = (cell.strip() for cell in line.strip("|").partition("|"))
        if not name.endswith(".json") or name.startswith("pixel"):
            continue
        requests = load(name.removesuffix(".json"))
        assert len(requests) == int(count.strip("| ")), name
        for request in requests:
            if length := request.header("Content-Length"):
                assert int(length) == len(request.body), name
            if request.header("Content-Encoding") == "gzip":
                assert gzip.decompress(request.body).decode() == request.text
