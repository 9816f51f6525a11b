"""Pixel: whatever is asked for, an image comes back; what can be read is on disk."""

import asyncio
import base64
import json
import urllib.parse
from typing import Any

import pytest

from collector.event import Rejection
from collector.ingest import SourceSettings
from tests.edge import Counted, Edge, MakeEdge, read, refusal
from tests.rawhttp import Answer, Wire, encode
from tests.recordings import DIRECTORY, KEY

VECTORS = json.loads((DIRECTORY / "pixel-hand-made" / "vectors.json").read_text())
PIXELS = "collector_ingest_pixels_total"
REFUSED = "collector_ingest_refused_requests_total"
AGENT = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
WORDS = {
    *("stored", "not_recorded", "url_too_large", "missing_data", "bad_base64", "empty_body"),
    *("bad_json", "not_an_object", "too_deep", "number_out_of_range", "event_too_large"),
    *("wrong_type", "missing_event", "missing_type", "unknown_type", "missing_group_id"),
    *("missing_user_id", "missing_previous_id", "id_too_long", "name_too_long"),
    *("missing_write_key", "unknown_write_key", "origin_not_allowed", "journal_full"),
    *("bad_http", "header_too_large", "header_timeout"),
}


def image(answer: Answer) -> str:
    """Check that *answer* is the image, and return what it says became of the event."""
    assert answer.status == 200
    assert answer.header("Content-Type") == "image/gif"
    assert len(answer.body) <= 43
    assert answer.body.startswith(b"GIF89a\x01\x00\x01\x00")
    assert answer.body.endswith(b";")
    assert "no-store" in (answer.header("Cache-Control") or "")
    assert answer.header("Pragma") == "no-cache"
    assert (answer.header("Expires") or "").endswith("1970 00:00:00 GMT")
    assert answer.header("ETag") is answer.header("Last-Modified") is None
    word = answer.header("X-Collector")
    assert word in WORDS
    return word


def data_of(event: object, *, strip: bool = True) -> str:
    text = event if isinstance(event, bytes) else json.dumps(event).encode()
    encoded = base64.urlsafe_b64encode(text).decode()
    return encoded.rstrip("=") if strip else encoded


# --- base64 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
async def test_every_vector_is_read(make_edge: MakeEdge, vector: dict[str, Any]) -> None:
    edge = await make_edge([SourceSettings(name="mail", write_key=KEY)])
    word = image(await edge.get(vector["path"]))
    if vector.get("decoded", ...) is None:
        assert word in {"bad_base64", "missing_data"}
        (rejection,) = await edge.rejections()
        assert rejection.code == word
        return
    assert word == "stored"
    event = await edge.event()
    expected = VECTORS["decoded"]
    assert (event.type, event.source, event.message_id) == ("track", "mail", "msg-px-1")
    assert (event.event, event.user_id) == (expected["event"], expected["userId"])
    properties = expected["properties"]
    if vector["name"].startswith("plain"):
        properties = {name: str(value) for name, value in properties.items()}
    assert read(event.properties) == properties


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("how", ["urlsafe", "standard", "percent", "space", "line ends"])
async def test_base64_is_read_as_it_is_found_in_the_wild(
    edge: Edge, how: str, padded: bool
) -> None:
    name = "Opened ?>~ ÿÿÿ>>>"  # gives both + and / in the standard alphabet
    text = json.dumps({"userId": "u", "event": name, "writeKey": "demo"}, ensure_ascii=False)
    data = base64.b64encode(text.encode() + b" " * (1 if padded else 3)).decode()
    assert {"+", "/"} <= set(data)
    if not padded:
        data = data.rstrip("=")
    if how == "urlsafe":
        data = data.replace("+", "-").replace("/", "_")
    elif how == "percent":
        data = urllib.parse.quote(data, safe="")
    elif how == "space":
        data = data.replace("+", "%20")
    elif how == "line ends":
        data += "%0D%0A"
    assert image(await edge.get(f"/v1/pixel/track?data={data}")) == "stored"
    assert (await edge.event()).event == name


