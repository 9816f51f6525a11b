"""
Person: `user_data`, by which Meta recognises who an event is of.

Looked up in   traits, context.traits, properties, and last in what the person said of themselves
               in an earlier identify.
Hashed         em ph fn ln ge db ct st zp country external_id; see `hashing.py`
As it is       client_ip_address client_user_agent fbc fbp madid … : ids that Meta or the device
               made, which match nothing once hashed.
Errors         none: what is odd is left out; whether enough is left, `is_matchable` says.
Source         Meta, "Customer Information Parameters", "Best Practices: Baseline requirements for
               matching", "fbp and fbc Parameters"
"""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from collector.destinations.base import Mail
from collector.destinations.meta import hashing
from collector.destinations.meta.hashing import Forms, hashes, text_of
from collector.destinations.meta.places import country_of
from collector.destinations.meta.settings import MetaSettings
from collector.store.stored import Json

ID_CHARS_MAX = 500  # of fbc, fbp and their like
AGENT_CHARS_MAX = 1_000
QUERY_PARAMETERS_MAX = 200

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
FIRST_NAMES: Final = ("firstName", "first_name", "firstname")
LAST_NAMES: Final = ("lastName", "last_name", "lastname")
BIRTHDAYS: Final = ("birthday", "date_of_birth", "dateOfBirth", "dob")
ADDRESS: Final = {
    "ct": ("city",),
    "st": ("state", "region"),
    "zp": ("postalCode", "postal_code", "zip", "zipcode"),
    "country": ("country",),
}
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
    event, context = mail.event, mail.event.context
    layers = _layers(mail)
    address = {key: _from_address(layers, names) for key, names in ADDRESS.items()}
    home = _country(address["country"])
    dialled = home or settings.phone_country_default.lower() or None
    first, last = _names(layers)
    found: dict[str, Any] = {}

    def put(key: str, values: list[Any], normalise: Callable[[str], Forms]) -> None:
        if hashed := hashes(values, normalise):
            found[key] = hashed

    put("em", _first(layers, ("email",)), hashing.email)
    put("ph", _first(layers, ("phone",)), lambda text: hashing.phone(text, dialled))
    put("fn", first, hashing.name)
    put("ln", last, hashing.name)
    put("ge", _first(layers, ("gender",)), hashing.gender)
    put("db", _first(layers, BIRTHDAYS), hashing.birthday)
    put("ct", address["ct"], hashing.city)
    put("st", address["st"], lambda text: hashing.state(text, home))
    put("zp", address["zp"], lambda text: hashing.postcode(text, home))
    put("country", address["country"], hashing.country)
    if ids := _external_ids(mail, settings):
        found["external_id"] = ids

    if ip := _ip(context.get("ip")):
        found["client_ip_address"] = ip
    if agent := text_of(context.get("userAgent") or context.get("user_agent")):
        found["client_user_agent"] = agent[:AGENT_CHARS_MAX]
    for key in ("fbc", "fbp"):
        if value := click_id(mail, key):
            found[key] = value
    if "fbc" not in found and (clicked := _fbclid(mail)):
        found["fbc"] = f"fb.1.{event.timestamp // 1000}.{clicked}"
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
    for layer in (mail.event.properties, mail.event.context, *options(mail.event.integrations)):
        value = layer.get(key)
        if value is not None:
            return value
    return None


def options(integrations: Json) -> Iterator[Json]:
    """The options that the sender's `integrations` hold for us."""
    for name, value in integrations.items():
        if isinstance(value, Mapping) and name in INTEGRATIONS:
            yield value


def click_id(mail: Mail, key: str) -> str | None:
    """`fbc` or `fbp`, wherever a page or a server puts the pixel's cookie."""
    context = mail.event.context
    cookies, clients = context.get("cookies"), context.get("clientIds")
    places = (
        mail.event.properties.get(key),
        context.get(key),
        cookies.get(f"_{key}") if isinstance(cookies, Mapping) else None,
        clients.get(key) if isinstance(clients, Mapping) else None,
        *(layer.get(key) for layer in options(mail.event.integrations)),
    )
    return next((text for value in places if (text := _id(value))), None)


