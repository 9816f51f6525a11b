"""The admin port: who may ask, from where, and with what."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from collector.admin.server import Admin, AdminSettings
from tests.rawhttp import Answer, encode, exchange

FACTS = {"store": {"up": True, "sources": []}}
OPEN = ["/metrics", "/health/live", "/health/ready"]
Ask = Callable[..., Awaitable[Answer]]
MakeAdmin = Callable[[AdminSettings], Awaitable[Ask]]


@pytest.fixture
async def make_admin() -> AsyncIterator[MakeAdmin]:
    async with AsyncExitStack() as stack:

        async def make(settings: AdminSettings) -> Ask:
            admin = Admin(settings, lambda: None, lambda: FACTS)
            await admin.start()
            stack.push_async_callback(admin.stop)

            async def ask(path: str, **headers: str) -> Answer:
                pairs = {"Host": f"127.0.0.1:{admin.port}"} | {
                    name.replace("_", "-"): value for name, value in headers.items()
                }
                return await exchange(admin.port, encode("GET", path, pairs))

            return ask

        yield make


@pytest.fixture
async def ask(make_admin: MakeAdmin) -> Ask:
    return await make_admin(AdminSettings(port=0, allowed_hosts=["metrics.example"]))


async def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    assert AdminSettings().host == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8090", "127.0.0.1", "localhost:1", "[::1]:8090", "metrics.example"]
)
async def test_names_that_are_its_own_are_answered(ask: Ask, host: str) -> None:
    assert (await ask("/status", Host=host)).json() == FACTS


@pytest.mark.parametrize(
    "host",
    [
        *("evil.test", "evil.test:8090", "127.0.0.1.evil.test:8090", "localhost.evil.test"),
        *("127.0.0.1@evil.test", "evil.test:127.0.0.1", "", "192.0.2.1:8090", "metrics.example.x"),
    ],
)
@pytest.mark.parametrize("path", ["/status", "/", "/nothing", "/metrics/", "/health/../status"])
async def test_a_name_that_was_rebound_to_it_learns_nothing(ask: Ask, host: str, path: str) -> None:
    """A page of evil.test may point its name to 127.0.0.1, and is then of the same origin."""
    answer = await ask(path, Host=host)
    assert (answer.status, answer.json()["code"]) == (403, "unknown_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Origin": "http://127.0.0.1:8090"},
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
async def test_pages_of_other_sites_may_not_ask(ask: Ask, headers: dict[str, str]) -> None:
    answer = await ask("/status", **headers)
    assert (answer.status, answer.json()["code"]) == (403, "foreign_site")
    assert answer.header("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_its_own_pages_may_ask(ask: Ask, site: str) -> None:
    assert (await ask("/status", Sec_Fetch_Site=site)).status == 200


@pytest.mark.parametrize("path", OPEN)
async def test_metrics_and_health_answer_everybody_and_tell_nothing_personal(
    make_admin: MakeAdmin, path: str
) -> None:
    ask = await make_admin(AdminSettings(host="0.0.0.0", port=0, token="secret-token"))
    answer = await ask(path, Host="evil.test", Origin="https://evil.test")
    assert answer.status == 200
    assert b"sources" not in answer.body
    assert answer.header("Access-Control-Allow-Origin") is None


@pytest.mark.parametrize("token", ["secret-token", ""])
@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer x", "Bearer secret-toke", "Basic \udcff"]
)
async def test_beyond_loopback_it_asks_for_a_token(
    make_admin: MakeAdmin, token: str, given: str | None
) -> None:
    """Also if none is set: then nobody has it."""
    ask = await make_admin(AdminSettings(host="0.0.0.0", port=0, token=token))
    headers = {} if given is None else {"Authorization": given}
    answer = await ask("/status", **headers)
    assert (answer.status, answer.json()["code"]) == (401, "missing_token")
    if token:
        assert (await ask("/status", Authorization=f"Bearer {token}")).json() == FACTS
