"""CORS: pages may send and read the answer, errors included; closed sources name their pages."""

import pytest

from collector.ingest import SourceSettings
from collector.journal import JournalSettings
from tests.edge import Counted, Edge, MakeEdge
from tests.rawhttp import Answer, Wire, basic, encode

SHOP = "https://shop.example"
OTHER = "https://other.example"
EVENT = {"event": "E", "userId": "u"}
CLOSED = SourceSettings(name="closed", write_key="closed", origins=[SHOP, "http://localhost:3000"])
OPEN = SourceSettings(name="open", write_key="open")


def allows(answer: Answer) -> tuple[str | None, str | None, str | None]:
    """Which origin, whether with credentials, and what a cache must tell apart."""
    assert answer.status < 300 or answer.status >= 400
    names = ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Vary")
    origin, credentials, vary = map(answer.header, names)
    return origin, credentials, vary


async def preflight(edge: Edge, path: str, origin: str, asked: str | None) -> Answer:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    if asked is not None:
        headers["Access-Control-Request-Headers"] = asked
    return await edge.get(path, headers, method="OPTIONS")


@pytest.mark.parametrize(
    "asked",
    [
        "authorization",
        "authorization,content-type",
        "authorization,x-retry-count",
        "anonymousid,authorization,content-type,sentat",
        "anonymousid,authorization,rsa-retry-attempt,rsa-retry-reason,rsa-since-first-attempt",
        "rsa-recovered,rsa-since-last-attempt,sentat",
        "content-type,x-write-key",
        "x-whatever-comes-next",
    ],
)
@pytest.mark.parametrize("path", ["/v1/t", "/v1/batch/", "/x/v1/b", "/v1/m", "/v1/unknown", "/"])
async def test_a_preflight_lets_through_what_it_was_asked_for(
    edge: Edge, path: str, asked: str
) -> None:
    answer = await preflight(edge, path, SHOP, asked)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("Content-Length") is None
    assert allows(answer) == ("*", None, None)
    assert answer.header("Access-Control-Allow-Headers") == asked
    assert "POST" in (answer.header("Access-Control-Allow-Methods") or "")
    assert answer.header("Access-Control-Max-Age") == "86400"
    assert await edge.results() == []


@pytest.mark.parametrize("asked", [None, "", "x" * 3000, "a\tb", "évil", "a:b", "\udcff"])
async def test_a_preflight_that_asks_for_nothing_sensible_gets_a_list(
    edge: Edge, asked: str | None
) -> None:
    answer = await preflight(edge, "/v1/t", SHOP, asked)
    listed = answer.header("Access-Control-Allow-Headers") or ""
    assert {"authorization", "content-type", "x-write-key"} <= set(listed.split(", "))


async def test_a_page_on_the_internet_may_reach_a_collector_at_home(edge: Edge) -> None:
    headers = {"Origin": SHOP, "Access-Control-Request-Private-Network": "true"}
    answer = await edge.get("/v1/t", headers, method="OPTIONS")
    assert answer.header("Access-Control-Allow-Private-Network") == "true"


async def test_a_preflight_needs_no_key_and_opens_no_door(make_edge: MakeEdge) -> None:
    edge = await make_edge([CLOSED])
    answer = await preflight(edge, "/v1/t", OTHER, "authorization")
    assert answer.status == 204
    assert allows(answer) == (None, None, "Origin")


async def test_an_open_source_answers_every_page_without_credentials(edge: Edge) -> None:
    for origin in (SHOP, "null", "http://localhost"):
        answer = await edge.post("/v1/track", EVENT, {"Origin": origin})
        assert answer.status == 200
        assert allows(answer) == ("*", None, None)
        assert answer.header("Access-Control-Expose-Headers") == "Retry-After"


@pytest.mark.parametrize("origin", CLOSED.origins)
async def test_a_listed_page_is_echoed_and_may_send_credentials(
    make_edge: MakeEdge, origin: str
) -> None:
    edge = await make_edge([CLOSED, OPEN])
    for answer in (
        await preflight(edge, "/v1/t", origin, "authorization"),
        await edge.post("/v1/track", EVENT, {"Origin": origin}, key="closed"),
        await edge.post("/v1/track", EVENT, {"Origin": origin}, key="open"),
        await edge.post("/v1/track", b"{", {"Origin": origin}, key="closed"),
        await edge.get("/v1/projects/closed/settings", {"Origin": origin}),
        await edge.get("/px.gif?wk=closed&e=E", {"Origin": origin}),
    ):
        assert allows(answer) == (origin, "true", "Origin")
        assert answer.header("Access-Control-Expose-Headers") == "Retry-After"


