"""The way out: what may be connected to, and what can be said of a request that failed."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations import addresses
from collector.destinations.addresses import Allowance
from collector.destinations.masking import masked
from collector.destinations.outbound import Exchange, Outbound, check_url
from collector.errors import Ambiguous, CollectorError, Denied, Unreachable
from tests.destinations import vendors
from tests.destinations.vendors import Vendor

LOOPBACK = ("127.0.0.0/8",)


def outbound(*private: str, seconds: float = 2.0, connections: int = 4) -> Outbound:
    return Outbound(timeout_seconds=seconds, connections_max=connections, private_addresses=private)


@contextlib.asynccontextmanager
async def opened(*private: str, **settings: Any) -> AsyncIterator[Outbound]:
    http = outbound(*private, **settings)
    try:
        yield http
    finally:
        await http.close()


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    async with Vendor() as running:
        yield running


@pytest.fixture
async def everywhere() -> AsyncIterator[tuple[int, list[Any]]]:
    """A port that listens on every address of this machine, and who connected to it."""
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername"))
        writer.close()

    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        server = await asyncio.start_server(serve, sock=listening)
        yield listening.getsockname()[1], seen
        server.close()


# --- what is not public ---------------------------------------------------------------------------

PRIVATE_HOSTS = [
    "127.0.0.1",
    "127.255.255.254",
    "localhost",
    "LOCALHOST",
    "0.0.0.0",
    "0x7f000001",
    "0x7f.1",
    "[::]",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
]
# aiohttp turns these down before it resolves anything.
ODD_SPELLINGS = ["2130706433", "0177.0.0.1", "017700000001", "127.1", "0", "127.0.0.1.1", "٠.0.0.1"]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_private_addresses_are_refused_at_connect(
    host: str, everywhere: tuple[int, list[Any]]
) -> None:
    port, seen = everywhere
    async with opened() as http:
        with pytest.raises(Unreachable, match="private_addresses") as raised:
            await http.send("POST", f"http://{host}:{port}/", b"{}", {})
    assert raised.value.code == "address_refused"
    await asyncio.sleep(0.01)
    assert not seen


@pytest.mark.parametrize("host", ODD_SPELLINGS)
async def test_odd_spellings_of_an_address_are_none(
    host: str, everywhere: tuple[int, list[Any]]
) -> None:
    port, seen = everywhere
    async with opened() as http:
        with pytest.raises((Denied, Unreachable)) as raised:
            await http.send("POST", f"http://{host}:{port}/", b"{}", {})
    assert raised.value.code in {"bad_url", "address_refused", "dns_failed"}
    await asyncio.sleep(0.01)
    assert not seen


@pytest.mark.parametrize(
    "host", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_allowed(host: str) -> None:
    assert Allowance(()).allows(host)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_however_it_is_written_in_ipv6(
    address: ipaddress.IPv4Address,
) -> None:
    allowance = Allowance(())
    verdict = allowance.allows(str(address))
    for prefix in ("::ffff:", "64:ff9b::", "::ffff:0:"):
        assert allowance.allows(f"{prefix}{address}") == verdict
    packed = b"\x20\x02" + address.packed + bytes(10)
    assert allowance.allows(str(ipaddress.IPv6Address(packed))) == verdict


@given(st.ip_addresses(), st.integers(0, 32))
def test_what_is_listed_is_allowed(address: Any, prefix: int) -> None:
    network = ipaddress.ip_network((address, prefix), strict=False)
    assert Allowance([str(network)]).allows(str(address))


def test_an_ipv4_network_holds_its_addresses_written_in_ipv6() -> None:
    assert Allowance(["10.0.0.0/8"]).allows("::ffff:10.1.2.3")
    assert not Allowance(["10.0.0.0/8"]).allows("127.0.0.1")


def test_text_that_is_no_address_is_refused() -> None:
    assert not Allowance(["0.0.0.0/0"]).allows("example.org")


async def test_a_listed_address_is_reached(vendor: Vendor) -> None:
    async with opened(*LOOPBACK) as http:
        answer = await http.send("POST", f"{vendor.url}/x?y=1", b'{"a":1}', {"X-A": "b"})
    assert (answer.status, answer.json()) == (200, {"success": True})
    (received,) = vendor.requests
    assert (received.method, received.path, received.body) == ("POST", "/x?y=1", b'{"a":1}')
    assert received.headers["X-A"] == "b"
    assert received.headers["User-Agent"].startswith("collector/")


Infos = list[tuple[Any, ...]]


def answering(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """The name servers of this test: one list of addresses after the other; what was asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **hints: Any) -> Infos:
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [info for address in found for info in real(address, port, type=hints["type"])]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    return asked