@pytest.mark.parametrize("call", ["track", "page", "screen", "identify", "group", "alias"])
async def test_the_type_comes_from_the_path(edge: Edge, call: str) -> None:
    sent = {
        "type": "other",
        "event": "E",
        "userId": "u",
        "groupId": "g",
        "previousId": "p",
        "writeKey": "demo",
    }
    assert image(await edge.get(f"/v1/pixel/{call}?data={data_of(sent)}")) == "stored"
    event = await edge.event()
    assert event.type == call
    assert (event.user_id, event.group_id, event.previous_id) == ("u", "g", "p")


async def test_other_parameters_beside_the_data_break_caches_and_nothing_else(edge: Edge) -> None:
    data = data_of({"userId": "u", "event": "E", "writeKey": "demo"})
    for query in (f"data={data}&t=1700000000&_=x", f"cb=1&data={data}", f"data={data}&"):
        assert image(await edge.get(f"/v1/pixel/track?{query}")) == "stored"
    assert len(await edge.events()) == 3


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("", "missing_data"),
        ("?", "missing_data"),
        ("?1700000000", "missing_data"),
        ("?data=", "empty_body"),
        ("?data=%21%21%21", "bad_base64"),
        ("?data=abcde", "bad_base64"),
        ("?data=%FF%FE", "bad_base64"),
        ("?data=ZZ=Z", "bad_base64"),
        ("?data=" + data_of(b"{"), "bad_json"),
        ("?data=" + data_of(b"hello"), "bad_json"),
        ("?data=" + data_of(b"\xff\xfe\xfd"), "bad_json"),
        ("?data=" + data_of([1]), "not_an_object"),
        ("?data=" + data_of(None), "not_an_object"),
        ("?data=" + data_of("text"), "not_an_object"),
        ("?data=" + data_of(b"[" * 5000), "too_deep"),
        ("?data=" + data_of(b'{"properties":{"a":1e999}}'), "number_out_of_range"),
        ("?data=" + data_of({"event": "E", "writeKey": "other"}), "unknown_write_key"),
        ("?data=" + data_of({"event": "E", "writeKey": 5}), "missing_write_key"),
        ("?data=" + data_of({"event": "E"}), "missing_write_key"),
        ("?data=" + data_of({"writeKey": "demo"}), "missing_event"),
        ("?data=" + data_of({"event": "E", "userId": {}, "writeKey": "demo"}), "wrong_type"),
        (
            "?data=" + data_of({"event": "E", "userId": "u" * 600, "writeKey": "demo"}),
            "id_too_long",
        ),
        ("?event=E", "missing_write_key"),
        ("?writeKey=other&event=E", "unknown_write_key"),
        ("?writeKey=demo", "missing_event"),
        ("?writeKey=demo&event=" + "e" * 2000, "name_too_long"),
    ],
)
async def test_what_is_wrong_is_named_beside_the_image(edge: Edge, query: str, word: str) -> None:
    pixels, refused = Counted(PIXELS, reason=word), Counted(REFUSED, reason=word)
    assert image(await edge.get(f"/v1/pixel/track{query}")) == word
    assert pixels.moved == refused.moved == 1
    (rejection,) = await edge.results()
    assert isinstance(rejection, Rejection)
    assert (rejection.code, rejection.accepted) == (word, False)
    assert rejection.detail
    if len(query) > len("?data="):
        assert rejection.data


async def test_the_event_that_was_turned_down_can_be_read_by_a_person(edge: Edge) -> None:
    sent = {"userId": "u", "properties": {"a": 1}, "writeKey": "demo"}
    image(await edge.get(f"/v1/pixel/track?data={data_of(sent)}"))
    (rejection,) = await edge.rejections()
    assert read(rejection.data) == sent | {"writeKey": "***"}


# --- plain parameters ----------------------------------------------------------------------------


