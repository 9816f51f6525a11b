"""
Events: what Snowplow's trackers write, in the shape of everybody's events.

    pv   page view              page
    pp   page ping              track "Page Ping"
    se   structured event       track, named by its action
    ue   self-describing event  track, named by its schema; a screen_view is a screen
    tr   transaction            track "Order Completed"
    ti   item of one            track "Transaction Item"

Shapes   parameters are text, whatever they mean; JSON stands in them as it is (`ue_pr`, `co`) or
         in url-safe base64 (`ue_px`, `cx`). Entities are kept as `context.snowplow.contexts`; what
         has no place of its own is there too, by the name of its column at Snowplow.
Units    dtm, stm and ttm are milliseconds since 1970: made, sent, and meant.
Errors   Invalid.
Source   Snowplow, "Snowplow Tracker Protocol"; recorded requests in tests/wire
"""

import re
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw

from collector.errors import BadRequest
from collector.event import Problem
from collector.ingest.pixel import unbase64
from collector.ingest.senders.members import Invalid, Members, elements, members, read, text

Event = dict[str, object]
Parameters = dict[str, str]

NUMBER = re.compile(r"-?(0|[1-9]\d{0,18})(\.\d{1,18})?")
SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
SCHEMA = re.compile(r"iglu:[^/]+/([^/]+)/")

COLUMNS = {
    "aid": "app_id",
    "p": "platform",
    "tna": "name_tracker",
    "tv": "v_tracker",
    "duid": "domain_userid",
    "nuid": "network_userid",
    "tnuid": "network_userid",
    "vid": "domain_sessionidx",
    "sid": "domain_sessionid",
    "fp": "user_fingerprint",
    "vp": "viewport",
    "ds": "document_size",
    "cd": "color_depth",
    "cs": "charset",
    "cookie": "cookie",
}
PINGS = {"pp_mix": "min_x", "pp_max": "max_x", "pp_miy": "min_y", "pp_may": "max_y"}
STRUCTURED = {"se_la": "label", "se_pr": "property", "se_va": "value"}
ORDER = {
    "tr_id": "order_id",
    "tr_af": "affiliation",
    "tr_tt": "total",
    "tr_tx": "tax",
    "tr_sh": "shipping",
    "tr_ci": "city",
    "tr_st": "state",
    "tr_co": "country",
    "tr_cu": "currency",
}
ITEM = {
    "ti_id": "order_id",
    "ti_sk": "sku",
    "ti_nm": "name",
    "ti_ca": "category",
    "ti_pr": "price",
    "ti_qu": "quantity",
    "ti_cu": "currency",
}
NUMBERS = {"se_va", "tr_tt", "tr_tx", "tr_sh", "ti_pr", "ti_qu", *PINGS}


def event_of(sent: Parameters, *, depth_max: int, keyed: bool = False) -> Event:
    """The event that *sent* says; *keyed*: its app id is a write key, and is not kept."""
    left = dict(sent)
    if keyed:
        left.pop("aid", None)
    kind = left.pop("e", "")
    own: Event = {}
    event = _told(kind, left, own, depth_max)
    contexts = _json(left, "cx", "co", depth_max)
    if contexts is not None:
        own["contexts"] = contexts.get("data", Raw(b"[]"))
    for name, wanted in (("eid", "messageId"), ("uid", "userId")):
        if value := left.pop(name, ""):
            event[wanted] = value
    anonymous = left.get("duid") or _session_user(contexts) or left.get("nuid") or left.get("tnuid")
    if anonymous:
        event["anonymousId"] = anonymous
    for name, wanted in (("dtm", "originalTimestamp"), ("stm", "sentAt"), ("ttm", "timestamp")):
        if value := left.pop(name, ""):
            event[wanted] = value
    if event["type"] == "page":
        event["properties"] = _page(left)
        if title := left.get("page"):
            event["name"] = title
    context = _context(left)
    own = {COLUMNS.get(name, name): value for name, value in left.items() if value} | own
    if own:
        context["snowplow"] = own
    return event | ({"context": context} if context else {})


