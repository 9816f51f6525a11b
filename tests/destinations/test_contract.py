"""What every destination promises, asked of each of them against a vendor of its own."""

import contextlib
import logging
import socket
import traceback
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations.base import TAKEN, Mail, Parcel, Refused, Skipped
from collector.errors import (
    Ambiguous,
    CollectorError,
    Denied,
    TooLarge,
    Unacceptable,
    Unreachable,
)
from collector.store.stored import NOTHING, StoredEvent
from tests.destinations import vendors
from tests.destinations.contract import CASES, Case, Rig, outbound
from tests.destinations.contract import rig as make_rig
from tests.destinations.events import odd_events
from tests.process import free_port


@pytest.fixture(params=CASES, ids=lambda case: case.name)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with make_rig(request.param) as made:
        yield made


# --- mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@given(event=odd_events, restricted=st.booleans())
def test_mapping_is_pure_and_never_raises(case: Case, event: StoredEvent, restricted: bool) -> None:
    settings = case.settings("https://vendor.test")
    destination = settings.build(outbound(settings))
    mail = Mail(event, case.person or NOTHING, restricted)
    first = destination.map(mail)
    assert destination.map(mail) == first
    assert settings.build(outbound(settings)).map(mail) == first  # nothing but the event decides
    assert isinstance(first, Parcel | Skipped | Refused)
    if isinstance(first, Parcel):
        assert first.key
        assert 0 < first.size <= settings.batch_bytes_max


async def test_the_key_of_an_event_is_the_same_each_time_and_its_own(rig: Rig) -> None:
    keys = [parcel.key for parcel in rig.parcels()]
    assert keys == [parcel.key for parcel in rig.parcels()]
    assert len(set(keys)) == len(keys)


# --- sending --------------------------------------------------------------------------------------


async def test_each_parcel_has_its_outcome_in_order(rig: Rig) -> None:
    parcels = rig.parcels()
    assert await rig.send(parcels) == [TAKEN] * len(parcels)
    assert rig.vendor.requests


async def test_the_size_of_a_parcel_is_what_goes_over_the_wire(rig: Rig) -> None:
    for batch in rig.batches(rig.parcels()):
        rig.vendor.requests.clear()
        await rig.destination.send(batch)
        sizes = sum(parcel.size for parcel in batch)
        wire = sum(request.wire_bytes for request in rig.vendor.requests)
        assert wire <= sizes + rig.case.envelope_bytes
        assert sizes <= wire + 2 * len(batch)


async def test_a_parcel_is_sent_the_same_way_in_another_batch(rig: Rig) -> None:
    parcels = rig.parcels()
    await rig.send(parcels)
    together = b"".join(request.body for request in rig.vendor.requests)
    rig.vendor.requests.clear()
    for parcel in parcels:
        await rig.destination.send([parcel])
    alone = b"".join(request.body for request in rig.vendor.requests)
    for event in rig.case.events:
        name = event.message_id.encode()
        assert together.count(name) == alone.count(name)


