"""Redirect: a link that we signed leads where it says, and any other nowhere at all."""

import string
import time
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.link import link as command
from collector.errors import BadRequest
from collector.ingest import RedirectSettings
from collector.ingest.links import TOKEN_CHARS_MAX, Link, Links, expiry_of, target_of
from collector.ingest.redirect import PAGE
from collector.journal import JournalSettings
from tests.edge import BROWSER, Counted, Edge, MakeEdge, read
from tests.rawhttp import Answer

SECRET, OLDER = "the newest secret of all", "the one that was before it"
SIGNED = RedirectSettings(secrets=[SECRET, OLDER])
TARGET = "https://shop.example/offer?utm_source=mail&utm_campaign=Spring%20sale&gclid=g1#top"
LINK = Link(
    target=TARGET,
    source="shop",
    user_id="u1",
    anonymous_id="a1",
    properties={"campaign_id": "c1", "n": 3},
)
HUMAN = {"User-Agent": BROWSER, "Accept-Language": "de", "Referer": "https://mail.example/inbox"}
URL_SAFE = string.ascii_letters + string.digits + "-_"


def links(*secrets: str) -> Links:
    return Links(RedirectSettings(secrets=list(secrets)))


TOKEN = links(SECRET).token(LINK)


@pytest.fixture
async def signing(make_edge: MakeEdge) -> Edge:
    return await make_edge(redirect=SIGNED)


def nowhere(answer: Answer, *asked: str) -> None:
    """Check that *answer* is the page, and has nothing of what was *asked*."""
    assert (answer.status, answer.body) == (404, PAGE)
    assert answer.header("Location") is None
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert answer.header("Cache-Control") == "no-store, private, max-age=0"
    for text in asked:
        assert text not in str(answer.headers)


def led(answer: Answer) -> tuple[str | None, str | None]:
    """Where *answer* leads, and what it says became of the click."""
    assert (answer.status, answer.body) == (302, b"")
    assert answer.header("Cache-Control") == "no-store, private, max-age=0"
    assert answer.header("Referrer-Policy") == "no-referrer"
    return answer.header("Location"), answer.header("X-Collector")


# --- Links that are ours -------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/x"])
async def test_a_link_leads_to_its_target_and_its_click_is_recorded(
    signing: Edge, prefix: str
) -> None:
    counted = Counted("collector_ingest_links_total", reason="stored")
    answer = await signing.get(f"{prefix}/r/{TOKEN}", HUMAN)
    assert led(answer) == (TARGET, "stored")
    event = await signing.event()
    assert (event.type, event.event, event.source) == ("track", "Email Link Clicked", "shop")
    assert (event.user_id, event.anonymous_id) == ("u1", "a1")
    assert read(event.properties) == {"campaign_id": "c1", "n": 3, "link_url": TARGET}
    context = read(event.context)
    assert context["campaign"] == {"source": "mail", "name": "Spring sale"}
    assert context["clickIds"] == {"gclid": "g1"}
    assert (context["ip"], context["userAgent"]) == ("127.0.0.1", BROWSER)
    assert context["page"] == {"url": "https://mail.example/inbox"}
    assert "isBot" not in context
    assert event.timestamp == event.received_at
    assert counted.moved == 1


async def test_a_link_of_a_server_source_tells_of_the_persons_device(make_edge: MakeEdge) -> None:
    edge = await make_edge(redirect=SIGNED)
    token = links(SECRET).token(Link(target=TARGET, source="backend", event="Ad Clicked"))
    assert led(await edge.get(f"/r/{token}", HUMAN))[1] == "stored"
    event = await edge.event()
    assert (event.event, event.user_id, event.source) == ("Ad Clicked", None, "backend")
    assert read(event.context)["userAgent"] == BROWSER


async def test_each_click_is_an_event_of_its_own(signing: Edge) -> None:
    for _ in range(3):
        await signing.get(f"/r/{TOKEN}", HUMAN)
    assert len({event.message_id for event in await signing.events()}) == 3


async def test_what_is_added_behind_a_link_changes_nothing_but_the_click_ids(signing: Edge) -> None:
    added = "?fbclid=f1&gclid=other&utm_source=evil&url=https://evil.example&next=//evil.example"
    assert led(await signing.get(f"/r/{TOKEN}{added}", HUMAN)) == (TARGET, "stored")
    context = read((await signing.event()).context)
    assert context["clickIds"] == {"fbclid": "f1", "gclid": "g1"}
    assert context["campaign"]["source"] == "mail"


