"""
Campaign: UTM parameters and click ids of the page's address, where the SDK did not read them.

    utm_campaign=spring      context.campaign.name
    utm_<x>=…                context.campaign.<x>
    gclid, gbraid, wbraid, fbclid, ttclid, msclkid      context.clickIds.<name>

Shapes   the first of repeated parameters counts, empty ones do not; values are decoded once and
         cut at 255 characters.
Errors   none: an address that cannot be read has no parameters.
Source   Segment, "Spec: Common Fields", section Context; click ids as the ad networks name them
"""

from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET

from collector.event import NOTHING
from collector.refine.draft import Draft

CLICK_IDS = frozenset({"gclid", "gbraid", "wbraid", "fbclid", "ttclid", "msclkid"})
EMPTY = {b"{}", b"null"}  # as SDKs write it that looked for none, or found none
VALUE_CHARS = 255
PARAMETERS_MAX = 200


_encode = msgspec.json.Encoder().encode


def campaign(draft: Draft) -> None:
    """Add context.campaign and context.clickIds."""
    context = draft.context
    page = context.page
    if page is UNSET:
        referrer = draft.call.envelope.referrer if draft.members else None
        query = _query(referrer or "")
    elif page is None:
        return
    else:
        query = _query(page.url or "")
        if not query and page.search:
            query = _query("?" + page.search.removeprefix("?"))
    if not query:
        return  # as on most pages
    folded = query.lower()
    wanted = "utm_" in folded and (context.campaign is NOTHING or bytes(context.campaign) in EMPTY)
    clicked = ("clid" in folded or "braid" in folded or "clkid" in folded) and (
        context.clickIds is NOTHING or bytes(context.clickIds) in EMPTY
    )
    if not wanted and not clicked:
        return
    utm, clicks = read(query)
    if utm and wanted:
        draft.members.append(b'"campaign":' + _encode(utm))
    if clicks and clicked:
        draft.members.append(b'"clickIds":' + _encode(clicks))


def _query(url: str) -> str:
    return url.partition("?")[2].partition("#")[0]


def read(query: str) -> tuple[dict[str, str], dict[str, str]]:
    """The campaign and the click ids in a query string."""
    utm: dict[str, str] = {}
    clicks: dict[str, str] = {}
    # Cut before parsing: a query of a million ampersands is nobody's campaign.
    parts = "&".join(query.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX])
    for name, value in parse_qsl(parts, errors="replace"):
        key = name.lower()
        text = value.replace("\0", "")[:VALUE_CHARS]
        if key.startswith("utm_") and len(key) <= 64:
            key = "name" if key == "utm_campaign" else key[4:].replace("\0", "")
            if key and text:
                utm.setdefault(key, text)
        elif key in CLICK_IDS and text:
            clicks.setdefault(key, text)
    return utm, clicks
