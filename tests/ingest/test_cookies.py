"""Cookies: one visitor has one id, however events come; ids of ad networks are kept for them."""

import re
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from collector.config import load
from collector.destinations import fields
from collector.destinations.base import Mail
from collector.errors import ConfigError
from collector.event import decode_envelope
from collector.ingest import RedirectSettings, SourceSettings
from collector.ingest.cookies import ad_cookies, usable
from collector.ingest.links import Link
from collector.refine import Limits, refine
from collector.refine.cookies import client_ids
from tests.destinations.events import stored
from tests.edge import BROWSER, Edge, MakeEdge, read
from tests.rawhttp import Answer, Wire, basic, encode

SHOP = "https://shop.example"
SECRETS = RedirectSettings(secrets=["a secret of some length"])
PAGE = {"Origin": SHOP, "User-Agent": BROWSER}
IMAGE = {"User-Agent": BROWSER, "Referer": f"{SHOP}/"}
PIXEL = "/px.gif?wk=demo&e=Viewed"
EVENT: dict[str, Any] = {"event": "E", "anonymousId": "made-by-script"}
OLD = "the-id-that-was-there-before"
ATTRIBUTES = "Max-Age=34560000; Path=/; Secure; HttpOnly; SameSite=Lax"


def shop(**settings: Any) -> SourceSettings:
    return SourceSettings(
        **{"name": "shop", "write_key": "demo", "origins": [SHOP], "cookie_name": "sid"} | settings
    )


@pytest.fixture
async def shopping(make_edge: MakeEdge) -> Edge:
    return await make_edge([shop()], redirect=SECRETS)


def given_by(answer: Answer) -> str | None:
    """The id in the cookie that *answer* sets."""
    line = answer.header("Set-Cookie")
    if line is None:
        return None
    name, _, rest = line.partition("=")
    value, _, attributes = rest.partition("; ")
    assert (name, attributes) == ("sid", ATTRIBUTES)
    return value


async def visitor(edge: Edge) -> str | None:
    return (await edge.event()).anonymous_id


def link(edge: Edge, **members: Any) -> str:
    return f"/r/{edge.ingest.links.token(Link(target=SHOP, source='shop', **members))}"


# --- One visitor ---------------------------------------------------------------------------------


class Browser:
    """A person's browser: it keeps cookies as they say, and sends them again."""

    def __init__(self, edge: Edge, session: aiohttp.ClientSession) -> None:
        self._base = f"http://127.0.0.1:{edge.port}"
        self._session = session

    async def get(self, path: str) -> None:
        async with self._session.get(
            self._base + path, headers=IMAGE, allow_redirects=False
        ) as answer:
            assert answer.status in {200, 302}

    async def track(self, **members: Any) -> None:
        headers = PAGE | {"Authorization": basic("demo")}
        async with self._session.post(
            f"{self._base}/v1/t", json={"event": "E"} | members, headers=headers
        ) as answer:
            assert answer.status == 200

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.key: cookie.value for cookie in self._session.cookie_jar}


@pytest.mark.parametrize(
    "way", ["pixel link script", "script pixel link", "link script pixel", "script link script"]
)
async def test_pixel_link_and_script_share_one_id(shopping: Edge, way: str) -> None:
    jar = aiohttp.CookieJar(
        unsafe=True, treat_as_secure_origin=URL(f"http://127.0.0.1:{shopping.port}")
    )
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = Browser(shopping, session)
        for _ in range(2):
            for step in way.split():
                if step == "pixel":
                    await browser.get(PIXEL)
                elif step == "link":
                    await browser.get(link(shopping, user_id="u1"))
                else:
                    await browser.track(anonymousId="made-by-script")
    events = await shopping.events()
    assert len(events) == 6
    (one,) = {event.anonymous_id for event in events}
    assert browser.cookies == {"sid": one}
    assert (one == "made-by-script") == way.startswith("script")


async def test_the_id_that_is_there_is_kept_and_renewed(shopping: Edge) -> None:
    with_it = {"Cookie": f"other=1; sid={OLD}; sid=second"}
    answers = (
        await shopping.get(PIXEL, IMAGE | with_it),
        await shopping.get(f"{PIXEL}&aid=from-the-page", IMAGE | with_it),
        await shopping.get(link(shopping, anonymous_id="from-mail"), IMAGE | with_it),
        await shopping.post("/v1/t", EVENT, PAGE | with_it),
        await shopping.post("/v1/batch", {"batch": [{"type": "track", **EVENT}]}, PAGE | with_it),
    )
    assert {given_by(answer) for answer in answers} == {OLD}
    events = await shopping.events()
    assert [event.anonymous_id for event in events] == [OLD] * len(answers)
    assert read(events[-1].extra) == {"collector": {"claims": {"anonymousId": "made-by-script"}}}


