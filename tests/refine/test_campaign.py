"""Campaign: UTM parameters and click ids, where the SDK did not read them."""

import pytest

from tests.edge import FULL, Edge, read


@pytest.mark.parametrize(
    ("page", "campaign", "clicks"),
    [
        ({"url": "https://s.example/?utm_source=news&utm_medium=email&utm_campaign=spring%20sale"
                 "&utm_term=shoes+red&utm_content=top&utm_id=7&utm_source_platform=x"},
         {"source": "news", "medium": "email", "name": "spring sale", "term": "shoes red",
          "content": "top", "id": "7", "source_platform": "x"}, None),
        ({"url": "https://s.example/?gclid=a&gbraid=b&wbraid=c&fbclid=d&ttclid=e&msclkid=f"}, None,
         {"gclid": "a", "gbraid": "b", "wbraid": "c", "fbclid": "d", "ttclid": "e",
          "msclkid": "f"}),
        ({"url": "https://s.example/?UTM_Source=News&GCLID=CjKCAj_w"}, {"source": "News"},
         {"gclid": "CjKCAj_w"}),
        ({"search": "?utm_source=a"}, {"source": "a"}, None),
        ({"search": "utm_source=a&fbclid=b"}, {"source": "a"}, {"fbclid": "b"}),
        ({"url": "https://s.example/", "search": "?utm_source=a"}, {"source": "a"}, None),
        ({"url": "https://s.example/?utm_source=a#top", "search": ""}, {"source": "a"}, None),
        ({"url": "https://s.example/#/shop?utm_source=a"}, {"source": "a"}, None),
        ({"url": "https://s.example/?utm_source=a&utm_source=b"}, {"source": "a"}, None),
        ({"url": "https://s.example/?utm_source=&utm_medium=m&gclid="}, {"medium": "m"}, None),
        ({"url": "https://s.example/?utm_=x&utm=y&xutm_source=z"}, None, None),
        ({"url": "https://s.example/?utm_source=%00%ff%ED%A0%80a"},
         {"source": "\ufffd\ufffd\ufffd\ufffda"}, None),
        ({"url": "https://s.example/?utm_source=" + "x" * 1000}, {"source": "x" * 255}, None),
        ({"url": "https://s.example/?a=1;utm_source=b"}, None, None),
        ({"url": 5, "search": None}, None, None),
        ({"url": None, "search": "?utm_source=a"}, {"source": "a"}, None),
        ("text?utm_source=a", None, None),
        ([], None, None),
        (None, None, None),
    ],
)  # fmt: skip
async def test_campaign_and_click_ids_are_read_from_the_page(
    edge: Edge, page: object, campaign: object, clicks: object
) -> None:
    event = await edge.take(FULL | {"context": {"page": page}})
    context = read(event.context)
    assert context["page"] == page
    assert context.get("campaign") == campaign
    assert context.get("clickIds") == clicks


async def test_a_server_source_reads_the_page_as_well(edge: Edge) -> None:
    context = {"page": {"url": "https://s.example/?utm_source=a"}}
    answer = await edge.post("/v1/track", FULL | {"context": context}, key="secret-1")
    assert answer.status == 200
    assert read((await edge.event()).context) == context | {"campaign": {"source": "a"}}


async def test_a_campaign_that_the_sdk_read_is_left_alone(edge: Edge) -> None:
    page = {"url": "https://s.example/?utm_source=theirs&gclid=g"}
    mine = {"source": "mine"}
    context = read((await edge.take(FULL | {"context": {"page": page, "campaign": mine}})).context)
    assert context["campaign"] == mine
    assert context["clickIds"] == {"gclid": "g"}
    clicks = {"gclid": "mine"}
    context = read(
        (await edge.take(FULL | {"context": {"page": page, "clickIds": clicks}})).context
    )
    assert context["campaign"] == {"source": "theirs"}
    assert context["clickIds"] == clicks


@pytest.mark.parametrize("empty", [{}, None])
async def test_a_campaign_that_the_sdk_left_empty_is_filled(edge: Edge, empty: object) -> None:
    page = {"url": "https://s.example/?utm_source=a&gclid=g"}
    context = {"page": page, "campaign": empty, "clickIds": empty}
    found = read((await edge.take(FULL | {"context": context})).context)
    assert found["campaign"] == {"source": "a"}
    assert found["clickIds"] == {"gclid": "g"}