async def test_every_short_parameter_has_its_place(edge: Edge) -> None:
    query = (
        "wk=demo&t=page&e=E&n=Name&cat=Cat&uid=u&aid=a&gid=g&pid=p&mid=m&ts=2026-01-02T03:04:05Z"
        "&p.x=1&tr.y=2&c.z=3"
    )
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    event = await edge.event()
    assert (event.type, event.event, event.name, event.category) == ("page", "E", "Name", "Cat")
    assert (event.user_id, event.anonymous_id, event.group_id) == ("u", "a", "g")
    assert (event.previous_id, event.message_id) == ("p", "m")
    assert event.timestamp == event.original_timestamp == 1767323045_000_000
    assert read(event.properties) == {"x": "1"}
    assert read(event.traits) == {"y": "2"}
    assert read(event.context)["z"] == "3"
    assert event.extra is None


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("e=Opened", "track"),
        ("n=Newsletter", "page"),
        ("", "page"),
        ("t=identify&uid=u", "identify"),
        ("type=screen", "screen"),
    ],
)
async def test_the_short_form_says_or_implies_its_type(edge: Edge, query: str, kind: str) -> None:
    assert image(await edge.get(f"/px.gif?wk=demo&{query}")) == "stored"
    assert (await edge.event()).type == kind


async def test_a_type_that_does_not_exist_is_no_event(edge: Edge) -> None:
    assert image(await edge.get("/px.gif?wk=demo&t=nothing&e=E")) == "unknown_type"


async def test_long_names_are_read_in_the_short_form_too(edge: Edge) -> None:
    query = (
        "writeKey=demo&event=E&userId=u&properties.a=1&traits.b=2&context.c=3&integrations.All=x"
    )
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    event = await edge.event()
    assert (event.event, event.user_id) == ("E", "u")
    assert read(event.properties) == {"a": "1"}
    assert read(event.integrations) == {"All": "x"}


async def test_short_names_mean_nothing_in_the_long_form(edge: Edge) -> None:
    query = "writeKey=demo&event=E&e=F&uid=v&p.a=1"
    assert image(await edge.get(f"/v1/pixel/track?{query}")) == "stored"
    event = await edge.event()
    assert (event.event, event.user_id, event.properties) == ("E", None, None)


async def test_dotted_names_make_nested_objects(edge: Edge) -> None:
    query = "wk=demo&e=E&p.a.b.c=1&p.a.b.d=2&p.a.e=%C3%A5+%2B&p.list.0=x&p.flat=f&p.a.b.c=late"
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    assert read((await edge.event()).properties) == {
        "a": {"b": {"c": "1", "d": "2"}, "e": "å +"},
        "list": {"0": "x"},
        "flat": "f",
    }


@pytest.mark.parametrize(
    "names", ["p.a=1&p.a.b=2", "p.a.b=2&p.a=1", "p.a.b.c=1&p.a.b=2&p.a.b.c.d=3", "p.=1&p..a=2"]
)
async def test_names_that_contradict_each_other_do_no_harm(edge: Edge, names: str) -> None:
    assert image(await edge.get(f"/px.gif?wk=demo&e=E&{names}")) == "stored"
    assert isinstance(read((await edge.event()).properties), dict)


async def test_nesting_and_number_of_parameters_are_bounded(edge: Edge) -> None:
    deep = "p." + ".".join("a" * 1000) + "=1"
    many = "&".join(f"p.k{n}={n}" for n in range(2000))
    assert image(await edge.get(f"/px.gif?wk=demo&e=E&{deep}")) == "stored"
    assert image(await edge.get(f"/px.gif?wk=demo&e=E&{many}")) == "stored"
    first, second = await edge.events()
    depth, place = 0, read(first.properties)
    while isinstance(place, dict):
        depth, place = depth + 1, next(iter(place.values()))
    assert depth <= 10
    assert 100 < len(read(second.properties)) <= 500


async def test_utm_parameters_are_the_campaign(edge: Edge) -> None:
    query = (
        "wk=demo&e=E&utm_source=news&utm_medium=email&utm_campaign=spring%20sale&utm_term=t"
        "&utm_content=c&utm_id=9"
    )
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    assert read((await edge.event()).context)["campaign"] == {
        "source": "news",
        "medium": "email",
        "name": "spring sale",
        "term": "t",
        "content": "c",
        "id": "9",
    }


async def test_a_campaign_that_was_given_wins_over_utm_parameters(edge: Edge) -> None:
    query = "wk=demo&e=E&c.campaign.name=mine&utm_campaign=theirs"
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    assert read((await edge.event()).context)["campaign"] == {"name": "mine"}


