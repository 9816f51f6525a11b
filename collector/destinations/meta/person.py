"""
Person: `user_data`, by which Meta recognises who an event is of.

Looked up      by `fields.py`: what the event says first, what an earlier identify said last
Hashed         em ph fn ln ge db ct st zp country external_id; see `hashing.py`
As it is       client_ip_address client_user_agent fbc fbp madid … : ids that Meta or the device
               made, which match nothing once hashed
Errors         none: what is odd is left out; whether enough is left, `is_matchable` says.
Source         Meta, "Customer Information Parameters", "Best Practices: Baseline requirements for
               matching", "fbp and fbc Parameters"
"""

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final

from collector.destinations import fields
from collector.destinations.base import Mail
from collector.destinations.meta import hashing
from collector.destinations.meta.hashing import Forms, hashes, text_of
from collector.destinations.meta.places import country_of
from collector.destinations.meta.settings import MetaSettings

ID_CHARS_MAX = 500  # of fbc, fbp and their like
AGENT_CHARS_MAX = 1_000

# Names that senders know it by. Not "Facebook Pixel": that is the one in the browser, and a page
# that runs it itself switches it off for servers, which says nothing about this road.
INTEGRATIONS: Final = (
    "Facebook Conversions API",
    "Facebook Conversions API (Actions)",
    "Facebook Conversions",
    "Meta Conversions API",
)
# An event with no more than the keys of one of these is refused by Meta.
TOO_BROAD: Final = (
    frozenset({"ct", "country", "st", "zp", "ge", "client_user_agent"}),
    frozenset({"db", "client_user_agent"}),
    frozenset({"fn", "ge"}),
    frozenset({"ln", "ge"}),
)
TEXT_KEYS: Final = ("subscription_id", "anon_id", "partner_id", "partner_name")
NUMBER_KEYS: Final = ("lead_id", "fb_login_id")  # integers, made by Meta
MESSAGING_KEYS: Final = (
    "ctwa_clid",
    "ig_account_id",
    "ig_sid",
    "page_id",
    "page_scoped_user_id",
    "whatsapp_business_account_id",
)
BIRTHDAYS: Final = ("birthday", "date_of_birth", "dateOfBirth", "dob")
NOT_OUTSIDE: Final = tuple(  # where nobody comes from: 0.0.0.0 asks not to be recorded
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "::/127",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
NO_DEVICE: Final = "00000000-0000-0000-0000-000000000000"  # what phones say that do not want to


def user_data_of(mail: Mail, settings: MetaSettings, action_source: str) -> dict[str, Any]:
    """What Meta may know of the person of *mail*."""
    first, last = fields.names(mail)
    address = fields.address(mail)
    home = country_of(address.country) if address.country else None
    dialled = home or settings.phone_country_default.lower() or None
    found: dict[str, Any] = {}

    def put(key: str, value: str | None, normalise: Callable[[str], Forms]) -> None:
        if value is not None and (hashed := hashes((value,), normalise)):
            found[key] = hashed

    put("em", fields.email(mail), hashing.email)
    put("ph", fields.phone(mail), lambda text: hashing.phone(text, dialled))
    put("fn", first, hashing.name)
    put("ln", last, hashing.name)
    put("ge", fields.trait(mail, "gender"), hashing.gender)
    put("db", fields.trait(mail, *BIRTHDAYS), hashing.birthday)
    put("ct", address.city, hashing.city)
    put("st", address.state, lambda text: hashing.state(text, home))
    put("zp", address.postal_code, lambda text: hashing.postcode(text, home))
    put("country", address.country, hashing.country)
    if ids := _external_ids(mail, settings):
        found["external_id"] = ids

    if ip := _ip(fields.ip(mail)):
        found["client_ip_address"] = ip
    if agent := fields.user_agent(mail):
        found["client_user_agent"] = agent[:AGENT_CHARS_MAX]
    for key in ("fbc", "fbp"):
        if value := _cookie(mail, key):
            found[key] = value
    if "fbc" not in found and (clicked := _id(fields.click_id(mail, "fbclid", *INTEGRATIONS))):
        found["fbc"] = f"fb.1.{mail.event.timestamp // 1000}.{clicked}"
    if device := _device(mail):
        found["madid"] = device
    for key in TEXT_KEYS:
        if text := text_of(option(mail, key)):
            found[key] = text
    for key in NUMBER_KEYS:
        text = text_of(option(mail, key)) or ""
        if text.isascii() and text.isdecimal() and len(text) <= 18:
            found[key] = int(text)
    if action_source == "business_messaging":
        for key in MESSAGING_KEYS:
            if text := text_of(option(mail, key)):
                found[key] = text
    return found


def is_matchable(found: Mapping[str, Any]) -> bool:
    """Whether Meta takes an event of a person of whom it knows *found*."""
    return not any(found.keys() <= broad for broad in TOO_BROAD)


def option(mail: Mail, key: str) -> Any:
    """What the sender set as *key* for us: in properties, in context or in integrations."""
    event = mail.event
    value = event.properties.get(key)
    if value is None:
        value = event.context.get(key)
    if value is None and event.integrations:
        for name in INTEGRATIONS:
            options = event.integrations.get(name)
            if isinstance(options, dict) and (value := options.get(key)) is not None:
                break
    return value


def _cookie(mail: Mail, key: str) -> str | None:
    """`fbc` or `fbp`, wherever a page or a server puts the pixel's cookie."""
    context = mail.event.context
    cookies = context.get("cookies")
    return (
        _id(mail.event.properties.get(key))
        or _id(context.get(key))
        or (_id(cookies.get(f"_{key}")) if isinstance(cookies, dict) else None)
        or _id(fields.identifier(mail, key, *INTEGRATIONS))
    )


def _id(value: Any) -> str | None:
    text = text_of(value) if isinstance(value, str) else None
    return text if text and len(text) <= ID_CHARS_MAX and not any(map(str.isspace, text)) else None


def _external_ids(mail: Mail, settings: MetaSettings) -> list[str]:
    ids = {"user_id": mail.event.user_id, "anonymous_id": mail.event.anonymous_id}
    values = [text for name in settings.external_ids if (text := text_of(ids[name]))]
    if settings.hash_external_id:
        return hashes(values, hashing.identifier)
    # An email stays personal data, whatever it is used as.
    found = (hashes((v,), hashing.identifier)[0] if "@" in v else v for v in values)
    return list(dict.fromkeys(found))


def _ip(text: str | None) -> str | None:
    """*text* if it is where a person may come from: the shop's own address helps nobody."""
    if text is None:
        return None
    found = ip_address(text.partition("%")[0])  # without the interface of a link
    if found.version == 6 and found.ipv4_mapped:
        found = found.ipv4_mapped
    return None if any(found in network for network in NOT_OUTSIDE) else str(found)


def _device(mail: Mail) -> str | None:
    device = mail.event.context.get("device")
    own = option(mail, "madid")
    if own is None and isinstance(device, dict) and device.get("adTrackingEnabled") is not False:
        own = device.get("advertisingId")
    text = _id(own)
    return text.lower() if text and text != NO_DEVICE else None
