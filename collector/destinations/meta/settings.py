"""
Settings of the Meta destination: which dataset, who may write to it, and what goes there.

Errors   ValueError for values that contradict each other; the start then names the destination.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from collector.destinations.meta.phones import country_codes
from collector.destinations.money import currencies
from collector.destinations.outbound import check_url
from collector.destinations.settings import DestinationSettings, Text
from collector.settings import Bytes, Count, Seconds

if TYPE_CHECKING:
    from collector.destinations.base import Destination
    from collector.destinations.outbound import Outbound

ActionSource = Literal[
    "website",
    "app",
    "email",
    "phone_call",
    "chat",
    "physical_store",
    "system_generated",
    "business_messaging",
    "other",
]
ValueSource = Literal["revenue", "value", "total", "subtotal", "price", "products"]
Digits = Annotated[str, Meta(pattern=r"^[0-9]{1,32}$")]
Version = Annotated[str, Meta(pattern=r"^v[0-9]{1,3}\.[0-9]$")]

US = 1
STATES = {0, *range(1000, 1011)}  # of Limited Data Use: California to New Jersey; 0: Meta looks


class MetaSettings(DestinationSettings, frozen=True, kw_only=True, tag="meta"):
    """The Conversions API of Meta (Facebook, Instagram): web, app and offline events."""

    secrets: ClassVar[tuple[str, ...]] = ("access_token", "app_secret")

    # --- where to
    dataset_id: Digits  # of the dataset, or of the pixel it was made from
    access_token: Text  # of a system user that may write to the dataset
    app_secret: str = ""  # of the app that the token belongs to; each request then proves it
    base_url: Text = "https://graph.facebook.com"
    version: Version = "v25.0"
    test_event_code: str = ""  # from Events Manager, Test Events; used by tests only
    partner_agent: str = ""  # under which name the events are shown to come
    upload_tag: str = ""  # the name of an upload of offline events

    # --- which events, and under which name
    action_source: ActionSource | Literal["auto"] = "auto"  # auto: app for phones, else website
    action_sources: dict[str, ActionSource] = {}  # source = where its events happen
    offline: bool = False  # a shop's till: only the names in `events`, in physical_store
    event_names: dict[str, str] = {}  # event = Meta's or your own name; "" keeps it back
    custom_events: bool = False  # events that have no name at Meta go under their own
    page_views: bool = True
    event_id: Literal["message_id", "order_id"] = "message_id"  # order_id: of purchases

    # --- what is said of them
    value_source: list[ValueSource] = []  # of an order, the first that is there; empty: Meta's
    multiply_quantity: bool = True  # Product Added is worth price × quantity
    currency_default: str = ""  # of an event that names none; empty: none is assumed
    free_properties: Literal["all", "listed", "none"] = "all"  # besides those Meta has a place for
    free_properties_listed: list[Text] = []
    personal_properties: list[Text] = []  # besides those that are known to be: never sent
    impersonal_properties: list[Text] = []  # known to be personal, but not here

    # --- who it was
    external_ids: list[Literal["user_id", "anonymous_id"]] = msgspec.field(
        default_factory=lambda: ["user_id", "anonymous_id"]
    )
    hash_external_id: bool = True  # as the page's pixel sends it: it has to be the same there
    phone_country_default: str = ""  # of a number without one, where the address has none either

    # --- Limited Data Use, for people who opted out of sale and sharing
    ldu_always: bool = False  # for everyone
    ldu_country: Literal[0, 1] = 0  # 1: the United States; 0: Meta looks where the person is
    ldu_state: int = 0  # 1000 California … 1010 New Jersey; 0: Meta looks

    # --- other defaults than most destinations
    purpose: Literal["analytics", "advertising"] = "advertising"
    bots: Literal["send", "skip"] = "skip"
    timeout_seconds: Seconds = 5.0  # most answers take less than one
    batch_events_max: Annotated[Count, Meta(le=1000)] = 1000
    batch_bytes_max: Bytes = 900_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_url(self.base_url)
        if not (self.access_token.isascii() and self.access_token.isprintable()):
            raise ValueError("`access_token` is not plain ASCII: copy it again")
        if self.offline and not self.events:
            raise ValueError("an offline destination names what may go there: set `events`")
        if self.ldu_state not in STATES:
            raise ValueError("`ldu_state` is 0 or one of 1000 to 1010")
        if self.ldu_state and self.ldu_country != US:
            raise ValueError("`ldu_state` is a state of the US: set `ldu_country` to 1 as well")
        if self.currency_default and self.currency_default.upper() not in currencies():
            raise ValueError("`currency_default` is no code of ISO 4217, such as EUR")
        if self.phone_country_default.lower() not in {"", *country_codes()}:
            raise ValueError("`phone_country_default` is no code of ISO 3166-1, such as DE")

    def build(self, http: Outbound) -> Destination[Any]:
        """The destination with these settings, which sends through *http*."""
        from collector.destinations.meta.destination import Meta  # noqa: PLC0415  it needs us

        return Meta(self, http)
