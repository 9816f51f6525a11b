"""
Consent: what the person allowed, as far as the event says.

    context.consent.categoryPreferences     {"advertising": true, "analytics": false}    Segment
    context.consentManagement               {allowedConsentIds, deniedConsentIds, …}     RudderStack
    context.consent.gpc                     true: no sale, no sharing                    Sec-GPC

Fail closed: a category counts as granted only if it is `true`, and a consent that is there but
empty, or cannot be read, grants nothing. Segment delivers an event with an empty `consent`, or
not, depending on the page of its documentation; here it is withheld. A consent with no member but
`gpc` says nothing about categories: it is the browser's word, not a consent dialogue's.

RudderStack's form is read as the same preferences: an allowed id is true, a denied one false, one
in both lists false. Its strategy `or` asks for one of the categories instead of all; provider
`custom` leaves the choice between them to the destination, any other to the event.

Shapes   category ids as they are, upper and lower case distinguished.
Errors   none, whatever stands there.
Source   Segment, "Consent in Segment" and "Consent in Segment Connections"; RudderStack, "Consent
         Management", and the source of its server
"""

from collections.abc import Sequence
from typing import Any, Final

from collector.store.stored import Json

NOT_THERE: Final = object()


def granted(context: Json, categories: Sequence[str], strategy: str) -> bool | None:
    """Whether *context* grants *categories*; None if it says nothing about any category."""
    consent = context.get("consent", NOT_THERE)
    if consent is not NOT_THERE:
        if not isinstance(consent, dict) or not consent:
            return False
        if "categoryPreferences" in consent:
            preferences = consent["categoryPreferences"]
            return isinstance(preferences, dict) and _all(preferences, categories)
    management = context.get("consentManagement", NOT_THERE)
    if management is not NOT_THERE:
        return _granted_by(management, categories, strategy)
    if consent is NOT_THERE or (isinstance(consent, dict) and consent.keys() == {"gpc"}):
        return None
    return False  # a framework's string that we do not read


def _granted_by(management: Any, categories: Sequence[str], strategy: str) -> bool:
    """The same for RudderStack's form."""
    if not isinstance(management, dict):
        return False
    denied = management.get("deniedConsentIds")
    if denied is not None and not isinstance(denied, list):
        return False
    preferences = dict.fromkeys(_ids(management.get("allowedConsentIds")), True)
    preferences |= dict.fromkeys(_ids(denied), False)
    asked = management.get("resolutionStrategy")
    if management.get("provider") != "custom" and asked in ("and", "or"):
        strategy = asked
    if strategy == "or":
        return any(preferences.get(category) for category in categories)
    return _all(preferences, categories)


def _ids(found: Any) -> list[str]:
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _all(preferences: dict[str, Any], categories: Sequence[str]) -> bool:
    return all(preferences.get(category) is True for category in categories)


def opted_out(context: Json) -> bool:
    """Whether the person objects to sale and sharing of personal data."""
    consent = context.get("consent")
    # In an image address every value is text.
    return isinstance(consent, dict) and consent.get("gpc") in (True, "true", "1")
