"""
Addresses: which ones a name has, and which of them a destination may connect to.

A destination's address comes from a person with access to the settings, and its name from somebody
else's DNS: neither may make the collector speak to its own machine or network. Refused is every
address that the public internet has no way to, whether it is written as IPv4 or inside an IPv6
address that leads to the same machine, unless it is in `private_addresses`.

Shapes   networks as `ipaddress` has them; what a name has as aiohttp's resolvers return it.
Errors   OSError: a name without an address, an address that is refused.
Source   IANA special-purpose address registries, as Python's `ipaddress` knows them; RFC 6052
         (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo)
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

REFUSED: Final = "is no public address"  # in the text of the error, which others wrap
LOOKUPS_MAX = 4  # of one destination at once, those included that nobody waits for any more

# Not public, whatever the registries say.
EXTRA: Final[tuple[Network, ...]] = (
    ip_network("168.63.129.16/32"),  # answers every virtual machine at Azure, as their metadata do
    ip_network("192.0.0.0/24"),  # of protocols; metadata at Oracle; Pythons differ about it
    ip_network("fec0::/10"),  # site-local, deprecated and still routed by some
    ip_network("2001::/32"),  # Teredo: the IPv4 address in it is written inverted
    ip_network("64:ff9b:1::/48"),  # NAT64 of a network's own
)
# IPv6 in which the last four bytes are the IPv4 address that is reached in the end.
ENDS_IN_IPV4: Final = (
    ip_network("::ffff:0:0/96"),  # mapped
    ip_network("::ffff:0:0:0/96"),  # translated (SIIT)
    ip_network("64:ff9b::/96"),  # NAT64
    ip_network("::/96"),  # compatible, deprecated; ::1 and :: too
)
SIX_TO_FOUR: Final = ip_network("2002::/16")


class Allowance:
    """What one destination may connect to: the public internet, and *private* networks."""

    def __init__(self, private: Sequence[str]) -> None:
        self._private = [ip_network(network, strict=False) for network in private]

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """
        Make the socket for one address that is about to be connected to.

        It is asked for each attempt with the address itself, so that no spelling of a host and no
        second answer of a name server gets past it. Raises OSError for what is not allowed.
        """
        family, kind, protocol, _, (host, *_rest) = info
        if not self.allows(host):
            raise OSError(f"{host} {REFUSED}")
        return socket.socket(family, kind, protocol)

    def allows(self, host: str) -> bool:
        """Say whether the address *host*, which is numeric, may be connected to."""
        try:
            address = ip_address(host)
        except ValueError:
            return False
        inner = _inner(address)
        if any(address in network or inner in network for network in self._private):
            return True
        if any(address in network or inner in network for network in EXTRA):
            return False
        return inner.is_global and not (
            inner.is_multicast or inner.is_reserved or inner.is_unspecified
        )


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, if it does."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in ENDS_IN_IPV4):
            return IPv4Address(address.packed[12:])
        if address in SIX_TO_FOUR:
            return IPv4Address(address.packed[2:6])
    return address


class Resolver(AbstractResolver):
    """
    The system's own resolver, in threads that nothing else waits for.

    A name whose servers do not answer takes half a minute to fail, and nothing can end it before:
    in the loop's own threads a few of them would hold up everybody's look-ups, Postgres' included.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(LOOKUPS_MAX)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | Exception) -> None:
            self._free.release()
            if found.done():  # nobody waits any more
                return
            if isinstance(result, Exception):
                found.set_exception(result)
            else:
                found.set_result(result)

        def look_up() -> None:
            result: list[ResolveResult] | Exception
            try:
                result = _look_up(host, port, family)
            except Exception as exc:  # noqa: BLE001  given to who waits
                result = exc
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settle, result)

        # A daemon: the collector does not wait for it to stop.
        threading.Thread(target=look_up, name="resolve", daemon=True).start()
        return await found

    async def close(self) -> None:
        """Nothing is kept."""


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    infos = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in infos
    ]
