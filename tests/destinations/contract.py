"""
What every destination is tested with. A new one is one `Case` in `CASES`; `test_contract.py` does
the rest, and its own test file what is special about it.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from collector.destinations.base import Destination, Mail, Outcome, Parcel
from collector.destinations.meta import MetaSettings
from collector.destinations.outbound import Outbound
from collector.destinations.segment import SegmentSettings
from collector.destinations.settings import DestinationSettings
from collector.destinations.webhook import WebhookSettings
from collector.store.stored import NOTHING, StoredEvent
from tests.destinations.events import stored
from tests.destinations.fake_meta import MetaApi
from tests.destinations.vendors import Hook, SegmentApi, Vendor

LOOPBACK = ["127.0.0.0/8"]
SECRET = "s3cret-of-the-hook"
TOKEN = "tok-4711-in-a-header"

SAMPLE = (
    stored(message_id="m-1", user_id="u1", properties={"order_id": "o1", "total": 20.10}),
    stored(message_id="m-2", user_id="u2", properties={"order_id": "ö2 😀", "n": 2**60}),
    stored(message_id="m-3", type="page", event=None, name="Home", anonymous_id="a1"),
    stored(message_id="m-4", type="screen", event=None, name="Home", anonymous_id="a1"),
    stored(message_id="m-5", type="identify", event=None, user_id="u1", traits={"vip": True}),
    stored(message_id="m-6", type="group", event=None, user_id="u1", group_id="g1"),
    stored(message_id="m-7", type="alias", event=None, user_id="u1", previous_id="a1"),
    stored(message_id="m 8\n%é", anonymous_id="a2", context={"ip": "1.2.3.4", "page": {}}),
)


@dataclass(frozen=True)
class Case:
    """One destination as the contract meets it."""

    name: str
    vendor: Callable[[], Vendor]
    settings: Callable[[str], DestinationSettings]  # from the vendor's URL
    secrets: tuple[str, ...]  # that no log, error or repr may show
    events: Sequence[StoredEvent] = SAMPLE  # that it has a mapping for
    envelope_bytes: int = 16  # of a request, besides its parcels
    person: dict[str, Any] = field(default_factory=dict)


@dataclass
class Rig:
    """A destination, its vendor, and its way out."""

    case: Case
    vendor: Vendor
    http: Outbound
    destination: Destination[Any]

    def map(self, event: StoredEvent) -> Parcel:
        parcel = self.destination.map(Mail(event, self.case.person or NOTHING, restricted=False))
        assert isinstance(parcel, Parcel), parcel
        return parcel

    def parcels(self) -> list[Parcel]:
        return [self.map(event) for event in self.case.events]

    def batches(self, parcels: Sequence[Parcel]) -> Iterator[Sequence[Parcel]]:
        """As the courier cuts them, but for their groups."""
        most = self.destination.settings.batch_events_max
        return (parcels[at : at + most] for at in range(0, len(parcels), most))

    async def send(self, parcels: Sequence[Parcel]) -> list[Outcome]:
        found: list[Outcome] = []
        for batch in self.batches(parcels):
            found += await self.destination.send(batch)
        return found

    async def send_first(self) -> Sequence[Outcome]:
        """One request."""
        return await self.destination.send(next(self.batches(self.parcels())))


def outbound(settings: DestinationSettings) -> Outbound:
    return Outbound(
        timeout_seconds=settings.timeout_seconds,
        connections_max=settings.concurrency,
        private_addresses=settings.private_addresses,
    )


@asynccontextmanager
async def rig(case: Case) -> AsyncIterator[Rig]:
    async with case.vendor() as vendor:
        settings = case.settings(vendor.url)
        http = outbound(settings)
        destination = settings.build(http)
        await destination.open()
        try:
            yield Rig(case, vendor, http, destination)
        finally:
            await destination.close()
            await http.close()


def webhook(url: str, **settings: Any) -> WebhookSettings:
    return WebhookSettings(
        **{
            "name": "hook",
            "url": f"{url}/hook?a=1",
            "secret": SECRET,
            "headers": {"X-Token": TOKEN},
            "timeout_seconds": 1.0,
            "private_addresses": LOOPBACK,
        }
        | settings
    )


def segment(url: str, **settings: Any) -> SegmentSettings:
    return SegmentSettings(
        **{
            "name": "forward",
            "endpoint": f"{url}/v1/batch",
            "write_key": SegmentApi.write_key,
            "timeout_seconds": 1.0,
            "private_addresses": LOOPBACK,
        }
        | settings
    )


def meta(url: str, **settings: Any) -> MetaSettings:
    return MetaSettings(
        **{
            "name": "meta",
            "base_url": url,
            "dataset_id": MetaApi.dataset_id,
            "access_token": MetaApi.token,
            "app_secret": MetaApi.app_secret,
            "test_event_code": MetaApi.test_event_code,
            "timeout_seconds": 1.0,
            "private_addresses": LOOPBACK,
        }
        | settings
    )


HOOK_SECRETS = (SECRET, TOKEN)

CASES = (
    Case("webhook", Hook, webhook, HOOK_SECRETS),
    Case("webhook-batch", Hook, lambda url: webhook(url, batch=True, signature="v2"), HOOK_SECRETS),
    Case("segment", SegmentApi, segment, (SegmentApi.write_key, "d2tfbGl2ZV81ZTltZW50")),
    Case("meta", MetaApi, meta, (MetaApi.token, MetaApi.app_secret), MetaApi.sample()),
)