@pytest.mark.parametrize(
    "origin",
    [
        OTHER,
        "null",
        "https://shop.example.evil.example",
        "https://shop.example:8443",
        "http://shop.example",
        "https://SHOP.example",
        "https://shop.example/",
        "",
        "\udcff",
    ],
)
async def test_an_unlisted_page_may_not_use_a_closed_source(
    make_edge: MakeEdge, origin: str
) -> None:
    edge = await make_edge([CLOSED])
    counted = Counted("collector_ingest_refused_requests_total", reason="origin_not_allowed")
    for path in ("/v1/track", "/v1/t", "/v1/batch"):
        body = EVENT | {"batch": [EVENT], "writeKey": "closed"}
        for key in ("closed", None):
            answer = await edge.post(path, body, {"Origin": origin}, key=key)
            assert (answer.status, answer.json()["code"]) == (403, "origin_not_allowed")
            assert allows(answer) == (None, None, "Origin")
    assert counted.moved == 6
    assert all(not rejection.accepted for rejection in await edge.rejections())
    assert (await edge.get("/v1/projects/closed/settings", {"Origin": origin})).status == 404


async def test_a_sender_without_an_origin_may_use_a_closed_source(make_edge: MakeEdge) -> None:
    edge = await make_edge([CLOSED])
    answer = await edge.post("/v1/track", EVENT, key="closed")
    assert answer.status == 200
    assert allows(answer) == (None, None, "Origin")


async def test_an_open_source_beside_a_closed_one_stays_open(make_edge: MakeEdge) -> None:
    edge = await make_edge([CLOSED, OPEN])
    assert allows(await preflight(edge, "/v1/t", OTHER, "authorization")) == ("*", None, "Origin")
    answer = await edge.post("/v1/track", EVENT, {"Origin": OTHER}, key="open")
    assert (answer.status, allows(answer)) == (200, ("*", None, "Origin"))
    answer = await edge.post("/v1/track", EVENT, {"Origin": OTHER}, key="closed")
    assert (answer.status, allows(answer)) == (403, ("*", None, "Origin"))


async def test_every_error_can_be_read_by_the_page(make_edge: MakeEdge) -> None:
    """Without the headers a 400 looks like a network failure, and is sent again."""
    edge = await make_edge(body_bytes_max=1000, header_bytes_max=2000, headers_max=20)
    authorization = {"Authorization": basic("demo")}
    answers = {
        400: await edge.post("/v1/track", b"{"),
        401: await edge.post("/v1/track", EVENT, key="nobody"),
        404: await edge.post("/v1/nothing", EVENT),
        405: await edge.get("/v1/track"),
        413: await edge.post("/v1/track", b" " * 2000),
        414: await edge.send(encode("POST", "/v1/track?" + "a" * 40_000, authorization, b"{}")),
        415: await edge.post("/v1/track", EVENT, {"Content-Encoding": "br"}),
        417: await edge.post("/v1/track", EVENT, {"Expect": "miracles"}),
        431: await edge.post("/v1/track", EVENT, {"X-Long": "a" * 3000}),
    }
    for status, answer in answers.items():
        assert answer.status == status
        assert allows(answer)[0] == "*", status
        told = answer.json()
        assert told["success"] is False
        assert told["code"]
        assert told["message"]
    garbage = await edge.send(b"GET / HTTP/banana\r\n\r\n")
    assert (garbage.status, garbage.json()["code"], allows(garbage)[0]) == (400, "bad_http", "*")


async def test_a_failure_of_ours_can_be_read_by_the_page(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(edge.journal, "check_room", fail)
    answer = await edge.post("/v1/track", EVENT, {"Origin": SHOP})
    assert (answer.status, answer.json()["code"]) == (500, "internal_error")
    assert allows(answer)[0] == "*"
    assert "A request failed inside the collector" in caplog.text


async def test_busy_tells_a_page_how_long_to_wait(make_edge: MakeEdge) -> None:
    edge = await make_edge(journal=JournalSettings(total_bytes_max=1))
    assert (await edge.post("/v1/t", EVENT, {"Origin": SHOP})).status == 200
    answer = await edge.post("/v1/t", EVENT, {"Origin": SHOP})
    assert (answer.status, answer.json()["code"]) == (503, "journal_full")
    assert int(answer.header("Retry-After") or 0) > 0
    assert answer.header("Access-Control-Expose-Headers") == "Retry-After"
    assert allows(answer)[0] == "*"


async def test_nothing_that_a_request_says_can_add_a_header_line(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        head = "OPTIONS /v1/t HTTP/1.1\r\nHost: c\r\nOrigin: https://a\rX-Evil: 1\r\n"
        await wire.send(f"{head}Access-Control-Request-Headers: a\rX-Evil: 1\r\n\r\n".encode())
        answer = await wire.answer()
    assert answer.header("X-Evil") is None
    assert answer.status in {204, 400}