async def test_a_name_that_changes_its_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    async with Vendor("127.0.0.2") as public, opened("127.0.0.2/32") as http:
        inside = Vendor("127.0.0.1")
        inside.port = public.port
        public.fault = vendors.status(200, "ok", Connection="close")
        async with inside:
            url = f"http://rebinding.test:{public.port}/"
            await http.send("POST", url, b"{}", {})
            with pytest.raises(Unreachable) as raised:
                await http.send("POST", url, b"{}", {})
            assert raised.value.code == "address_refused"
            assert asked == ["rebinding.test"] * 2
            assert len(public.requests) == 1
            assert not inside.requests


@pytest.mark.parametrize("order", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_of_the_addresses_of_a_name_only_those_allowed_are_tried(
    order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, order)
    async with Vendor("127.0.0.2") as public, opened("127.0.0.2/32") as http:
        inside = Vendor("127.0.0.1")
        inside.port = public.port
        async with inside:
            for _ in range(5):
                await http.send("POST", f"http://two.test:{public.port}/", b"{}", {})
                await http.close()
            assert len(public.requests) == 5
            assert not inside.requests


async def test_a_name_that_only_points_inside_is_refused_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch, everywhere: tuple[int, list[Any]]
) -> None:
    port, seen = everywhere
    answering(monkeypatch, ["::1", "127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1"])
    async with opened() as http:
        with pytest.raises(Unreachable) as raised:
            await http.send("POST", f"http://inside.test:{port}/", b"{}", {})
    assert raised.value.code == "address_refused"
    assert not seen


async def test_a_redirect_inside_is_an_answer(vendor: Vendor) -> None:
    async with Vendor() as inside, opened(*LOOPBACK) as http:
        for code in (301, 302, 303, 307, 308):
            vendor.fault = vendors.redirect(f"{inside.url}/admin", code)
            answer = await http.send("POST", vendor.url, b"{}", {})
            assert answer.status == code
        assert not inside.requests