async def test_a_batch_as_large_as_the_settings_allow_is_taken(rig: Rig) -> None:
    settings = rig.destination.settings
    parcel = rig.parcels()[0]
    most = min(settings.batch_events_max, settings.batch_bytes_max // parcel.size)
    assert await rig.destination.send([parcel] * most) == [TAKEN] * most


# --- what a vendor answers ------------------------------------------------------------------------


@pytest.mark.parametrize("code", [408, 423, 429, 503])
async def test_not_now_is_waited_for_as_long_as_the_vendor_says(rig: Rig, code: int) -> None:
    rig.vendor.fault = vendors.status(code, Retry_After="17")
    with pytest.raises(Unreachable) as raised:
        await rig.send_first()
    assert raised.value.seconds == 17


@pytest.mark.parametrize("code", [401, 403])
async def test_refused_credentials_are_nobodys_events_fault(rig: Rig, code: int) -> None:
    rig.vendor.fault = vendors.status(code, "no such key")
    with pytest.raises(Denied, match="no such key"):
        await rig.send_first()


async def test_too_large_is_not_refused_for_good(rig: Rig) -> None:
    rig.vendor.fault = vendors.status(413)
    with pytest.raises(TooLarge):
        await rig.send_first()


@pytest.mark.parametrize("code", [404, 405, 410, 501])
async def test_what_will_not_change_is_refused(rig: Rig, code: int) -> None:
    rig.vendor.fault = vendors.status(code)
    with pytest.raises(Unacceptable):
        await rig.send_first()


@pytest.mark.parametrize("code", [500, 502, 504])
async def test_a_server_that_failed_may_have_kept_the_batch(rig: Rig, code: int) -> None:
    rig.vendor.fault = vendors.status(code)
    with pytest.raises(Ambiguous):
        await rig.send_first()


async def test_redirects_are_not_followed(rig: Rig) -> None:
    async with vendors.Vendor() as other:
        rig.vendor.fault = vendors.redirect(f"{other.url}/elsewhere")
        with pytest.raises(Unacceptable, match="redirect"):
            await rig.send_first()
        assert not other.requests


async def test_a_vendor_recovers(rig: Rig) -> None:
    rig.vendor.fault = vendors.status(503)
    with pytest.raises(Unreachable):
        await rig.send_first()
    rig.vendor.fault = None
    assert set(await rig.send_first()) == {TAKEN}


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [vendors.disconnect, vendors.reset, vendors.cut, vendors.babble],
    ids=lambda f: f.__name__,
)
async def test_an_answer_that_does_not_arrive_leaves_doubt(rig: Rig, fault: vendors.Fault) -> None:
    rig.vendor.fault = fault
    with pytest.raises(Ambiguous):
        await rig.send_first()
    assert len(rig.vendor.requests) == 1  # nobody but the courier sends it again


@pytest.mark.parametrize("fault", [vendors.hang, vendors.hang_in_body], ids=lambda f: f.__name__)
async def test_an_answer_that_takes_too_long_leaves_doubt(rig: Rig, fault: vendors.Fault) -> None:
    rig.vendor.fault = fault
    with pytest.raises(Ambiguous) as raised:
        await rig.send_first()
    assert raised.value.code == "timeout"


async def test_where_nobody_listens_nothing_arrived(rig: Rig) -> None:
    settings = rig.case.settings(f"http://127.0.0.1:{free_port()}")
    http = outbound(settings)
    destination = settings.build(http)
    await destination.open()
    with pytest.raises(Unreachable) as raised:
        await destination.send(rig.parcels()[:1])
    assert raised.value.code == "connect_failed"
    await destination.close()
    await http.close()


async def test_where_nobody_takes_the_connection_nothing_arrived(rig: Rig) -> None:
    with socket.socket() as full:  # its queue holds one connection, and that is taken
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            settings = rig.case.settings(f"http://127.0.0.1:{port}")
            http = outbound(settings)
            destination = settings.build(http)
            await destination.open()
            with pytest.raises(Unreachable) as raised:
                await destination.send(rig.parcels()[:1])
            await destination.close()
            await http.close()
    assert raised.value.code == "connect_timeout"


async def test_an_endless_answer_is_read_to_a_bound(rig: Rig) -> None:
    rig.vendor.fault = vendors.talk
    seen = []
    rig.http.watch = seen.append
    with contextlib.suppress(CollectorError):  # a vendor that says more in its body may miss it
        await rig.send_first()
    assert len(seen[0].answer.body) == 65_536


async def test_an_answer_that_unpacks_without_end_is_read_to_a_bound(rig: Rig) -> None:
    rig.vendor.fault = vendors.explode
    seen = []
    rig.http.watch = seen.append
    with pytest.raises(Unacceptable) as raised:
        await rig.send_first()
    assert len(seen[0].answer.body) <= 65_536
    assert len(raised.value.detail) < 500


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [vendors.echo, vendors.status(401), vendors.disconnect, vendors.hang, vendors.babble],
    ids=["echo", "401", "disconnect", "hang", "babble"],
)
async def test_secrets_are_in_no_error_and_no_log(
    rig: Rig, fault: vendors.Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rig.vendor.fault = fault
    with pytest.raises(CollectorError) as raised:
        await rig.send_first()
    shown = caplog.text + repr(raised.value) + "".join(traceback.format_exception(raised.value))
    for secret in rig.case.secrets:
        assert secret not in shown


async def test_secrets_are_in_no_repr(rig: Rig) -> None:
    settings = rig.destination.settings
    for shown in (repr(settings), str(settings), f"{rig.destination!r}", f"{rig.http!r}"):
        for secret in rig.case.secrets:
            assert secret not in shown
    assert set(settings.secret_values()) & set(rig.case.secrets)