async def test_the_id_of_the_body_is_adopted(shopping: Edge) -> None:
    assert given_by(await shopping.post("/v1/t", EVENT, PAGE)) == "made-by-script"
    batch = [{"type": "track", "event": "A"}, {"type": "track", **EVENT}]
    batch.append({"type": "track", "event": "B", "anonymousId": 7})
    assert given_by(await shopping.post("/v1/b", {"batch": batch}, PAGE)) == "made-by-script"
    assert given_by(await shopping.get(f"{PIXEL}&aid=from-page", IMAGE)) == "from-page"
    assert given_by(await shopping.get(link(shopping, anonymous_id="a1"), IMAGE)) == "a1"
    ids = [event.anonymous_id for event in await shopping.events()]
    assert ids == ["made-by-script"] * 4 + ["from-page", "a1"]


async def test_an_id_is_made_where_there_is_none(shopping: Edge) -> None:
    answers = (
        await shopping.get(PIXEL, IMAGE),
        await shopping.get(link(shopping, user_id="u1"), IMAGE),
        await shopping.post("/v1/t", {"event": "E", "userId": "u1"}, PAGE),
        await shopping.post("/v1/t", {"event": "E", "anonymousId": ""}, PAGE),
    )
    made = [given_by(answer) for answer in answers]
    assert [UUID(found).version for found in made] == [4] * 4
    assert len(set(made)) == 4
    assert [event.anonymous_id for event in await shopping.events()] == made


async def test_with_cookie_wins_off_the_id_of_a_script_is_the_cookies(make_edge: MakeEdge) -> None:
    """So that analytics.reset() makes a new visitor."""
    edge = await make_edge([shop(cookie_wins=False)])
    with_it = {"Cookie": f"sid={OLD}"}
    batch = [{"type": "track", **EVENT}, {"type": "track", "event": "F"}]
    answer = await edge.post("/v1/b", {"batch": batch}, PAGE | with_it)
    assert given_by(answer) == "made-by-script"
    assert given_by(await edge.get(PIXEL, IMAGE | with_it)) == OLD
    ids = [event.anonymous_id for event in await edge.events()]
    assert ids == ["made-by-script", "made-by-script", OLD]


@pytest.mark.parametrize(
    "odd",
    [
        *("a" * 129, "a b", 'a"b', "a,b", "a;b", "a\\b", "ä", "undefined", "null", "NULL"),
        "00000000-0000-0000-0000-000000000000",
    ],
)
async def test_an_id_that_no_cookie_should_hold_is_neither_taken_nor_given(
    shopping: Edge, odd: str
) -> None:
    answer = await shopping.post("/v1/t", EVENT | {"anonymousId": odd}, PAGE)
    assert (answer.status, given_by(answer)) == (200, None)
    assert await visitor(shopping) == odd
    if ";" not in odd:
        answer = await shopping.get(PIXEL, IMAGE | {"Cookie": f"sid={odd}"})
        assert given_by(answer) == await visitor(shopping) != odd


async def test_each_answer_of_a_connection_has_its_own_cookie(shopping: Edge) -> None:
    requests = [
        encode("GET", PIXEL, IMAGE | {"Cookie": "sid=first"}),
        encode("POST", "/v1/t", {"Authorization": basic("demo")}, b'{"event":"E","userId":"u"}'),
        encode("GET", "/health"),
        encode("GET", PIXEL, IMAGE | {"Cookie": "sid=second"}),
    ]
    async with await Wire.open(shopping.port) as wire:
        await wire.send(b"".join(requests))
        answers = [await wire.answer() for _ in requests]
    assert [given_by(answer) for answer in answers] == ["first", None, None, "second"]


async def test_refining_again_gives_the_same_visitor(shopping: Edge) -> None:
    headers = IMAGE | {"Cookie": f"_fbp=fb.1.1.2; sid={OLD}"}
    await shopping.get(PIXEL, headers)
    await shopping.post("/v1/t", EVENT, PAGE)
    reading = await shopping.journal.read(0, 1_000_000)
    again = [
        [
            list(refine(decode_envelope(record.data), Limits(512, 1024)))
            for record in reading.records
        ]
        for _ in range(2)
    ]
    assert again[0] == again[1]