@pytest.mark.parametrize(
    ("ts", "seconds"),
    [
        ("1767323045", 1767323045),
        ("1767323045000", 1767323045),
        ("1767323045000.0", 1767323045),
        ("2026-01-02T03:04:05", 1767323045),
        ("20260102T030405Z", 1767323045),
        ("2026-01-02", 1767312000),
        ("20260102", 1767312000),
        # In these a careless reader finds days of the years 1664, 1647 and 1763.
        ("1664101230354", 1664101230.354),
        ("1647123121431", 1647123121.431),
        ("1763101512030.0", 1763101512.030),
    ],
)
async def test_a_time_may_be_seconds_milliseconds_or_iso(
    edge: Edge, ts: str, seconds: float
) -> None:
    assert image(await edge.get(f"/px.gif?wk=demo&e=E&ts={ts}")) == "stored"
    assert (await edge.event()).timestamp == round(seconds * 1000) * 1000


# --- the request ---------------------------------------------------------------------------------


async def test_agent_address_and_page_are_those_of_the_request(edge: Edge) -> None:
    referrer = "https://mail.example/inbox?utm_source=webmail"
    headers = {"User-Agent": AGENT, "Referer": referrer}
    assert image(await edge.get("/px.gif?wk=demo&e=E", headers)) == "stored"
    assert read((await edge.event()).context) == {
        "ip": "127.0.0.1",
        "userAgent": AGENT,
        "page": {"url": referrer, "referrer": referrer},
        "campaign": {"source": "webmail"},
    }


async def test_a_server_source_takes_nothing_from_the_request(edge: Edge) -> None:
    headers = {"User-Agent": AGENT, "Referer": "https://mail.example/"}
    assert image(await edge.get("/px.gif?wk=secret-1&e=E", headers)) == "stored"
    assert (await edge.event()).context is None


async def test_what_the_address_leaves_out_is_filled_in(edge: Edge) -> None:
    for _ in range(2):
        assert image(await edge.get("/px.gif?wk=demo&e=E")) == "stored"
    one, two = await edge.events()
    assert one.message_id
    assert one.anonymous_id
    assert one.user_id is None
    assert one.message_id != two.message_id
    assert one.anonymous_id != two.anonymous_id
    assert one.timestamp == one.received_at


async def test_a_question_whether_the_image_exists_records_nothing(edge: Edge) -> None:
    for path in ("/px.gif?wk=demo&e=E", "/v1/pixel/track?data=x", "/v1/pixel/page"):
        answer = await edge.get(path, method="HEAD")
        assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
        assert answer.header("X-Collector") == "not_recorded"
        assert 0 < int(answer.header("Content-Length") or 0) <= 43
        assert "no-store" in (answer.header("Cache-Control") or "")
    assert await edge.results() == []