async def test_a_link_redirects_when_its_click_cannot_be_recorded(make_edge: MakeEdge) -> None:
    edge = await make_edge(journal=JournalSettings(total_bytes_max=1_000), redirect=SIGNED)
    counted = Counted("collector_ingest_links_total", reason="journal_full")
    for _ in range(3):
        word = led(await edge.get(f"/r/{TOKEN}", HUMAN))[1]
    assert (word, led(await edge.get(f"/r/{TOKEN}", HUMAN))) == (
        "journal_full",
        (TARGET, "journal_full"),
    )
    assert counted.moved >= 2


async def test_a_link_outlives_its_source(signing: Edge) -> None:
    gone = links(SECRET).token(Link(target=TARGET, source="gone"))
    assert led(await signing.get(f"/r/{gone}", HUMAN)) == (TARGET, "unknown_source")
    assert await signing.results() == []


async def test_what_postgres_could_not_keep_redirects_and_is_repaired(signing: Edge) -> None:
    odd = {"nul": "a\0b", "deep": [[[[1]]]], "big": 2**63}
    token = links(SECRET).token(Link(target=TARGET, source="shop", properties=odd))
    assert led(await signing.get(f"/r/{token}", HUMAN)) == (TARGET, "stored")
    assert read((await signing.event()).properties)["nul"] == "ab"


# --- Links that are not --------------------------------------------------------------------------


async def test_a_link_altered_in_any_character_is_no_redirect(signing: Edge) -> None:
    """Each character: another one that base64 reads as the same bytes, the neighbours, the odd."""
    for at, character in enumerate(TOKEN):
        turn = URL_SAFE.index(character)
        others = {URL_SAFE[turn - 1], URL_SAFE[(turn + 1) % 64], URL_SAFE[turn ^ 1], ".", "%"}
        for other in others - {character}:
            altered = TOKEN[:at] + other + TOKEN[at + 1 :]
            nowhere(await signing.get(f"/r/{altered}", HUMAN), altered)
    assert await signing.results() == []


def test_no_other_byte_in_any_place_is_taken() -> None:
    keys = links(SECRET, OLDER)
    assert keys.read(TOKEN) == LINK
    for at, character in enumerate(TOKEN):
        for other in map(chr, range(256)):
            if other != character:
                with pytest.raises(BadRequest, match="bad_link"):
                    keys.read(TOKEN[:at] + other + TOKEN[at + 1 :])


@given(
    st.one_of(
        st.text(max_size=200),
        st.text(URL_SAFE, max_size=300),
        st.integers(0, len(TOKEN)).map(lambda cut: TOKEN[:cut] + TOKEN[cut + 1 :]),
        st.integers(0, len(TOKEN)).map(lambda cut: TOKEN[:cut]),
        st.text(min_size=1, max_size=9).map(lambda more: TOKEN + more),
        st.text(min_size=1, max_size=9).map(lambda more: more + TOKEN),
        st.permutations(TOKEN).map("".join),
    )
)
def test_nothing_but_what_was_signed_is_read(token: str) -> None:
    if token != TOKEN:
        with pytest.raises(BadRequest) as caught:
            links(SECRET, OLDER).read(token)
        assert (caught.value.code, caught.value.status) == ("bad_link", 404)


@pytest.mark.parametrize(
    "path",
    [
        *("/r/", "/r", "/r/x", "/r/https://evil.example", "/r/?url=https://evil.example"),
        *(f"/r/{TOKEN}/", f"/r//{TOKEN}", f"/r/{TOKEN}%20", f"/r/{TOKEN}=", f"/r/{TOKEN}\x01"),
        *(f"/r/{TOKEN}/../{TOKEN}", f"/R/{TOKEN}", f"/r/{'1' * 30_000}", "/r/<script>alert(1)"),
    ],
)
async def test_other_paths_lead_nowhere(signing: Edge, path: str) -> None:
    answer = await signing.get(path, HUMAN)
    assert answer.status in {400, 404, 414}
    assert answer.header("Location") is None
    assert b"evil" not in answer.body
    assert b"script" not in answer.body
    assert await signing.events() == []