# --- Who gets none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-GPC": "1"}, False),
        ({"Sec-GPC": "0"}, True),
        ({"Origin": "http://collector.test", "Sec-Fetch-Site": "same-origin"}, True),
    ],
)
async def test_pages_of_other_sites_and_those_who_object_are_left_alone(
    make_edge: MakeEdge, headers: dict[str, str], taken: bool
) -> None:
    edge = await make_edge([shop(origins=[SHOP, "http://collector.test"])])
    sent = PAGE | {"Cookie": f"sid={OLD}"} | headers
    assert (given_by(await edge.post("/v1/t", EVENT, sent)) == OLD) == taken
    assert (await visitor(edge) == OLD) == taken


async def test_a_page_that_an_open_source_does_not_list_gets_none(make_edge: MakeEdge) -> None:
    edge = await make_edge([shop(origins=[])])
    for origin, taken in ((SHOP, False), ("http://collector.test", True), ("null", False)):
        sent = {"Origin": origin, "User-Agent": BROWSER, "Cookie": f"sid={OLD}"}
        answer = await edge.post("/v1/t", EVENT, sent)
        assert (given_by(answer) == OLD) == taken
        assert answer.header("Access-Control-Allow-Credentials") is None


async def test_a_link_in_a_mail_of_another_site_has_it(shopping: Edge) -> None:
    headers = IMAGE | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert given_by(await shopping.get(link(shopping), headers)) == await visitor(shopping)


async def test_no_id_is_made_for_machines_and_servers(shopping: Edge) -> None:
    for headers in ({}, {"User-Agent": "Googlebot/2.1"}, IMAGE | {"Purpose": "prefetch"}):
        for path in (PIXEL, link(shopping)):
            assert given_by(await shopping.get(path, headers)) is None
    answer = await shopping.post("/v1/t", {"event": "E", "userId": "u"}, {"User-Agent": BROWSER})
    assert given_by(answer) is None


async def test_a_source_says_where_it_wants_one(make_edge: MakeEdge) -> None:
    edge = await make_edge([shop(cookie_on=["redirect"])], redirect=SECRETS)
    assert given_by(await edge.get(PIXEL, IMAGE)) is None
    assert given_by(await edge.post("/v1/t", EVENT, PAGE)) is None
    assert given_by(await edge.get(link(edge), IMAGE)) is not None


async def test_without_the_setting_there_is_none(edge: Edge) -> None:
    answer = await edge.get(PIXEL, IMAGE | {"Cookie": f"sid={OLD}; =x"})
    assert answer.header("Set-Cookie") is None
    assert await visitor(edge) != OLD


async def test_the_domain_and_the_days_are_the_sources(make_edge: MakeEdge) -> None:
    edge = await make_edge([shop(cookie_domain="shop.example", cookie_days=30)])
    line = (await edge.get(PIXEL, IMAGE)).header("Set-Cookie") or ""
    assert line.endswith(
        "; Max-Age=2592000; Path=/; Domain=shop.example; Secure; HttpOnly; SameSite=Lax"
    )


def chosen(**categories: object) -> dict[str, Any]:
    return EVENT | {"context": {"consent": {"categoryPreferences": categories}}}


@pytest.mark.parametrize(
    ("event", "had", "line"),
    [
        (chosen(analytics=True), "", f"sid=made-by-script; {ATTRIBUTES}"),
        (chosen(analytics=True, ads=False), f"sid={OLD}", f"sid={OLD}; {ATTRIBUTES}"),
        (chosen(analytics=False), "", None),
        (chosen(analytics=False), f"sid={OLD}", "sid=; Max-Age=0;"),
        (chosen(ads=True), f"sid={OLD}", "sid=; Max-Age=0;"),
        (chosen(analytics="true"), f"sid={OLD}", "sid=; Max-Age=0;"),
        (EVENT, "", None),
        (EVENT, f"sid={OLD}", None),
        (EVENT | {"context": {"consent": {"categoryPreferences": 1}}}, "", None),
    ],
)
async def test_it_waits_for_consent_and_goes_with_it(
    make_edge: MakeEdge, event: dict[str, Any], had: str, line: str | None
) -> None:
    edge = await make_edge([shop(cookie_consent=["analytics"])])
    for path, body in (("/v1/t", event), ("/v1/b", {"batch": [{"type": "track", **event}]})):
        answer = await edge.post(path, body, PAGE | ({"Cookie": had} if had else {}))
        said = answer.header("Set-Cookie")
        assert said == line or (said is not None and line is not None and said.startswith(line))


