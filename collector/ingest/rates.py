"""
Rates: how much one sender may send: requests of an address, events of a key.

Token buckets, kept as the one moment at which a bucket is full again (GCRA): what is taken moves
it ahead, and a sender whose moment is too far ahead waits. A request that is taken is taken whole:
a batch may be larger than what is left, and then the next one waits for longer.

An address is looked at before anything of its request is read; an IPv6 sender is its /64, of which
it has all addresses. A key is looked at when its events are known. Both are off by default.

Units    requests or events a second; waits in whole seconds, 300 at most: SDKs believe no more.
Bounds   so many addresses are remembered; beyond, the one that has been silent the longest is
         forgotten, and has a whole bucket again.
Errors   Busy(address_limited), Busy(key_limited): 429 and Retry-After.
"""

import math
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from collector.errors import Busy, ConfigError
from collector.ingest.settings import LimitSettings, SourceSettings

RETRY_AFTER_SECONDS_MAX: Final = 300
EPSILON: Final = 1e-9  # of arithmetic

Network = IPv4Network | IPv6Network


class Buckets:
    """Token buckets by name, the last used ones."""

    def __init__(self, names_max: int) -> None:
        self.names_max = names_max
        self._full_at: dict[str | int, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str | int, count: int, rate: float, burst: int, now: float) -> int:
        """Take *count* tokens if there is one at least; else the seconds until there is."""
        full_at = max(self._full_at.pop(name, 0.0), now)
        wait = full_at - now - (burst - 1) / rate
        if wait <= EPSILON:
            full_at += count / rate
        self._full_at[name] = full_at  # the last used one stands last
        while len(self._full_at) > self.names_max:
            del self._full_at[next(iter(self._full_at))]
        return 0 if wait <= EPSILON else min(RETRY_AFTER_SECONDS_MAX, math.ceil(wait))


class Rates:
    """The limits of one ingest port; they may change while it runs."""

    def __init__(self, settings: LimitSettings, sources: Sequence[SourceSettings]) -> None:
        self._addresses = Buckets(settings.addresses_max)
        self._keys = Buckets(1)
        self.use(settings, sources)

    def use(self, settings: LimitSettings, sources: Sequence[SourceSettings]) -> None:
        """From now on limit as these say; what was taken stays taken."""
        unlimited = networks(settings.unlimited)
        self._settings = settings
        self._unlimited = unlimited
        self._addresses.names_max = settings.addresses_max
        self._keys.names_max = len(sources)
        self.by_address = settings.address_requests_per_second > 0

    def admit(self, address: str | None) -> None:
        """Count a request of *address*; raise Busy if it asks too often."""
        name = self._name(address)
        if name is None:
            return
        settings = self._settings
        rate, burst = settings.address_requests_per_second, settings.address_requests_burst
        if wait := self._addresses.take(name, 1, rate, burst, time.monotonic()):
            raise Busy(
                "address_limited",
                "this address asks too often: resend it later, and send batches",
                retry_after_seconds=wait,
                status=429,
            )

    def charge(self, source: SourceSettings, events: int) -> None:
        """Count *events* of *source*, which has a limit; raise Busy if it is reached."""
        rate, burst = source.events_per_second, source.events_burst
        if wait := self._keys.take(source.name, events, rate, burst, time.monotonic()):
            raise Busy(
                "key_limited",
                "this write key sends more events than it may: resend them later",
                retry_after_seconds=wait,
                status=429,
            )

    def _name(self, address: str | None) -> str | int | None:
        try:
            found = ip_address((address or "").partition("%")[0])
        except ValueError:
            return None  # a Unix socket, say
        if isinstance(found, IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        if any(found in network for network in self._unlimited):
            return None
        return str(found) if isinstance(found, IPv4Address) else int(found) >> 64


def networks(entries: Sequence[str]) -> list[Network]:
    """What *entries* name; ConfigError if one is no network."""
    try:
        return [ip_network(entry, strict=False) for entry in entries]
    except ValueError as exc:
        raise ConfigError(
            f"limits.unlimited: {exc}; write addresses or networks such as 10.0.0.0/8"
        ) from exc
