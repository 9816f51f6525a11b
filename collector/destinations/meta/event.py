"""
Event: one of ours as one of Meta's server events.

    StoredEvent ─▶ {event_name, event_time, event_id, action_source, user_data, custom_data, …}

Refused   unknown_action_source, missing_identifier, missing_required:<field>, invalid_currency
Skipped   no_mapping: Meta has no name for it, and it is not to go under its own
Units     event_time in seconds since 1970, UTC.
Source    Meta, "Conversions API: Server Event Parameters"
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from collector.destinations import fields
from collector.destinations.base import PREFERENCE_EVENT, Mail, Refused, Skipped
from collector.destinations.meta.custom import custom_data_of
from collector.destinations.meta.hashing import text_of
from collector.destinations.meta.names import OTHER, PAGE_VIEW, PURCHASE, Names
from collector.destinations.meta.person import is_matchable, option, user_data_of
from collector.destinations.meta.privacy import clean_url
from collector.destinations.meta.settings import ActionSource, MetaSettings
from collector.store.stored import Json

ACTION_SOURCES: Final = frozenset(get_args(ActionSource))
EVENT_ID_CHARS_MAX = 200
MOBILE: Final = {"ios": "i2", "ipados": "i2", "iphone os": "i2", "android": "a2"}
EXTINFO_CHARS_MAX = 100
ELSEWHERE: Final = "for a source that is no website set `action_sources`"


def names_of(settings: MetaSettings) -> Names:
    """The names that events have at the dataset of *settings*."""
    return Names(
        settings.event_names,
        unknown=OTHER if settings.offline else None,
        custom=settings.custom_events,
    )


def server_event(
    mail: Mail, settings: MetaSettings, names: Names
) -> dict[str, Any] | Skipped | Refused:
    """The server event for *mail*."""
    event, properties = mail.event, mail.event.properties
    name = _name(mail, settings, names)
    if name is None:
        return Skipped("no_mapping")
    action_source = _action_source(mail, settings)
    if action_source not in ACTION_SOURCES:
        return Refused(
            "unknown_action_source",
            f"`properties.action_source` is none of {', '.join(sorted(ACTION_SOURCES))}",
        )
    user = user_data_of(mail, settings, action_source)
    custom = custom_data_of(mail, name, settings)
    found: dict[str, Any] = {
        "event_name": name,
        "event_time": event.timestamp // 1_000_000,
        "event_id": event_id_of(mail, name, settings),
        "action_source": action_source,
    }
    if url := clean_url(fields.url(mail)):
        found["event_source_url"] = url
    if referrer := clean_url(fields.referrer(mail)):
        found["referrer_url"] = referrer
    if action_source == "app":
        found["app_data"] = _app_data(mail)
    if channel := text_of(option(mail, "messaging_channel")):
        found["messaging_channel"] = channel
    if isinstance(opted := option(mail, "opt_out"), bool):
        found["opt_out"] = opted
    if mail.restricted or settings.ldu_always:
        found["data_processing_options"] = ["LDU"]
        found["data_processing_options_country"] = settings.ldu_country
        found["data_processing_options_state"] = settings.ldu_state
    found["user_data"] = user
    if custom:
        found["custom_data"] = custom
    return _lacking(found, properties, settings) or found


def event_id_of(mail: Mail, name: str, settings: MetaSettings) -> str:
    """What the pixel on the page has to send as `eventID` for Meta to see that both are one."""
    own = text_of(option(mail, "event_id"))
    if own is None and settings.event_id == "order_id" and name == PURCHASE:
        own = fields.order_id(mail)
    return (own or mail.event.message_id)[:EVENT_ID_CHARS_MAX]


def _name(mail: Mail, settings: MetaSettings, names: Names) -> str | None:
    event = mail.event
    if event.type == "track":
        # Consent is told to those who ask for it, which Meta does not.
        if event.event is None or event.event == PREFERENCE_EVENT:
            return None
        return names.of(event.event)
    seen = event.type in {"page", "screen"} and settings.page_views and not settings.offline
    return PAGE_VIEW if seen else None


def _action_source(mail: Mail, settings: MetaSettings) -> str:
    own = option(mail, "action_source")
    if own is not None:
        return own.strip().lower() if isinstance(own, str) else ""
    if found := settings.action_sources.get(mail.event.source):
        return found
    if settings.action_source != "auto":
        return settings.action_source
    if settings.offline:
        return "physical_store"
    # A phone's app says which system it runs on and has no page; a phone's browser has one.
    in_app = _system(mail.event.context) is not None and "page" not in mail.event.context
    return "app" if in_app else "website"


def _system(context: Json) -> str | None:
    for part, key in (("os", "name"), ("device", "type")):
        layer = context.get(part)
        text = layer.get(key) if isinstance(layer, Mapping) else None
        if isinstance(text, str) and (found := MOBILE.get(text.strip().lower())):
            return found
    return None


def _app_data(mail: Mail) -> dict[str, Any]:
    """What Meta asks of events in apps: whether the phone may be tracked, and what it is."""
    context = mail.event.context
    app, device, network, os, screen = (
        layer if isinstance(layer := context.get(part), Mapping) else {}
        for part in ("app", "device", "network", "os", "screen")
    )
    system = _system(context)
    version = text_of(os.get("version"))
    found: dict[str, Any] = {
        # Without a word from the phone nobody was asked.
        "advertiser_tracking_enabled": int(
            _flag(mail, "advertiser_tracking_enabled", device.get("adTrackingEnabled"))
        ),
        "application_tracking_enabled": int(_flag(mail, "application_tracking_enabled", True)),
    }
    if system and version:
        facts = (
            system,
            app.get("namespace"),
            app.get("version"),
            app.get("build"),
            version,
            device.get("model"),
            context.get("locale"),
            "",  # abbreviation of the timezone: SDKs know its name
            network.get("carrier"),
            screen.get("width"),
            screen.get("height"),
            screen.get("density"),
            "",  # cores
            "",  # storage
            "",  # free storage
            context.get("timezone"),
        )
        found["extinfo"] = [_fact(fact) for fact in facts]
    return found


def _flag(mail: Mail, key: str, otherwise: Any) -> bool:
    own = option(mail, key)
    value = otherwise if own is None else own
    return value is True or value in (1, "1", "true")


def _fact(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return str(value)
    return (text_of(value) or "")[:EXTINFO_CHARS_MAX]


def _lacking(found: dict[str, Any], properties: Json, settings: MetaSettings) -> Refused | None:
    """Why Meta would refuse *found*, and with it all that is sent together with it."""
    user, custom = found["user_data"], found.get("custom_data", {})
    if found["action_source"] == "website":
        if "client_user_agent" not in user:
            return _missing(
                "client_user_agent", f"a website's event needs `context.userAgent`; {ELSEWHERE}"
            )
        if "event_source_url" not in found:
            return _missing(
                "event_source_url", f"a website's event needs `context.page.url`; {ELSEWHERE}"
            )
    if found["action_source"] == "app" and "extinfo" not in found["app_data"]:
        return _missing(
            "extinfo", "an event of an app needs `context.os.name` and `context.os.version`"
        )
    if not is_matchable(user):
        return Refused(
            "missing_identifier",
            "nothing in it tells Meta whose it is: send an email, a phone, an id or a click id",
        )
    if found["event_name"] == PURCHASE:
        if "currency" not in custom:
            if properties.get("currency") is None:
                return _missing("currency", "send `properties.currency`, or set a default")
            return Refused("invalid_currency", "`properties.currency` is no code of ISO 4217")
        if "value" not in custom:
            return _missing("value", "a purchase needs a number as `revenue`, `value` or `total`")
    return None


def _missing(field: str, hint: str) -> Refused:
    return Refused(f"missing_required:{field}", hint)