def test_a_host_cookie_has_no_domain() -> None:
    sources = '[{"name":"a","write_key":"k","cookie_name":"__Host-id","cookie_domain":"a.example"}]'
    with pytest.raises(ConfigError, match="cookie_domain"):
        load(None, {"COLLECTOR_SOURCES": sources})


@given(st.one_of(st.text(), st.integers(), st.none()))
def test_an_id_never_ends_its_header_line(text: str | int | None) -> None:
    found = usable(text)
    if found is not None:
        assert re.fullmatch(r"[\x21-\x7e]{1,128}", found)
        assert not set(found) & set(' ",;\\')


# --- Ids of ad networks --------------------------------------------------------------------------

ADS = {
    "_fbp": "fb.1.1700000000000.1234567890",
    "_fbc": "fb.1.1700000000000.IwAR0abc-DEF_g",
    "_ga": "GA1.1.123456789.1700000000",
    "_ga_ABC123DEF4": "GS1.1.1700000001.5.1.1700000100.60.0.0",
    "_ga_SECOND": "GS2.1.s1746825440$o1$g0$t1746825440$j60$l0$h0",
    "_ttp": "2abcDEF.tt.1",
    "_gcl_aw": "GCL.1700000000.Cj0KCQ-abc_D",
    "_gcl_au": "1.1.123.456",
}
HEADER = "; ".join(f"{name}={value}" for name, value in ADS.items()) + "; session=secret; _gid=x"


async def test_ids_of_ad_networks_are_kept_where_destinations_look(edge: Edge) -> None:
    await edge.post("/v1/t", {"event": "E", "userId": "u"}, PAGE | {"Cookie": HEADER})
    context = read((await edge.event()).context)
    assert context["cookies"] == ADS
    found = Mail(stored(context=context), {}, restricted=False)
    assert fields.identifier(found, "fbp") == ADS["_fbp"]
    assert fields.identifier(found, "fbc") == ADS["_fbc"]
    assert fields.identifier(found, "ttp") == ADS["_ttp"]
    assert fields.identifier(found, "ga4.clientId") == "123456789.1700000000"
    assert fields.identifier(found, "ga4.sessionIds.ABC123DEF4") == "1700000001"
    assert fields.identifier(found, "ga4.sessionIds.SECOND") == "1746825440"
    assert fields.click_id(found, "gclid") == "Cj0KCQ-abc_D"


async def test_who_objects_to_sale_keeps_only_what_measures(edge: Edge) -> None:
    sent = PAGE | {"Cookie": HEADER, "Sec-GPC": "1"}
    await edge.post("/v1/t", {"event": "E", "userId": "u"}, sent)
    context = read((await edge.event()).context)
    assert set(context["cookies"]) == {"_ga", "_ga_ABC123DEF4", "_ga_SECOND"}
    assert set(context["clientIds"]) == {"ga4"}


async def test_what_the_sender_wrote_itself_stays(edge: Edge) -> None:
    own = {"clientIds": {"fbp": "mine"}, "cookies": {"_fbp": "mine"}}
    await edge.post("/v1/t", {"event": "E", "context": own}, PAGE | {"Cookie": HEADER})
    context = read((await edge.event()).context)
    assert (context["clientIds"], context["cookies"]) == (own["clientIds"], own["cookies"])


async def test_they_are_not_kept_of_servers_nor_where_nobody_wants_them(
    make_edge: MakeEdge,
) -> None:
    server = SourceSettings(name="backend", write_key="secret-1", kind="server")
    edge = await make_edge([shop(ad_cookies=False), server])
    for key in ("demo", "secret-1"):
        await edge.post("/v1/t", {"event": "E"}, PAGE | {"Cookie": HEADER}, key=key)
    for event in await edge.events():
        assert {"cookies", "clientIds"} & set(read(event.context) or ()) == set()


@given(st.lists(st.one_of(st.text(), st.sampled_from([HEADER, "_fbp=" + "x" * 600])), max_size=4))
def test_of_any_cookie_header_so_much_is_kept_at_most(headers: list[str]) -> None:
    found = ad_cookies(headers, gpc=False)
    assert set(found) <= set(ADS)
    assert all(value.isascii() and value.isprintable() for value in found.values())
    client_ids(found)


def test_many_and_long_cookies_are_cut_off() -> None:
    many = [f"_ga_{n}=GS1.1.{n}.1" for n in range(100)]
    assert len(ad_cookies(["; ".join(many)], gpc=False)) == 20
    long = [f"_ga_{n}={'x' * 500}" for n in range(10)]
    assert len(ad_cookies(long, gpc=False)) == 4
    assert ad_cookies(["_fbp=" + "x" * 513], gpc=False) == {}