async def test_a_link_of_nobody_we_know_or_past_its_time_leads_nowhere(signing: Edge) -> None:
    stranger = links("another secret, as long").token(LINK)
    nowhere(await signing.get(f"/r/{stranger}", HUMAN))
    counted = Counted("collector_ingest_links_total", reason="expired_link")
    for expires, taken in ((int(time.time()) - 1, False), (int(time.time()) + 100, True)):
        token = links(SECRET).token(Link(target=TARGET, source="shop", expires=expires))
        answer = await signing.get(f"/r/{token}", HUMAN)
        assert (answer.status == 302) == taken
    assert counted.moved == 1
    assert len(await signing.events()) == 1


async def test_without_a_secret_there_are_no_links(edge: Edge) -> None:
    nowhere(await edge.get(f"/r/{TOKEN}", HUMAN))
    with pytest.raises(BadRequest, match="links_off"):
        edge.ingest.links.token(LINK)


async def test_an_older_secret_verifies_and_no_longer_signs(signing: Edge) -> None:
    older = links(OLDER).token(LINK)
    assert led(await signing.get(f"/r/{older}", HUMAN)) == (TARGET, "stored")
    assert links(SECRET, OLDER).token(LINK) == links(SECRET).token(LINK) != older
    with pytest.raises(BadRequest):
        links(SECRET).read(older)


@pytest.mark.parametrize(
    "target",
    [
        *("javascript:alert(1)", "data:text/html,x", "ftp://shop.example/", "//evil.example"),
        *("/relative", "", "https://", "https:evil.example", "https:///evil.example", "mailto:a@b"),
        *("https://user@shop.example/", "https://user:pw@shop.example/", "https://@shop.example"),
        *("https://shop.example\\@evil.example/", "https://shop.example/\r\nSet-Cookie: a=b"),
        *(" https://shop.example/", "https://shop.example/ ", "https://shop.example/\0"),
        *("https://shop.example/\x7f"),
        *("https://shop.example:x/", "https://[::1/", "https://shop.example/" + "a" * 2_100),
        *("\thttps://shop.example/", "https://shop.example/\u2028", "HTTPS\n://shop.example"),
    ],
)
def test_a_target_is_a_web_address_and_nothing_else(target: str) -> None:
    with pytest.raises(BadRequest) as caught:
        target_of(target)
    assert caught.value.code == "bad_target"
    with pytest.raises(BadRequest):
        links(SECRET).token(Link(target=target, source="shop"))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("http://localhost:3000/a?b=c&d=%20#e", "http://localhost:3000/a?b=c&d=%20#e"),
        ("https://müller.example/ä?q=ö", "https://xn--mller-kva.example/%C3%A4?q=%C3%B6"),
        ("https://shop.example/a b", "https://shop.example/a%20b"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/"),
    ],
)
def test_a_target_is_kept_as_it_is_or_encoded(written: str, kept: str) -> None:
    assert target_of(written) == target_of(kept) == kept


@given(st.text(max_size=60))
def test_a_target_never_ends_its_header_line(text: str) -> None:
    for target in (text, f"https://shop.example/{text}", f"https://{text}/"):
        try:
            found = target_of(target)
        except BadRequest:
            continue
        assert found.isascii()
        assert found.isprintable()
        assert " " not in found
        assert found.startswith(("http://", "https://"))


# --- Machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "reason"),
    [
        ("HEAD", HUMAN, "head"),
        ("GET", HUMAN | {"Purpose": "prefetch"}, "prefetch"),
        ("GET", HUMAN | {"Sec-Purpose": "prefetch;prerender"}, "prefetch"),
        ("GET", HUMAN | {"X-Moz": "prefetch"}, "prefetch"),
        ("GET", HUMAN | {"X-Purpose": "preview"}, "prefetch"),
        ("GET", {"Accept-Language": "de"}, "no_agent"),
        ("GET", HUMAN | {"User-Agent": " "}, "no_agent"),
        ("GET", HUMAN | {"User-Agent": "Mozilla/5.0"}, "agent"),
        ("GET", HUMAN | {"User-Agent": "Barracuda Sentinel (EE)"}, "agent"),
        ("GET", HUMAN | {"User-Agent": "Mozilla/5.0 (compatible; bingbot/2.0)"}, "agent"),
        ("GET", HUMAN | {"User-Agent": "WhatsApp/2.23.20.0"}, "agent"),
        ("GET", HUMAN | {"User-Agent": BROWSER + " Proofpoint"}, "agent"),
    ],
)
async def test_machines_are_redirected_and_flagged(
    signing: Edge, method: str, headers: dict[str, str], reason: str
) -> None:
    people = Counted("collector_ingest_links_total", reason="stored")
    machines = Counted("collector_ingest_links_total", reason="machine")
    answer = await signing.get(f"/r/{TOKEN}", headers, method=method)
    assert led(answer) == (TARGET, "machine")
    event = await signing.event()
    properties = read(event.properties)
    assert (properties["machine_click"], properties["machine_reason"]) == (True, reason)
    assert read(event.context)["isBot"] is True
    assert (people.moved, machines.moved) == (0, 1)


