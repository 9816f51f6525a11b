"""`collector destinations test`: one event, seen by whoever runs it, and by the vendor."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from collector.event import EVENT_TYPES
from collector.store.postgres import Connection
from tests.cli.conftest import Ended, Shell
from tests.destinations.vendors import Vendor
from tests.process import free_port
from tests.store.desk import add_event


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with Vendor() as vendor:
        yield vendor


async def run(shell: Shell, *words: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "collector", "destinations", "test", *words),
        env=os.environ | {"COLLECTOR_CONFIG": str(shell.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def webhook(url: str, more: str = "") -> str:
    return (
        f'[[destinations]]\ntype = "webhook"\nname = "hook"\nurl = "{url}"\n'
        f'private_addresses = ["127.0.0.0/8"]\nheaders = {{"X-Api-Key" = "abcdefgh"}}\n'
        f'signature = "v2"\nsecret = "very-secret"\n{more}'
    )


async def test_a_sample_arrives_and_the_exchange_is_shown_without_secrets(
    shell: Shell, vendor: Vendor
) -> None:
    shell.configure(webhook(vendor.url))
    ended = await run(shell, "hook")
    assert ended.status == 0, ended.err
    (request,) = vendor.requests
    assert request.headers["X-Api-Key"] == "abcdefgh"
    assert request.json()["messageId"].startswith("test-")
    assert f"> POST {vendor.url}" in ended.out
    assert "> X-Api-Key: ***" in ended.out
    assert '"event": "Order Completed"' in ended.out
    assert "< 200" in ended.out
    assert ended.out.endswith("\ntaken\n")
    for secret in ("abcdefgh", "very-secret", request.headers["X-Signature-256"]):
        assert secret not in ended.out + ended.err


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
async def test_there_is_a_sample_of_each_type(shell: Shell, vendor: Vendor, type_: str) -> None:
    shell.configure(webhook(vendor.url))
    ended = await run(shell, "hook", "--sample", type_, "--json")
    assert ended.json["outcome"] == "taken"
    assert vendor.requests[0].json()["type"] == type_


async def test_it_needs_no_postgres_for_a_sample(shell: Shell, vendor: Vendor) -> None:
    shell.configure(webhook(vendor.url), dsn=f"postgresql://u@127.0.0.1:{free_port()}/d")
    assert (await run(shell, "hook")).status == 0
    assert (await run(shell, "hook", "--event", "m1")).status == 1


async def test_a_stored_event_is_sent_as_it_would_be(shell: Shell, vendor: Vendor) -> None:
    async def add(connection: Connection) -> None:
        await add_event(connection, 1, properties='{"plan": "gold"}')
        await add_event(connection, 2, message_id="off", integrations='{"hook": false}')

    await asyncio.to_thread(shell.sql, add)
    shell.configure(webhook(vendor.url) + '[[destinations.overrides]]\nrename = "Bought"\n')
    ended = await run(shell, "hook", "--event", "m1", "--json")
    trial = ended.json
    assert (ended.status, trial["outcome"], trial["message_id"]) == (0, "taken", "m1")
    body = vendor.requests[0].json()
    assert (body["event"], body["properties"]) == ("Bought", {"plan": "gold"})
    assert trial["exchanges"][0]["request"]["body"] == body
    withheld = await run(shell, "hook", "--event", "off")
    assert withheld.status == 1
    assert "skipped: integrations_off: the sender turned the destination off" in withheld.out
    assert len(vendor.requests) == 1
    unknown = await run(shell, "hook", "--event", "nothing")
    assert (unknown.status, unknown.out) == (2, "")
    assert "no event with the id nothing is stored" in unknown.err


async def test_nothing_is_written_down(shell: Shell, vendor: Vendor) -> None:
    async def add(connection: Connection) -> None:
        await add_event(connection, 1)

    await asyncio.to_thread(shell.sql, add)
    shell.configure(webhook(vendor.url))
    await run(shell, "hook", "--event", "m1")
    for name in ("couriers", "deliveries", "delivery_log", "dead_letters", "claims"):
        query = f"select count(*) from collector.{name}"
        assert await asyncio.to_thread(shell.sql, query) == 0


async def test_a_refusal_is_shown_with_what_the_vendor_said(shell: Shell, vendor: Vendor) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": "no email, abcdefgh"}, status=422)

    vendor.fault = refuse
    shell.configure(webhook(vendor.url))
    ended = await run(shell, "hook")
    assert ended.status == 1
    assert "< 422" in ended.out
    assert '"error": "no email, ***"' in ended.out
    assert ended.out.splitlines()[-1].startswith("failed: ")
    assert "abcdefgh" not in ended.out


async def test_a_vendor_that_is_away_is_told(shell: Shell) -> None:
    shell.configure(webhook(f"http://127.0.0.1:{free_port()}"))
    ended = await run(shell, "hook", "--json")
    assert (ended.status, ended.json["outcome"], ended.json["reason"]) == (
        1, "failed", "connect_failed"
    )  # fmt: skip


async def test_a_body_that_was_packed_is_shown_unpacked(shell: Shell, vendor: Vendor) -> None:
    shell.configure(
        f'[[destinations]]\ntype = "segment"\nname = "seg"\nendpoint = "{vendor.url}/v1/batch"\n'
        'write_key = "abcdefgh"\nprivate_addresses = ["127.0.0.0/8"]\n'
    )
    ended = await run(shell, "seg", "--json")
    body: Any = ended.json["exchanges"][0]["request"]["body"]
    assert body["batch"][0]["event"] == "Order Completed"
    assert "abcdefgh" not in json.dumps(ended.json)


async def test_an_unknown_name_is_told_which_there_are(shell: Shell) -> None:
    shell.configure(webhook("https://hook.example"))
    ended = await run(shell, "hok")
    assert (ended.status, ended.err) == (
        2, "collector: there is no destination hok in this configuration: name one of hook\n"
    )  # fmt: skip
    ended = await run(shell, "hook", "--event", "m1", "--sample", "track")
    assert ended.status == 2
