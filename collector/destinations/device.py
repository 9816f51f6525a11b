"""
Device: how much a destination is told of the device that a person uses.

    ip            full, truncated to /24 (IPv6: /48) or none       context.ip
    user_agent    full or none                                     context.userAgent, userAgentData

IPv4 addresses inside IPv6 ones (mapped, NAT64) are truncated as the IPv4 addresses that they are.
Zeros, never a hash: four billion addresses are hashed in a minute, and so looked up.

Bounds   4,096 truncated addresses are kept.
Errors   none: what is no address cannot be truncated, and is left out.
Source   RFC 4291, section 2.5.5.2; RFC 6052, section 2.1
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final

import msgspec
from msgspec import Raw

ADDRESSES_KEPT_MAX: Final = 4_096
ADDRESS_CHARS_MAX: Final = 64
NAT64: Final = ip_network("64:ff9b::/96")
AGENTS: Final = ("userAgent", "userAgentData", "user_agent")  # the last as mail tools write it

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def withheld(context: bytes, ip: str, user_agent: str) -> bytes:
    """The JSON object *context* with no more of the device than the settings let through."""
    members: dict[str, Any] = _decode_members(context)
    before = len(members)
    told = address = None
    if user_agent == "none":
        for name in AGENTS:
            members.pop(name, None)
    if ip != "full" and "ip" in members:
        address = _decode(members.pop("ip"))
        told = truncated(address) if ip == "truncated" else None
        if told is not None:
            members["ip"] = told
    return context if len(members) == before and told == address else _encode(members)


def truncated(address: Any) -> str | None:
    """*address* with zeros behind /24, of IPv6 behind /48; None if it is no address."""
    if not isinstance(address, str) or len(address) > ADDRESS_CHARS_MAX:
        return None
    return _truncated(address.strip())


@lru_cache(ADDRESSES_KEPT_MAX)
def _truncated(text: str) -> str | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None:
            return str(IPv6Address(int(address) >> 80 << 80))
        address = inner
    return str(IPv4Address(int(address) >> 8 << 8))
