"""The admin port's API: what it shows and does, what it refuses, and who may ask."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from collector.admin import api
from collector.admin.server import Admin, AdminSettings
from collector.errors import Unreachable
from collector.store.postgres import Connection, Postgres
from tests.rawhttp import Answer, encode, exchange
from tests.store.desk import RECEIVED, add_counts, add_courier, add_event, add_letter, add_log

Ask = Callable[..., Awaitable[Answer]]
ROUTES = [
    ("GET", "/destinations"),
    ("POST", "/destinations/hook/pause"),
    ("POST", "/destinations/hook/resume"),
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/1"),
    ("POST", "/dead-letters/retry"),
    ("POST", "/dead-letters/drop"),
    ("GET", "/replays"),
    ("GET", "/replays/1"),
    ("POST", "/replays"),
    ("POST", "/replays/1/cancel"),
    ("POST", "/replays/1/pause"),
    ("POST", "/replays/1/resume"),
    ("GET", "/trace/m1"),
]


def asking(admin: Admin) -> Ask:
    async def ask(
        method: str, path: str, body: object = None, raw: bytes | None = None, **headers: str
    ) -> Answer:
        pairs = {"Host": f"127.0.0.1:{admin.port}"}
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            pairs["Content-Type"] = "application/json"
        pairs |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await exchange(admin.port, encode(method, path, pairs, data))

    return ask


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[Connection]:
    """Three events, a destination that has settled them, and a dead letter."""
    connection = await asyncpg.connect(dsn)
    for seq in (1, 2, 3):
        await add_event(connection, seq)
    await add_courier(connection, "hook", position=3)
    await add_counts(connection, "hook", delivered=2, refused__invalid_email=1)
    await add_log(connection, "hook", "delivered", [1, 3])
    await add_log(connection, "hook", "refused", [2], reason="invalid_email")
    await add_letter(connection, "hook", 2)
    yield connection
    await connection.close()


@pytest.fixture
async def ask(dsn: str, connection: Connection) -> AsyncIterator[Ask]:
    settings = AdminSettings(port=0)
    admin = Admin(settings, lambda: None, lambda: {"store": {"up": True}}, Postgres(dsn).connect)
    await admin.start()
    yield asking(admin)
    await admin.stop()


async def get(ask: Ask, path: str) -> Any:
    answer = await ask("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


async def post(ask: Ask, path: str, body: object = None) -> Any:
    answer = await ask("POST", path, body)
    assert answer.status == 200, answer.body
    return answer.json()


# --- what it shows and does ------------------------------------------------------------------


async def test_destinations_are_shown_paused_and_resumed(ask: Ask, connection: Connection) -> None:
    (found,) = (await get(ask, "/destinations"))["destinations"]
    assert (found["name"], found["state"], found["pending"]) == ("hook", "running", 0)
    assert found["outcomes"]["refused"] == {"invalid_email": 1}
    body = {"detail": "the vendor moves"}
    assert await post(ask, "/destinations/hook/pause", body) == {"changed": True}
    assert await post(ask, "/destinations/hook/pause") == {"changed": False}
    (found,) = (await get(ask, "/destinations"))["destinations"]
    assert (found["state"], found["reason"]) == ("paused", "by_hand")
    assert found["detail"] == "the vendor moves"
    assert await post(ask, "/destinations/hook/resume") == {"changed": True}
    assert await connection.fetchval("select state from collector.couriers") == "running"


async def test_dead_letters_are_listed_by_filters_and_shown(ask: Ask) -> None:
    page = await get(ask, "/dead-letters")
    (letter,) = page["dead_letters"]
    assert (page["total"], page["reasons"]) == (1, {"hook": {"invalid_email": 1}})
    for query, total in (
        ("destination=hook&reason=invalid_email&event=Order*&message_id=m2", 1),
        ("reason=too_old", 0),
        ("type=track&type=page", 1),
        ("type=page", 0),
        (f"since={quote(RECEIVED.isoformat())}", 1),
        (f"until={quote(RECEIVED.isoformat())}", 0),
        ("limit=5", 1),
    ):
        assert (await get(ask, f"/dead-letters?{query}"))["total"] == total, query
    shown = await get(ask, f"/dead-letters/{letter['id']}")
    assert shown["dead_letter"] == letter
    assert shown["event"]["messageId"] == "m2"


async def test_dead_letters_are_tried_again_and_dropped(ask: Ask) -> None:
    result = await post(ask, "/dead-letters/retry", {"reason": "invalid_email"})
    assert result["replays"] == [{"destination": "hook", "replay": 1, "events": 1}]
    again = await post(ask, "/dead-letters/retry", {"all": True})
    assert (again["replays"], again["under_way"]) == ([], 1)
    assert (await post(ask, "/dead-letters/drop", {"ids": [10**12]})) == {"dropped": 0}
    assert (await post(ask, "/dead-letters/drop", {"all": True})) == {"dropped": 1}


async def test_a_replay_is_counted_started_shown_and_ended(ask: Ask) -> None:
    order = {"destination": "hook", "since": "2026-06-01T00:00:00Z", "events": ["Order *"]}
    assert await post(ask, "/replays", order | {"dry_run": True}) == {"events": 3}
    assert (await get(ask, "/replays"))["replays"] == []
    started = await post(ask, "/replays", order)
    assert (started["id"], started["state"], started["total"]) == (1, "running", 3)
    assert started["selection"] == {"since": "2026-06-01T00:00:00Z", "events": ["Order *"]}
    assert await get(ask, "/replays/1") == started
    assert (await get(ask, "/replays?destination=hook"))["replays"] == [started]
    assert await post(ask, "/replays/1/pause", {"detail": "later"}) == {"changed": True}
    assert await post(ask, "/replays/1/resume") == {"changed": True}
    assert await post(ask, "/replays/1/cancel") == {"changed": True}
    assert (await get(ask, "/replays/1"))["state"] == "cancelled"


async def test_a_count_that_takes_long_stays_unknown(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "COUNT_SECONDS", -1.0)
    order = {"destination": "hook"}
    assert await post(ask, "/replays", order | {"dry_run": True}) == {"events": None}
    assert (await post(ask, "/replays", order))["total"] is None


async def test_an_event_is_traced_whatever_its_id(ask: Ask, connection: Connection) -> None:
    (stored,) = (await get(ask, "/trace/m2"))["stored"]
    (fate,) = stored["fates"]
    assert (fate["outcome"], fate["reason"], fate["dead_letter"]) == ("refused", "invalid_email", 1)
    assert (await get(ask, "/trace/nothing"))["stored"] == []
    for seq, message_id in enumerate(("a/b", "50%", "é ?#", ".", "a//b"), 10):
        await add_event(connection, seq, message_id=message_id)
        found = await get(ask, f"/trace/{quote(message_id, safe='')}")
        assert [each["seq"] for each in found["stored"]] == [seq], message_id


async def test_what_is_personal_is_not_kept_on_the_way(ask: Ask) -> None:
    assert (await ask("GET", "/trace/m2")).header("Cache-Control") == "no-store"


# --- what it refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/destinations/ga4/pause", None, 404, "unknown_destination"),
        ("POST", "/destinations/hook/pause", {"why": "x"}, 400, "bad_body"),
        ("POST", "/destinations/hook/pause", {"detail": "x" * 501}, 400, "bad_body"),
        ("POST", "/destinations/hook/pause", [], 400, "bad_body"),
        ("GET", "/dead-letters?reson=x", None, 400, "bad_query"),
        ("GET", "/dead-letters?reason=x&reason=y", None, 400, "bad_query"),
        ("GET", "/dead-letters?since=yesterday", None, 400, "bad_query"),
        ("GET", "/dead-letters?limit=0", None, 400, "bad_query"),
        ("GET", "/dead-letters?limit=1e9", None, 400, "bad_query"),
        ("GET", "/dead-letters?destination=ga4", None, 404, "unknown_destination"),
        ("GET", "/dead-letters?reason=a%00b", None, 400, "bad_value"),
        ("GET", "/dead-letters/99", None, 404, "unknown_dead_letter"),
        ("GET", "/dead-letters/9999999999999999999", None, 404, "unknown_dead_letter"),
        ("GET", "/dead-letters/x", None, 404, "not_found"),
        ("POST", "/dead-letters/retry", None, 400, "nothing_chosen"),
        ("POST", "/dead-letters/drop", {}, 400, "nothing_chosen"),
        ("POST", "/dead-letters/drop", {"all": False, "ids": []}, 400, "nothing_chosen"),
        ("POST", "/dead-letters/drop", {"ids": ["1"]}, 400, "bad_body"),
        ("POST", "/dead-letters/drop", {"ids": [10**30]}, 400, "bad_body"),
        ("POST", "/dead-letters/drop", {"resaon": "x"}, 400, "bad_body"),
        ("POST", "/replays", None, 400, "bad_body"),
        ("POST", "/replays", {"destination": "ga4"}, 404, "unknown_destination"),
        ("POST", "/replays", {"destination": "hook", "since": "x"}, 400, "bad_body"),
        ("POST", "/replays", {"destination": "hook", "types": ["x"]}, 400, "bad_type"),
        ("POST", "/replays", {"destination": "hook", "where": "true"}, 400, "where_not_here"),
        ("POST", "/replays", {"destination": "hook", "dead_letters": True}, 400, "bad_body"),
        ("POST", "/replays", {"destination": "hook", "since": "2036-01-01T00:00:00Z"}, 400,
         "nothing_chosen"),
        ("GET", "/replays/7", None, 404, "unknown_replay"),
        ("POST", "/replays/7/cancel", None, 404, "unknown_replay"),
        ("GET", "/replays?where=true", None, 400, "bad_query"),
        ("GET", "/trace/a%00b", None, 400, "bad_value"),
        ("GET", "/trace/a%FFb", None, 200, None),
        ("GET", "/trace/", None, 404, "not_found"),
        ("GET", "/replays/1/cancel", None, 405, "method_not_allowed"),
        ("DELETE", "/dead-letters", None, 405, "method_not_allowed"),
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused_and_says_why(
    ask: Ask, connection: Connection, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = await ask(method, path, body)
    found = answer.json()
    assert (answer.status, found.get("code")) == (status, code)
    assert status == 200 or found["message"]
    rows = await connection.fetch("select state from collector.couriers")
    assert [row["state"] for row in rows] == ["running"]
    assert await connection.fetchval("select count(*) from collector.dead_letters") == 1


async def test_sql_is_not_taken_from_here_even_if_it_is_harmless(ask: Ask) -> None:
    answer = await ask("POST", "/replays", {"destination": "hook", "where": "e.seq = 1"})
    assert "command line" in answer.json()["message"]


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
async def test_a_body_that_a_page_could_send_unasked_is_refused(
    ask: Ask, connection: Connection, path: str
) -> None:
    answer = await ask("POST", path, raw=b'{"all": true}', Content_Type="text/plain")
    if path.endswith(("/resume", "/cancel")):  # that have no body
        assert answer.status in {200, 404}
    elif path != "/replays/1/pause":
        assert (answer.status, answer.json()["code"]) == (415, "bad_type")
    assert await connection.fetchval("select count(*) from collector.dead_letters") == 1


async def test_a_body_has_a_bound_and_must_be_json(ask: Ask) -> None:
    large = b'{"detail": "' + b"x" * api.BODY_BYTES_MAX + b'"}'
    answer = await ask("POST", "/destinations/hook/pause", raw=large)
    assert (answer.status, answer.json()["code"]) == (413, "request_entity_too_large")
    for raw in (b"{", b"\xff", b"[" * 100_000, b'{"detail": "\xed\xa0\x80"}'):
        answer = await ask("POST", "/destinations/hook/pause", raw=raw)
        assert (answer.status, answer.json()["code"]) == (400, "bad_body")


# --- Postgres is away ------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_while_postgres_is_away_it_says_so(method: str, path: str) -> None:
    async def away() -> Connection:
        raise Unreachable("postgres_away", "Postgres cannot be reached: refused")

    admin = Admin(AdminSettings(port=0), lambda: None, dict, away)
    await admin.start()
    answer = await asking(admin)(method, path)
    await admin.stop()
    assert (answer.status, answer.json()["code"]) == (503, "postgres_away")
    assert answer.header("Retry-After") == "5"


async def test_another_releases_schema_is_named(ask: Ask, connection: Connection) -> None:
    await connection.execute("delete from collector.migrations where version > 1")
    answer = await ask("GET", "/destinations")
    assert (answer.status, answer.json()["code"]) == (503, "bad_config")
    assert "restart the collector" in answer.json()["message"]


# --- who may ask -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
    ],
)
async def test_pages_of_other_sites_neither_see_nor_decide(
    ask: Ask, connection: Connection, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = await ask(method, path, {} if method == "POST" else None, **headers)
    assert answer.status == 403
    assert await connection.fetchval("select state from collector.couriers") == "running"


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_beyond_loopback_deliveries_ask_for_the_token(
    dsn: str, method: str, path: str
) -> None:
    settings = AdminSettings(host="0.0.0.0", port=0, token="secret-token")
    admin = Admin(settings, lambda: None, dict, Postgres(dsn).connect)
    await admin.start()
    ask = asking(admin)
    refused = await ask(method, path)
    taken = await ask(method, path, Authorization="Bearer secret-token")
    await admin.stop()
    assert (refused.status, refused.json()["code"]) == (401, "missing_token")
    assert taken.status != 401
