"""
Privacy: which properties of an event Meta may not have, and which addresses of pages it may.

A property is personal by its name, all of it and in any spelling (first_name, firstName), or by
what it holds: an e-mail address, or the number of a card. Addresses of pages go without the
parameters that carry such.

Errors   none.
Source   Segment, "Privacy Portal", default matchers; Meta, "Business Tools: prohibited information"
"""

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from collector.destinations.fields import folded
from collector.destinations.meta.settings import MetaSettings
from collector.store.stored import Json

PROPERTIES_MAX = 100  # of one event
NAME_CHARS_MAX = 100
TEXT_CHARS_MAX = 1_000
LIST_MAX = 50
INTEGER_MAX = 10**19
URL_CHARS_MAX = 4_000
PARAMETERS_MAX = 200

_PERSONAL_TEXT = """
address addressline1 addressline2 age allergy billingaddress birthdate birthday birthplace
cardnumber ccnumber certificate citizenship city condition country creditcard cvc cvv
dateofbirth diagnosis disability dob email emailaddress ethnicity firstname fullname gender
givenname iban identification inviteeemail inviteefirstname inviteelastname ip ipaddress
familyname lastname latitude license location longitude mac maidenname medication middlename
mobile mobilephone name nationalid passport password phone phonenumber photo postalcode
postcode procedure race recipient recipientemail region religion salary secret serial sex
sexualorientation sharemessage shippingaddress socialsecuritynumber ssn state street
streetaddress surname taxid telephone token useragent username veteran visa zip zipcode
"""
PERSONAL: Final = frozenset(_PERSONAL_TEXT.split())  # names, folded
_SECRET_PARAMETERS: Final = PERSONAL | {"code", "key", "apikey", "session", "sessionid", "auth"}

# What Meta has a place for, or is about us: never a free property.
_TAKEN_TEXT = """
action_source brand category categories content_category content_ids content_name content_type
contents currency delivery_category event_id fbc fbclid fbp id image_url messaging_channel
net_revenue num_items opt_out order_id orderId predicted_ltv price product_id productId
products quantity query referrer revenue search_string sku status title url value path search
madid subscription_id anon_id partner_id partner_name lead_id fb_login_id ctwa_clid
ig_account_id ig_sid page_id page_scoped_user_id whatsapp_business_account_id item_number
external_id user_id anonymous_id userId anonymousId
application_tracking_enabled advertiser_tracking_enabled traits
"""
_TAKEN: Final = frozenset(_TAKEN_TEXT.split())
_EMAIL = re.compile(r"[^\s@=&?/:;,<>\"'](?:@|%40)[^\s@=&?/:;,<>\"']{1,100}\.[a-zA-Z]{2,}")
_CARD = re.compile(r"(?<![\d.])(?:\d[ -]?){13,18}\d(?![\d.])")


def free_properties(properties: Json, settings: MetaSettings) -> Iterator[tuple[str, Any]]:
    """The properties that Meta has no place for and may have."""
    if settings.free_properties == "none":
        return
    listed = set(settings.free_properties_listed)
    allowed = set(map(folded, settings.impersonal_properties))
    denied = (PERSONAL | set(map(folded, settings.personal_properties))) - allowed
    room = PROPERTIES_MAX
    for name, value in properties.items():
        if settings.free_properties == "listed" and name not in listed:
            continue
        if name in _TAKEN or folded(name) in denied or not 0 < len(name) <= NAME_CHARS_MAX:
            continue
        if _is_plain(value):
            yield name, value
            room -= 1
            if not room:
                return


def is_personal(text: str) -> bool:
    """Whether *text* holds an e-mail address or the number of a card."""
    if ("@" in text or "%40" in text) and _EMAIL.search(text):
        return True
    return any(_is_card(found[0]) for found in _CARD.finditer(text))


def clean_url(url: Any) -> str | None:
    """The address of a page without parameters that carry personal data or secrets."""
    if not isinstance(url, str) or len(url) > URL_CHARS_MAX:
        return None
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host:
        return None
    netloc = parts.netloc.rpartition("@")[2]  # without a password
    query = _clean_query(parts.query) if parts.query else ""
    path = parts.path if not is_personal(parts.path) else "/"
    return urlunsplit((parts.scheme, netloc, path, query, ""))


def _clean_query(query: str) -> str:
    pairs = parse_qsl(
        "&".join(query.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX]), keep_blank_values=True
    )
    kept = [
        (name, value)
        for name, value in pairs
        if folded(name) not in _SECRET_PARAMETERS
        and not is_personal(value)
        and not is_personal(name)
    ]
    return query if kept == pairs else urlencode(kept, quote_via=quote)


def _is_plain(value: Any) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, float):
        return True
    if isinstance(value, int):
        return not _is_card(str(value)) if -INTEGER_MAX < value < INTEGER_MAX else False
    if isinstance(value, str):
        return 0 < len(value) <= TEXT_CHARS_MAX and not is_personal(value)
    if isinstance(value, list):
        return 0 < len(value) <= LIST_MAX and all(
            not isinstance(one, list) and _is_plain(one) for one in value
        )
    return False


def _is_card(text: str) -> bool:
    """Whether *text* is 14 to 19 digits with a card's check digit (Luhn)."""
    digits = [int(c) for c in text if c.isascii() and c.isdecimal()]
    if not 14 <= len(digits) <= 19 or not any(digits):
        return False
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0