async def test_proxies_of_the_environment_are_not_asked(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Vendor() as proxy, opened(*LOOPBACK) as http:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        await http.send("POST", vendor.url, b"{}", {})
        assert (len(vendor.requests), len(proxy.requests)) == (1, 0)


async def test_cookies_are_not_kept(vendor: Vendor) -> None:
    vendor.fault = vendors.status(200, "ok", Set_Cookie="a=b; Path=/")
    async with opened(*LOOPBACK) as http:
        for _ in range(2):
            await http.send("POST", vendor.url.replace("127.0.0.1", "127.0.0.1"), b"{}", {})
    assert "Cookie" not in vendor.requests[1].headers


# --- addresses that are none ----------------------------------------------------------------------

NO_URLS = [
    "",
    "example.org/hook",
    "//example.org",
    "ftp://example.org/",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "ws://example.org/",
    "http:///path",
    "http://",
    "https://user:pass@example.org/",
    "http://[::1/",
    "http://exa mple.org:x/",
]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_address_stops_the_start(url: str) -> None:
    with pytest.raises(ValueError, match=r"address"):
        check_url(url)


@pytest.mark.parametrize("url", [url for url in NO_URLS if "user" not in url])
async def test_what_is_no_address_is_nobodys_events_fault(url: str) -> None:
    async with opened() as http:
        with pytest.raises(Denied) as raised:
            await http.send("POST", url, b"{}", {})
    assert raised.value.code == "bad_url"


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a..b.test", f"{'x' * 70}.test"])
async def test_a_name_without_address_is_unreachable(host: str) -> None:
    async with opened() as http:
        with pytest.raises((Unreachable, Denied)) as raised:
            await http.send("POST", f"http://{host}/", b"{}", {})
    assert raised.value.code in {"dns_failed", "bad_url"}


async def test_name_servers_that_do_not_answer_hold_up_nobody_else(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    release = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **hints: Any) -> Any:
        if host == "slow.test":
            release.wait(30)
        return real("127.0.0.1", *rest, **hints)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    try:
        async with opened(*LOOPBACK, seconds=0.1, connections=50) as slow:
            for _ in range(3):
                results = await asyncio.gather(
                    *(slow.send("POST", "http://slow.test/", b"", {}) for _ in range(9)),
                    return_exceptions=True,
                )
                assert {type(result) for result in results} == {Unreachable}
            waiting = [thread for thread in threading.enumerate() if thread.name == "resolve"]
            assert len(waiting) <= addresses.LOOKUPS_MAX
            async with opened(*LOOPBACK) as other:
                url = vendor.url.replace("127.0.0.1", "quick.test")
                assert (await other.send("POST", url, b"{}", {})).status == 200
    finally:
        release.set()


# --- what was sent, and what was not --------------------------------------------------------------


async def test_a_kept_connection_that_was_closed_is_not_used_twice_for_one_put() -> None:
    """aiohttp sends a PUT again by itself; whether to is not for it to say."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(2)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()  # with the second request read, and no answer to it

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with opened(*LOOPBACK) as http:
        url = f"http://127.0.0.1:{port}/"
        assert (await http.send("PUT", url, b"{}", {})).status == 200
        with pytest.raises(Ambiguous) as raised:
            await http.send("PUT", url, b"{}", {})
        assert raised.value.code == "disconnected"
        await asyncio.sleep(0.05)
    server.close()
    assert len(heads) == 2


async def test_no_more_connections_are_made_than_allowed(vendor: Vendor) -> None:
    at_once: list[int] = []
    busy = 0

    async def count(_request: Any) -> Any:
        nonlocal busy
        busy += 1
        at_once.append(busy)
        await asyncio.sleep(0.01)
        busy -= 1
        return vendor.take(vendor.requests[-1])

    vendor.fault = count
    async with opened(*LOOPBACK, connections=3) as http:
        await asyncio.gather(*(http.send("POST", vendor.url, b"{}", {}) for _ in range(20)))
    assert (len(at_once), max(at_once)) == (20, 3)


async def test_large_bodies_are_sent_whole(vendor: Vendor) -> None:
    body = os.urandom(3_000_000)
    async with opened(*LOOPBACK) as http:
        await http.send("POST", vendor.url, body, {})
    assert vendor.requests[0].body == body
    assert vendor.requests[0].headers["Content-Length"] == "3000000"


async def test_an_answer_packed_with_gzip_is_read(vendor: Vendor) -> None:
    import gzip

    from aiohttp import web

    async def packed(_request: web.Request) -> web.StreamResponse:
        body = gzip.compress(b'{"ok":true}')
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    vendor.fault = packed
    async with opened(*LOOPBACK) as http:
        assert (await http.send("POST", vendor.url, b"{}", {})).json() == {"ok": True}
    assert vendor.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_connection_is_used_again(vendor: Vendor) -> None:
    peers = set()

    async def remember(request: Any) -> Any:
        peers.add(request.transport.get_extra_info("peername"))
        return vendor.take(vendor.requests[-1])

    vendor.fault = remember
    async with opened(*LOOPBACK) as http:
        for _ in range(5):
            await http.send("POST", vendor.url, b"{}", {})
        assert len(peers) == 1
        await http.close()
        await http.send("POST", vendor.url, b"{}", {})
        assert len(peers) == 2


async def test_a_cancelled_request_leaves_no_connection_behind(vendor: Vendor) -> None:
    vendor.fault = vendors.hang
    async with opened(*LOOPBACK, connections=1) as http:
        task = asyncio.create_task(http.send("POST", vendor.url, b"{}", {}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        vendor.fault = None
        assert (await http.send("POST", vendor.url, b"{}", {})).status == 200


FAULTS = [vendors.disconnect, vendors.reset, vendors.cut, vendors.babble, vendors.hang]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_error_shows_the_query_of_an_address(vendor: Vendor, fault: vendors.Fault) -> None:
    vendor.fault = fault
    token = "tok" * 5
    async with opened(*LOOPBACK, seconds=0.2) as http:
        with pytest.raises(CollectorError) as raised:
            await http.send("POST", f"{vendor.url}/?access_token={token}", b"{}", {})
    assert token not in "".join(traceback.format_exception(raised.value))


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def make_context(tmp_path: Path) -> Callable[..., ssl.SSLContext]:
    """A server's TLS with a certificate that nobody signed, for *name*; it is left in cert.pem."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes certificates")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def make(name: str = "127.0.0.1", days: int = 1) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
        now = datetime.datetime.now(datetime.UTC)
        names: Any
        try:
            names = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            names = x509.DNSName(name)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([names]), critical=False)
            .sign(key, hashes.SHA256())
        )
        chain = tmp_path / "cert.pem"
        chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (tmp_path / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain, tmp_path / "key.pem")
        return context

    return make