def _id(value: Any) -> str | None:
    text = text_of(value) if isinstance(value, str) else None
    return text if text and len(text) <= ID_CHARS_MAX and not any(map(str.isspace, text)) else None


def _fbclid(mail: Mail) -> str | None:
    """The id of the click that led here, its case unchanged."""
    context, properties = mail.event.context, mail.event.properties
    page, clicks = context.get("page"), context.get("clickIds")
    for url in (
        page.get("url") if isinstance(page, Mapping) else None,
        properties.get("url"),
    ):
        if isinstance(url, str) and "fbclid=" in url and (found := _id(_parameter(url, "fbclid"))):
            return found
    return _id(properties.get("fbclid")) or _id(
        clicks.get("fbclid") if isinstance(clicks, Mapping) else None
    )


def _parameter(url: str, name: str) -> str | None:
    try:
        query = urlsplit(url).query
    except ValueError:
        return None
    few = "&".join(query.split("&", QUERY_PARAMETERS_MAX)[:QUERY_PARAMETERS_MAX])
    return next((value for key, value in parse_qsl(few) if key == name), None)


def _layers(mail: Mail) -> list[Json]:
    inner = mail.event.context.get("traits")
    return [
        mail.event.traits,
        inner if isinstance(inner, Mapping) else {},
        mail.event.properties,
        mail.person,
    ]


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return [one for one in (value if isinstance(value, list) else [value]) if text_of(one)]


def _first(layers: list[Json], names: tuple[str, ...]) -> list[Any]:
    """The values of the first layer that has one of *names*."""
    for layer in layers:
        for name in names:
            if found := _values(layer.get(name)):
                return found
    return []


def _names(layers: list[Json]) -> tuple[list[Any], list[Any]]:
    """First and last names: as such, else a whole name of exactly two words."""
    first, last = _first(layers, FIRST_NAMES), _first(layers, LAST_NAMES)
    if not first and not last:
        traits, inner, _, person = layers  # the name in properties is a product's
        for text in map(text_of, _first([traits, inner, person], ("name",))):
            words = (text or "").split()
            if len(words) == 2:
                return words[:1], words[1:]
    return first, last


def _from_address(layers: list[Json], names: tuple[str, ...]) -> list[Any]:
    traits, inner, _, person = layers  # an address in properties may be a shop's
    for layer in (traits, inner, person):
        address = layer.get("address")
        for place in (address, layer) if isinstance(address, Mapping) else (layer,):
            for name in names:
                if found := _values(place.get(name)):
                    return found
    return []


def _country(values: list[Any]) -> str | None:
    text = text_of(values[0]) if values else None
    return country_of(text) if text else None


def _external_ids(mail: Mail, settings: MetaSettings) -> list[str]:
    ids = {"user_id": mail.event.user_id, "anonymous_id": mail.event.anonymous_id}
    values = [ids[name] for name in settings.external_ids]
    if settings.hash_external_id:
        return hashes(values, hashing.identifier)
    found = (text for value in values if (text := text_of(value)))
    # An address stays personal data, whatever it is used as.
    return list(
        dict.fromkeys(
            hashes([text], hashing.identifier)[0] if "@" in text else text for text in found
        )
    )


def _ip(value: Any) -> str | None:
    """*value* if it is a public address: Meta refuses text, and the shop's own helps nobody."""
    if not isinstance(value, str):
        return None
    try:
        found = ip_address(value.strip())
    except ValueError:
        return None
    if found.version == 6 and found.ipv4_mapped:
        found = found.ipv4_mapped
    return None if any(found in network for network in NOT_OUTSIDE) else str(found)


def _device(mail: Mail) -> str | None:
    device = mail.event.context.get("device")
    own = option(mail, "madid")
    if own is None and isinstance(device, Mapping) and device.get("adTrackingEnabled") is not False:
        own = device.get("advertisingId")
    text = _id(own)
    return text.lower() if text and text != NO_DEVICE else None
