"""
Address: whose device a request came from, seen through the proxies that are trusted.

`X-Forwarded-For` is believed only from listed proxies; the address is the one furthest to the
right that is no listed proxy, because everything left of it is the sender's own claim.

Errors   ConfigError for an entry of `trusted_proxies` that is no address or network.
"""

import ipaddress
from collections.abc import Sequence

from collector.errors import ConfigError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The proxies that may say on whose behalf they ask."""

    def __init__(self, trusted: Sequence[str]) -> None:
        try:
            self._networks = [ipaddress.ip_network(entry, strict=False) for entry in trusted]
        except ValueError as exc:
            raise ConfigError(
                f"ingest.trusted_proxies: {exc}; write addresses or networks such as 10.0.0.0/8"
            ) from exc

    def trusts(self, peer: str | None) -> bool:
        """Whether the other end of the connection is a listed proxy."""
        if not self._networks or peer is None:
            return False
        address = _parse(peer)
        return address is not None and self._listed(address)

    def _listed(self, address: IpAddress) -> bool:
        return any(address in network for network in self._networks)

    def client(self, forwarded: Sequence[str], peer: str | None) -> str | None:
        """The client's address behind a trusted *peer*, given its X-Forwarded-For headers."""
        for entry in reversed(",".join(forwarded).split(",")):
            address = _parse(entry.strip())
            if address is None:
                return peer
            if not self._listed(address):
                return str(address)
        return peer


def _parse(text: str) -> IpAddress | None:
    """An address as proxies write it: bare, with a port, or in brackets; mapped IPv4 unwrapped."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # a zone is local to its host
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def plain(peer: str | None) -> str | None:
    """A peer's address as it is stored: IPv4 that arrived over an IPv6 socket is IPv4."""
    if peer is not None and peer.startswith("::ffff:"):
        return peer[7:]
    return peer