async def test_other_methods_are_none_of_a_link(signing: Edge) -> None:
    for method in ("POST", "PUT", "DELETE"):
        answer = await signing.get(f"/r/{TOKEN}", HUMAN, method=method)
        assert (answer.status, answer.header("Allow")) == (405, "GET, HEAD")
        assert answer.header("Location") is None
    assert await signing.results() == []


# --- Making them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"properties": {"x": "y" * TOKEN_CHARS_MAX}}, "link_too_long"),
        ({"properties": {"n": 2**70}}, "bad_properties"),
        ({"properties": {"half": "\ud800"}}, "bad_properties"),
        ({"target": "shop.example"}, "bad_target"),
    ],
)
def test_what_cannot_be_a_link_is_told(members: dict[str, Any], code: str) -> None:
    wanted = {"target": TARGET, "source": "shop"} | members
    with pytest.raises(BadRequest) as caught:
        links(SECRET).token(Link(**wanted))
    assert caught.value.code == code


def test_the_end_of_a_link_is_a_date_or_so_far_ahead() -> None:
    assert expiry_of("2026-06-01") == expiry_of("2026-06-01T02:00:00+02:00") == 1_780_272_000
    assert abs(expiry_of("30d") - time.time() - 30 * 86_400) < 5
    for odd in ("soon", "", "30", "999999999d", "0000-01-01"):
        if odd != "999999999d":
            with pytest.raises(BadRequest, match="bad_expiry"):
                expiry_of(odd)


def run(*words: str, **environ: str) -> tuple[int, str]:
    told = CliRunner().invoke(command, words, env=environ)
    return told.exit_code, told.output.strip()


async def test_the_command_makes_links_that_work(signing: Edge) -> None:
    status, url = run(
        *("--target", TARGET, "--user", "u9", "--event", "Offer Opened", "--expires", "30d"),
        *("--property", "campaign=spring", "--property", "size=L=XL", "--source", "default"),
        COLLECTOR_REDIRECT_SECRETS=f"{SECRET}\n{OLDER}",
        COLLECTOR_REDIRECT_BASE_URL="https://shop.example/x/",
    )
    assert status == 0
    base, _, token = url.partition("/r/")
    assert base == "https://shop.example/x"
    found = links(SECRET).read(token)
    assert (found.target, found.source, found.user_id) == (TARGET, "default", "u9")
    assert found.properties == {"campaign": "spring", "size": "L=XL"}
    assert led(await signing.get(f"/r/{token}", HUMAN)) == (TARGET, "unknown_source")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "javascript:x"), "https address"),
        (("--target", TARGET, "--source", "nobody"), "no source"),
        (("--target", TARGET, "--expires", "soon"), "no time"),
        (("--target", TARGET, "--user", ""), "user_id"),
        (("--target", TARGET, "--property", "x"), "NAME=VALUE"),
        ((), "--target"),
    ],
)
def test_the_command_says_what_is_wrong_and_ends_with_2(words: tuple[str, ...], said: str) -> None:
    status, told = run(*words, COLLECTOR_REDIRECT_SECRETS=SECRET)
    assert (status, said in told) == (2, True)
    assert SECRET not in told


def test_the_command_without_a_secret_says_what_to_set() -> None:
    status, told = run("--target", TARGET, COLLECTOR_REDIRECT_SECRETS="")
    assert (status, "redirect.secrets" in told) == (2, True)
