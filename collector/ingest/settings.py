"""Settings of the ingest port, of the sources that may send to it, of click links and limits."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from collector.event import BRIEF_CHARS
from collector.settings import Bytes, Count, CountOrNone, Port, Seconds, SecondsOrNone, Section

Prefix = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_.~-]+)*$")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
WriteKey = Annotated[str, Meta(pattern=r"^[!-~]{1,200}$")]
AppId = Annotated[str, Meta(min_length=1, max_length=255)]
PostPath = Annotated[str, Meta(pattern=r"^/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")]
# Shorter ones are not measured; longer ones would not fit into an index.
TextBytes = Annotated[int, Meta(ge=4 * BRIEF_CHARS, le=2_000)]
Rate = Annotated[float, Meta(ge=0, le=1)]
CookieName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
CookieDomain = Annotated[str, Meta(pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)+)?$")]
CookieDays = Annotated[int, Meta(ge=1, le=400)]
CookieOn = Literal["script", "pixel", "redirect"]
PerSecond = Annotated[float, Meta(ge=0, le=1e9)]
Secret = Annotated[str, Meta(min_length=16, max_length=512)]
BaseUrl = Annotated[str, Meta(pattern=r"^(https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9_.~-]+)*/?)?$")]


class SourceSettings(Section, frozen=True, kw_only=True):
    """Who may send, and with which key."""

    name: Name  # metric label and column `source`
    write_key: WriteKey
    kind: Literal["browser", "server"] = "browser"
    origins: list[str] = []  # web origins that may send; empty allows any, without credentials
    snowplow_app_ids: list[AppId] = []  # Snowplow's trackers send no key: their apps
    cookie_name: CookieName = ""  # the identity cookie; empty: none
    cookie_domain: CookieDomain = ""  # such as shop.example; empty: the host that is asked
    cookie_days: CookieDays = 400  # from each request on; browsers keep none for longer
    cookie_on: list[CookieOn] = msgspec.field(
        default_factory=lambda: ["script", "pixel", "redirect"]  # what sets it
    )
    cookie_consent: list[str] = []  # categories that have to be granted before it is set
    cookie_wins: bool = True  # over the anonymousId of an event
    ad_cookies: bool = True  # cookies of ad networks that arrive are kept in context
    mixed: bool = False  # servers send with a browser key, too: what their SDKs write is believed
    timestamp_days_max: CountOrNone = 0  # older events of a browser key count as of now; 0: none
    events_per_second: PerSecond = 0.0  # of this key; 0: as many as there are
    events_burst: Count = 10_000  # at once, after a silence


class IngestSettings(Section, frozen=True, kw_only=True):
    """The port that senders use."""

    host: str = "0.0.0.0"  # noqa: S104  senders are elsewhere
    port: Port = 8080
    path_prefix: Prefix = ""  # in front of every path, for a proxy that does not strip it
    neutral_path_prefix: Prefix = "/x"  # the same paths again, where blockers know the usual ones
    trusted_proxies: list[str] = []  # addresses or networks whose X-Forwarded-* are believed
    body_bytes_max: Bytes = 10_485_760  # unzipped
    event_bytes_max: Bytes = 262_144
    batch_events_max: Count = 10_000
    depth_max: Count = 100  # nesting of one event
    id_bytes_max: TextBytes = 512  # message, user, anonymous, group and previous ids
    name_bytes_max: TextBytes = 1024  # event, name and category
    url_bytes_max: Bytes = 32_768
    header_bytes_max: Bytes = 16_384  # one header
    headers_max: Count = 128
    header_seconds: Seconds = 15.0  # until a request's headers are complete
    body_seconds: Seconds = 60.0  # until its body is
    idle_seconds: Seconds = 75.0  # between two requests of one connection
    stop_seconds: SecondsOrNone = 10.0  # for requests under way when the collector stops
    body_bytes_in_flight_max: Bytes = 134_217_728
    connections_max: Count = 20_000
    refusals_kept_per_minute: Count = 60  # requests turned down that leave a rejected event
    sdk_dir: str = ""  # analytics.js for pages; empty means where `make sdk` puts it
    snowplow_paths: list[PostPath] = []  # of trackers with a post path of their own
    sdk_metrics_sample_rate: Rate = 0.0  # what analytics.js is told to report about itself


class RedirectSettings(Section, frozen=True, kw_only=True):
    """Signed click links; without a secret there are none."""

    secrets: list[Secret] = []  # the first signs, all of them verify; better from a file
    base_url: BaseUrl = ""  # what stands in front of /r/ where links are made


class LimitSettings(Section, frozen=True, kw_only=True):
    """How often one address may ask. What a key may send stands at its source."""

    address_requests_per_second: PerSecond = 0.0  # 0: as often as it likes
    address_requests_burst: Count = 200  # at once, after a silence
    addresses_max: Count = 65_536  # remembered
    unlimited: list[str] = []  # addresses or networks of servers of one's own