async def test_a_certificate_that_nobody_signed_is_refused(
    make_context: Callable[..., ssl.SSLContext],
) -> None:
    async with Vendor(ssl_context=make_context()) as vendor, opened(*LOOPBACK) as http:
        with pytest.raises(Unreachable, match="SSL_CERT_FILE") as raised:
            await http.send("POST", vendor.url, b"{}", {})
        assert raised.value.code == "tls_failed"
        assert not vendor.requests


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(vendor: Vendor) -> None:
    async with opened(*LOOPBACK) as http:
        with pytest.raises(Unreachable) as raised:
            await http.send("POST", vendor.url.replace("http:", "https:"), b"{}", {})
    assert raised.value.code in {"tls_failed", "connect_failed"}
    assert not vendor.requests


async def test_a_handshake_that_hangs_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with opened(*LOOPBACK, seconds=0.3) as http:
            with pytest.raises(Unreachable) as raised:
                await http.send("POST", f"https://127.0.0.1:{silent.getsockname()[1]}/", b"", {})
    assert raised.value.code == "connect_timeout"


@pytest.mark.parametrize(
    ("name", "days", "expected"),
    [("127.0.0.1", 1, "200"), ("other.test", 1, "tls_failed"), ("127.0.0.1", -1, "tls_failed")],
)
async def test_an_authority_of_the_operators_is_trusted_for_the_right_name_and_time(
    name: str,
    days: int,
    expected: str,
    make_context: Callable[..., ssl.SSLContext],
    tmp_path: Path,
) -> None:
    program = """
import asyncio, sys
from collector.destinations.outbound import Outbound
from collector.errors import CollectorError
async def main():
    http = Outbound(timeout_seconds=5, connections_max=1, private_addresses=["127.0.0.0/8"])
    try:
        print((await http.send("POST", sys.argv[1], b"{}", {})).status)
    except CollectorError as exc:
        print(exc.code)
    await http.close()
asyncio.run(main())
"""
    async with Vendor(ssl_context=make_context(name, days)) as vendor:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, vendor.url),
            env=os.environ | {"SSL_CERT_FILE": str(tmp_path / "cert.pem")},
            stdout=subprocess.PIPE,
        )
        shown, _ = await process.communicate()
    assert shown.decode().strip() == expected


# --- what is shown --------------------------------------------------------------------------------


async def test_what_was_exchanged_can_be_watched_without_secrets(vendor: Vendor) -> None:
    seen: list[Exchange] = []
    vendor.fault = vendors.echo
    async with opened(*LOOPBACK) as http:
        http.watch = seen.append
        await http.send(
            "POST",
            f"{vendor.url}/hook?access_token=tok-1&a=b%20c&x=s3cret%2Fval",
            b'{"token":"s3cret/val"}',
            {
                "Authorization": "Basic abc",
                "X-Api-Key": "key-1",
                "X-Plain": "p",
                "X-B": "s3cret/val",
            },
        )
        vendor.fault = vendors.disconnect
        with pytest.raises(Ambiguous):
            await http.send("POST", vendor.url, b"{}", {})
    answered, failed = seen
    assert answered.answer is not None
    assert failed.error is not None
    assert (failed.answer, answered.error) == (None, None)
    shown = masked(answered, ("s3cret/val",))
    assert shown.url == f"{vendor.url}/hook?access_token=***&a=b%20c&x=***"
    assert shown.body == b'{"token":"***"}'
    assert shown.headers == {
        "Authorization": "***",
        "X-Api-Key": "***",
        "X-Plain": "p",
        "X-B": "***",
    }
    assert shown.answer is not None
    assert b"s3cret" not in shown.answer.body
    assert masked(failed).error is failed.error
