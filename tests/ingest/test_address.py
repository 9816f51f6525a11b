"""Address: proxies are believed as far as they are trusted, and their retries are known."""

import pytest

from tests.edge import FULL, Edge, MakeEdge, read


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ([], ["203.0.113.7"], "127.0.0.1"),
        (["10.0.0.0/8"], ["203.0.113.7"], "127.0.0.1"),
        (["127.0.0.1"], [], "127.0.0.1"),
        (["127.0.0.1"], [""], "127.0.0.1"),
        (["127.0.0.1"], ["203.0.113.7"], "203.0.113.7"),
        (["127.0.0.0/8"], ["203.0.113.7"], "203.0.113.7"),
        (["127.0.0.1"], ["1.2.3.4, 203.0.113.7"], "203.0.113.7"),
        (["127.0.0.1"], ["1.2.3.4", "203.0.113.7"], "203.0.113.7"),
        (["127.0.0.1", "10.0.0.0/8"], ["1.2.3.4, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        (["127.0.0.1", "10.0.0.0/8"], ["10.9.9.9, 10.1.2.3"], "127.0.0.1"),
        (["127.0.0.1"], ["203.0.113.7:54321"], "203.0.113.7"),
        (["127.0.0.1"], ["2001:db8::1"], "2001:db8::1"),
        (["127.0.0.1"], ["[2001:db8::1]:443"], "2001:db8::1"),
        (["127.0.0.1"], ["::ffff:203.0.113.7"], "203.0.113.7"),
        (["127.0.0.1"], ['"203.0.113.7"'], "203.0.113.7"),
        (["127.0.0.1"], ["fe80::1%eth0"], "fe80::1"),
        (["127.0.0.1"], ["fe80::1%\udcff"], "fe80::1"),
        (["127.0.0.1"], ["203.0.113.7, unknown"], "127.0.0.1"),
        (["127.0.0.1"], ["<script>"], "127.0.0.1"),
        (["127.0.0.1"], ["203.0.113.7" + ", 127.0.0.1" * 500], "203.0.113.7"),
    ],
)
async def test_the_address_is_the_one_that_the_last_stranger_had(
    make_edge: MakeEdge, trusted: list[str], forwarded: list[str], address: str
) -> None:
    edge = await make_edge(trusted_proxies=trusted)
    headers = [("X-Forwarded-For", value) for value in forwarded]
    assert (await edge.post("/v1/track", FULL, headers)).status == 200
    assert read((await edge.event()).context)["ip"] == address


async def test_a_retry_of_a_proxy_is_the_same_event(make_edge: MakeEdge) -> None:
    edge = await make_edge(trusted_proxies=["127.0.0.1"])
    batch = {"batch": [{"type": "track", "event": "A"}, {"type": "track", "event": "B"}]}
    for _ in range(2):
        await edge.post("/v1/batch", batch, {"X-Request-ID": "req-1"})
        await edge.get("/px.gif?wk=demo&e=E", {"X-Request-ID": "req-1"})
    a, b, pixel, a2, b2, pixel2 = await edge.events()
    assert len({a.message_id, b.message_id, pixel.message_id}) == 3
    assert (a.message_id, b.message_id, pixel.message_id) == (
        a2.message_id,
        b2.message_id,
        pixel2.message_id,
    )
    assert a.anonymous_id == a2.anonymous_id
    # Another request, another source and another path are other events.
    await edge.post("/v1/batch", batch, {"X-Request-ID": "req-2"})
    await edge.post("/v1/batch", batch, {"X-Request-ID": "req-1"}, key="secret-1")
    await edge.post("/v1/track", {"event": "A"}, {"X-Request-ID": "req-1"})
    others = {event.message_id for event in await edge.events()}
    assert len(others) == 5
    assert not others & {a.message_id, b.message_id, pixel.message_id}


async def test_a_request_id_counts_only_from_a_trusted_proxy(edge: Edge) -> None:
    for _ in range(2):
        await edge.post("/v1/track", {"event": "E"}, {"X-Request-ID": "req-1"})
    one, two = await edge.events()
    assert one.message_id != two.message_id


@pytest.mark.parametrize("request_id", ["", "x" * 10_000, "\udcff"])
async def test_a_request_id_may_be_anything(make_edge: MakeEdge, request_id: str) -> None:
    edge = await make_edge(trusted_proxies=["127.0.0.1"])
    await edge.post("/v1/track", {"event": "E"}, {"X-Request-ID": request_id})
    assert len((await edge.event()).message_id) < 60