@pytest.mark.parametrize("path", ["/px.gif?wk=demo&e=E", "/v1/pixel/track?data=x"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_only_get_is_a_pixel(edge: Edge, path: str, method: str) -> None:
    answer = await edge.send(encode(method, path, {}, b"{}"))
    assert answer.status == 405
    assert answer.json()["code"] == "wrong_method"
    assert answer.header("Allow") == "GET, HEAD"
    assert await edge.results() == []


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("prefix", ["", "/in", "/x"])
async def test_prefixes_and_last_slashes_are_the_same_place(
    make_edge: MakeEdge, prefix: str, slash: str
) -> None:
    edge = await make_edge(path_prefix="/in")
    assert image(await edge.get(f"{prefix}/px.gif{slash}?wk=demo&e=E")) == "stored"
    query = "writeKey=demo&event=E"
    assert image(await edge.get(f"{prefix}/v1/pixel/track{slash}?{query}")) == "stored"
    assert len(await edge.events()) == 2


async def test_an_address_that_is_too_long_is_an_image_and_counted(edge: Edge) -> None:
    pixels = Counted(PIXELS, reason="url_too_large")
    for path in ("/px.gif?wk=demo&e=E&p.a=", "/v1/pixel/track?data="):
        assert image(await edge.get(path + "a" * 40_000)) == "url_too_large"
    assert pixels.moved == 2
    one, two = await edge.rejections()
    assert one.code == two.code == "url_too_large"
    assert not one.accepted


async def test_an_address_of_thirty_kilobytes_is_taken(edge: Edge) -> None:
    assert image(await edge.get("/px.gif?wk=demo&e=E&p.a=" + "a" * 30_000)) == "stored"
    assert read((await edge.event()).properties) == {"a": "a" * 30_000}


async def test_nul_and_control_characters_do_not_reach_the_event(edge: Edge) -> None:
    query = "wk=demo&e=a%00b%01c%1F&uid=u%00&p.a%00b=c%00d&p.x=%ED%A0%80&utm_source=s%00t"
    assert image(await edge.get(f"/px.gif?{query}")) == "stored"
    event = await edge.event()
    assert (event.event, event.user_id) == ("ab\x01c\x1f", "u")
    assert read(event.properties)["ab"] == "cd"
    assert read(event.context)["campaign"] == {"source": "st"}
    assert b"\\u0000" not in b"".join(filter(None, [event.properties, event.context]))
    sent = b'{"event":"a\\u0000b\x01","writeKey":"demo","properties":{"\\ud800":NaN}}'
    assert image(await edge.get(f"/v1/pixel/track?data={data_of(sent)}")) == "stored"
    event = await edge.event()
    assert event.event == "ab\x01"
    assert read(event.properties) == {"\ufffd": None}


async def test_refusals_leave_so_many_rows_a_minute_and_all_are_counted(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge(refusals_kept_per_minute=3)
    counted = Counted(PIXELS, reason="unknown_write_key")
    async with await Wire.open(edge.port) as wire:
        for _ in range(10):
            await wire.send(encode("GET", "/px.gif?wk=other&e=E"))
            assert image(await wire.answer()) == "unknown_write_key"
    assert counted.moved == 10
    assert len(await edge.rejections()) == 3


async def test_a_page_that_may_not_use_the_source_gets_its_image(make_edge: MakeEdge) -> None:
    closed = SourceSettings(name="shop", write_key="demo", origins=["https://shop.example"])
    edge = await make_edge([closed])
    query = "/px.gif?wk=demo&e=E"
    assert image(await edge.get(query, {"Origin": "https://evil.example"})) == "origin_not_allowed"
    assert image(await edge.get(query, {"Origin": "https://shop.example"})) == "stored"
    assert image(await edge.get(query)) == "stored"


async def test_a_full_journal_still_shows_the_image(make_edge: MakeEdge) -> None:
    from collector.journal import JournalSettings

    edge = await make_edge(journal=JournalSettings(total_bytes_max=1000))
    counted = Counted(PIXELS, reason="journal_full")
    words = {image(await edge.get(f"/px.gif?wk=demo&e={'E' * 500}")) for _ in range(5)}
    assert "journal_full" in words
    assert counted.moved >= 1


async def test_the_key_may_stand_beside_the_data(make_edge: MakeEdge) -> None:
    other = SourceSettings(name="other", write_key="k2")
    edge = await make_edge([SourceSettings(name="shop", write_key="demo"), other])
    data = data_of({"event": "E", "userId": "u"})
    assert image(await edge.get(f"/v1/pixel/track?data={data}&writeKey=k2")) == "stored"
    assert (await edge.event()).source == "other"
    data = data_of({"event": "E", "userId": "u", "writeKey": "demo"})
    assert image(await edge.get(f"/v1/pixel/track?writeKey=k2&data={data}")) == "stored"
    assert (await edge.event()).source == "other"
    assert image(await edge.get("/px.gif?wk=demo&e=E", {"X-Write-Key": "k2"})) == "stored"
    assert (await edge.event()).source == "other"


def spoilt(line: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", *lines, b"", b""])


HOST = b"Host: c"
UNREADABLE = {
    "UTF-8": (spoilt("GET /px.gif?wk=demo&e=Größe".encode(), HOST), "bad_http"),
    "Latin-1": (spoilt(b"GET /v1/pixel/track?data=\xe9", HOST), "bad_http"),
    "a space": (spoilt(b"GET /px.gif?wk=demo&e=Mail Opened", HOST), "bad_http"),
    "NUL": (spoilt(b"GET /v1/pixel/page/?a=\0", HOST), "bad_http"),
    "no host": (spoilt(b"GET /px.gif?wk=demo&e=E"), "bad_http"),
    "a bad header": (spoilt(b"GET /px.gif?wk=demo&e=E", HOST, b"Bad Name: 1"), "bad_http"),
    "200 headers": (spoilt(b"GET /px.gif", HOST, *[b"X: 1"] * 200), "bad_http"),
    "a long header": (spoilt(b"GET /px.gif", HOST, b"X: " + b"a" * 20_000), "header_too_large"),
    "a long address": (spoilt(b"GET /px.gif?e=" + b"a" * 200_000, HOST), "header_too_large"),
    "a prefix": (spoilt(b"GET /in/v1/pixel/group?\xff", HOST), "bad_http"),
    "the neutral prefix": (spoilt(b"GET /x/px.gif/?\xff", HOST), "bad_http"),
    "a whole address": (spoilt(b"GET http://c.test/px.gif?\xff", HOST), "bad_http"),
    "empty lines in front": (b"\r\n" + spoilt(b"GET /px.gif?\xff", HOST), "bad_http"),
    "another HTTP": (b"GET /px.gif?wk=demo HTTP/3.7\r\n\r\n", "bad_http"),
}


@pytest.mark.parametrize("pieces", [1, 3, 20])
@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_request_that_cannot_be_read_is_an_image_if_it_asks_for_one(
    make_edge: MakeEdge, name: str, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    edge = await make_edge(path_prefix="/in")
    data, code = UNREADABLE[name]
    pixels, refused = Counted(PIXELS, reason=code), Counted(REFUSED, reason=code)
    size = -(-len(data) // pieces)
    for head in (False, True):
        sent = data.replace(b"GET", b"HEAD") if head else data
        async with await Wire.open(edge.port) as wire:
            for at in range(0, len(sent), size):
                await wire.send(sent[at : at + size])
                await asyncio.sleep(0.001)
            answer = await wire.answer(head=head, seconds=5)
            assert await wire.closed(5) == b""
        if head:
            assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
            assert answer.header("X-Collector") == code
        else:
            assert image(answer) == code
        assert answer.header("Connection") == "close"
    assert (pixels.moved, refused.moved) == (2, 2)
    assert caplog.records == []
    assert await edge.results() == []


@pytest.mark.parametrize(
    "data",
    [
        spoilt(b"POST /px.gif?\xff", HOST),
        spoilt(b"GET /px.gift?\xff", HOST),
        spoilt(b"GET /px\xff.gif?wk=demo", HOST),
        spoilt(b"GET /v1/pixel/nothing?\xff", HOST),
        spoilt(b"GET /?/px.gif\xff", HOST),
        spoilt(b"GET /v1/track?\xff", HOST, b"Referer: http://c/px.gif"),
        b"\xffGET /px.gif HTTP/1.1\r\nHost: c\r\n\r\n",
        # of many in one piece, the answer is that to the first: here it brings an event
        encode("POST", "/v1/track", {}, b"{}") + spoilt(b"GET /px.gif?\xff", HOST),
    ],
)
async def test_what_asks_for_no_image_is_told_in_json_what_is_wrong(
    edge: Edge, data: bytes
) -> None:
    assert refusal(await edge.send(data)) == (400, "bad_http")


async def test_an_image_behind_another_request_is_an_image(edge: Edge) -> None:
    async with await Wire.open(edge.port) as wire:
        for _ in range(2):
            await wire.send(encode("GET", "/px.gif?wk=demo&e=E"))
            assert image(await wire.answer()) == "stored"
        await wire.send(UNREADABLE["UTF-8"][0])
        assert image(await wire.answer()) == "bad_http"


async def test_an_image_that_is_asked_for_too_slowly_is_one(make_edge: MakeEdge) -> None:
    edge = await make_edge(header_seconds=0.2)
    async with await Wire.open(edge.port) as wire:
        await wire.send(b"GET /px.gif?wk=demo HTTP/1.1\r\nHost: c\r\n")
        assert image(await wire.answer(seconds=5)) == "header_timeout"
