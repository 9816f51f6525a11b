"""Links by the admin port: signed as the ingest port reads them, or refused with the reason."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from collector.admin import Admin, AdminSettings, LinkMaker
from collector.admin.links import LINKS_MAX
from collector.ingest import RedirectSettings, SourceSettings
from collector.ingest.auth import Sources
from collector.ingest.links import EVENT, Links
from tests.rawhttp import Answer, encode, exchange

LINKS = Links(RedirectSettings(secrets=["a secret of some length"], base_url="https://s.example/x"))
SOURCES = Sources(
    [SourceSettings(name="mail", write_key="m"), SourceSettings(name="shop", write_key="s")]
)
TARGET = "https://shop.example/offer"

Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    facts = {"store": {"up": True}}
    maker = LinkMaker(LINKS, SOURCES)
    admin = Admin(AdminSettings(port=0), lambda: None, lambda: facts, links=maker)
    await admin.start()

    async def ask(body: object, **headers: str) -> Answer:
        pairs = {"Host": f"127.0.0.1:{admin.port}", "Content-Type": "application/json"}
        pairs |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await exchange(admin.port, encode("POST", "/links", pairs, data))

    yield ask
    await admin.stop()


async def test_a_link_is_made_that_can_be_read(ask: Ask) -> None:
    wanted = {"target": TARGET, "user_id": "u1", "properties": {"n": 1}, "expires": 2**33}
    answer = await ask(wanted)
    assert answer.status == 200
    base, _, token = answer.json()["url"].partition("/r/")
    assert base == "https://s.example/x"
    link = LINKS.read(token)
    assert (link.target, link.source, link.event) == (TARGET, "mail", EVENT)
    assert (link.user_id, link.properties, link.expires) == ("u1", {"n": 1}, 2**33)


async def test_many_links_are_made_in_their_order(ask: Ask) -> None:
    wanted = [{"target": TARGET, "user_id": f"u{n}", "source": "shop"} for n in range(LINKS_MAX)]
    answer = await ask({"links": wanted})
    users = [LINKS.read(url.partition("/r/")[2]).user_id for url in answer.json()["urls"]]
    assert users == [one["user_id"] for one in wanted]


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        ({"target": "javascript:x"}, 400, "bad_target", "https"),
        ({"target": TARGET, "source": "nobody"}, 404, "unknown_source", "[[sources]]"),
        ({"target": TARGET, "expires": "soon"}, 400, "bad_expiry", "30d"),
        ({"target": TARGET, "colour": "red"}, 400, "bad_body", "colour"),
        ({"links": [{"target": TARGET}, {"target": ""}]}, 400, "bad_target", "links[1]"),
        ({"links": [{"target": TARGET}] * (LINKS_MAX + 1)}, 400, "bad_body", "1000"),
        ({}, 400, "bad_body", "target"),
        (b"{", 400, "bad_body", ""),
        (b"\xff", 400, "bad_body", ""),
        (b"[" * 100_000, 400, "bad_body", ""),
    ],
)
async def test_what_cannot_be_made_is_told(
    ask: Ask, body: object, status: int, code: str, said: str
) -> None:
    answer = await ask(body)
    told = answer.json()
    assert (answer.status, told["code"]) == (status, code)
    assert said in told["message"]


async def test_pages_of_other_sites_make_none(ask: Ask) -> None:
    for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://evil.example"}):
        assert (await ask({"target": TARGET}, **headers)).status == 403
    assert (await ask({"target": TARGET}, Content_Type="text/plain")).status == 415