def _told(kind: str, left: Parameters, own: Event, depth_max: int) -> Event:
    """Type, name and properties; takes from *left* what it uses."""
    match kind:
        case "pv":
            return {"type": "page"}
        case "pp":
            return _track("Page Ping", _taken(left, PINGS))
        case "se":
            name, category = left.pop("se_ac", ""), left.pop("se_ca", "")
            properties = {"category": category} | _taken(left, STRUCTURED)
            return _track(name, properties) | ({"category": category} if category else {})
        case "ue":
            return _described(left, own, depth_max)
        case "tr":
            return _track("Order Completed", _taken(left, ORDER))
        case "ti":
            return _track("Transaction Item", _taken(left, ITEM))
        case "":
            raise Invalid(Problem("missing_type", "an event needs its type: add e"), "e")
    raise Invalid(Problem("unknown_type", "e must be one of pv, pp, se, ue, tr, ti"), "e")


def _track(name: str, properties: Event) -> Event:
    return {"type": "track", "event": name, "properties": properties}


def _taken(left: Parameters, names: dict[str, str]) -> Event:
    return {
        wanted: _number(value) if name in NUMBERS else value
        for name, wanted in names.items()
        if (value := left.pop(name, ""))
    }


def _number(value: str) -> object:
    """A number as it is written, or the text if it is none."""
    return Raw(value.encode()) if NUMBER.fullmatch(value) else value


def _described(left: Parameters, own: Event, depth_max: int) -> Event:
    """A self-describing event: its schema names it, its data are the properties."""
    outer = _json(left, "ue_px", "ue_pr", depth_max)
    if outer is None:
        detail = "a self-describing event needs its data: add ue_pr or ue_px"
        raise Invalid(Problem("missing_event", detail), "ue_pr")
    inner = members(outer, "data", "ue_pr")
    schema = text(inner, "schema", "ue_pr") or ""
    found = SCHEMA.match(schema)
    properties = members(inner, "data", "ue_pr")
    own["schema"] = schema
    name = found[1] if found else schema
    if name == "screen_view":
        screen = {"type": "screen", "name": text(properties, "name"), "properties": properties}
        return {name: value for name, value in screen.items() if value is not None}
    return _track(name, dict(properties))


def _json(left: Parameters, encoded: str, plain: str, depth_max: int) -> Members | None:
    """The JSON object in one of two parameters."""
    data, packed = left.pop(plain, "").encode(errors="replace"), left.pop(encoded, "")
    if packed:
        try:
            data = unbase64(packed.encode(errors="replace"))
        except BadRequest as exc:
            raise Invalid(Problem("bad_base64", f"{encoded} is no base64: encode it anew")) from exc
    return read(data, depth_max) if data.strip() else None


def _session_user(contexts: Members | None) -> str | None:
    """The installation's id, which apps have in place of a cookie's."""
    for entity in elements(contexts or {}, "data"):
        if b"/client_session/" in bytes(entity):
            data = members(members({"co": entity}, "co"), "data", "co")
            return text(data, "userId", "co")
    return None


def _page(left: Parameters) -> Event:
    page: Event = {}
    for name, wanted in (("url", "url"), ("page", "title"), ("refr", "referrer")):
        if value := left.get(name):
            page[wanted] = value
    try:
        parts = urlsplit(left.get("url", ""))
    except ValueError:  # brackets that hold no address
        return page
    if parts.path:
        page["path"] = parts.path
    if parts.query:
        page["search"] = f"?{parts.query}"
    return page


def _context(left: Parameters) -> Event:
    """What every vendor's context has; takes from *left* what it uses."""
    context: Event = {}
    if page := _page(left):
        context["page"] = page
        for name in ("url", "page", "refr"):
            left.pop(name, None)
    for name, wanted in (("ua", "userAgent"), ("lang", "locale"), ("tz", "timezone"), ("ip", "ip")):
        if value := left.pop(name, ""):
            context[wanted] = value
    if size := SIZE.fullmatch(left.get("res", "")):
        del left["res"]
        context["screen"] = {"width": int(size[1]), "height": int(size[2])}
    tracker, dash, version = left.get("tv", "").partition("-")
    if dash:
        context["library"] = {"name": f"snowplow-{tracker}", "version": version}
    return context


def parameters_of(element: bytes | Raw, depth_max: int) -> Parameters:
    """An event of a POST body: all values are text, or should be."""
    found: Parameters = {}
    for name, raw in read(bytes(element), depth_max).items():
        literal = bytes(raw)
        if literal[:1] == b'"':
            found[name] = text({name: raw}, name) or ""
        elif literal != b"null":
            found[name] = msgspec.json.encode(raw).decode(errors="replace")
    return found
