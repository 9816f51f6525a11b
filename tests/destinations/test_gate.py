"""The gate: what may go to a destination, and the word for why something may not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.destinations import gate as gates
from collector.destinations.base import PREFERENCE_EVENT
from collector.destinations.bots import AGENT_CHARS, is_bot
from collector.destinations.gate import REASONS, Gate
from collector.destinations.settings import DestinationSettings, Override
from collector.errors import ConfigError
from collector.event import EVENT_TYPES
from collector.store.stored import StoredEvent
from tests.edge import BROWSER

KINDS = {"shop": "browser", "backend": "server"}
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


def gate(supported: frozenset[str] = EVENT_TYPES, **settings: Any) -> Gate:
    return Gate(DestinationSettings(name="ads", **settings), supported, ("Meta", "Facebook"), KINDS)


def event(type: str = "track", name: str | None = "E", **members: Any) -> StoredEvent:  # noqa: A002
    texts = {
        key: json.dumps(members.pop(key)).encode()
        for key in ("context", "properties", "traits", "integrations")
        if key in members
    }
    members = {"source": "shop", "user_id": "u"} | members
    return StoredEvent(1, 1, 1, None, None, "m", type, name, **texts, **members)


def withheld(found: StoredEvent, **settings: Any) -> str | None:
    reason = gate(**settings)(found)
    assert reason is None or reason in REASONS
    return reason


# --- types, sources, names -----------------------------------------------------------------------


@pytest.mark.parametrize("type", sorted(EVENT_TYPES))
def test_without_filters_everything_goes(type: str) -> None:  # noqa: A002
    assert withheld(event(type)) is None


def test_types_that_the_destination_has_no_use_for_are_told_from_those_filtered_out() -> None:
    narrow = gate(frozenset({"track", "page"}), types=["track"])
    assert narrow(event("track")) is None
    assert narrow(event("page")) == "type_filtered"
    assert narrow(event("identify")) == narrow(event("of tomorrow")) == "type_unsupported"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sources": ["shop"]}, None),
        ({"sources": ["backend"]}, "source_filtered"),
        ({"sources": ["backend", "shop"]}, None),
        ({"sources_except": ["shop"]}, "source_filtered"),
        ({"sources_except": ["backend"]}, None),
        ({"sources": ["shop"], "sources_except": ["shop"]}, "source_filtered"),
    ],
)
def test_sources(settings: dict[str, Any], reason: str | None) -> None:
    assert withheld(event(), **settings) == reason


@pytest.mark.parametrize(
    ("name", "included", "excluded", "passes"),
    [
        ("Order Completed", ["Order Completed"], [], True),
        ("Order Completed", ["order completed"], [], False),
        ("Order Completed", ["Order"], [], False),
        ("Order Completed", ["Order *", "Product ?iewed"], [], True),
        ("Product Viewed", ["Order *", "Product ?iewed"], [], True),
        ("Order Completed", ["Order *"], ["Order C*"], False),
        ("Order Completed", [], ["Order Refunded"], True),
        ("Order Completed", ["*"], ["*"], False),
        ("[Amplitude] Page Viewed", ["[Amplitude] *"], [], True),
        ("A Page Viewed", ["[Amplitude] *"], [], False),
        ("two\nlines", ["two*"], [], True),
        ("a.b", ["a?b"], [], True),
        ("axb", ["a.b"], [], False),
        (None, ["*"], [], True),
        (None, ["?*"], [], False),
    ],
)
def test_names(name: str | None, included: list[str], excluded: list[str], passes: bool) -> None:
    reason = withheld(event(name=name), events=included, events_except=excluded)
    assert reason == (None if passes else "event_filtered")


@pytest.mark.parametrize("type", sorted(EVENT_TYPES - {"track"}))
def test_only_track_events_have_a_name_to_filter(type: str) -> None:  # noqa: A002
    assert withheld(StoredEvent(1, 1, 1, None, None, "m", type, name="Cart"), events=["X"]) is None


def test_the_verdicts_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "NAMES_KEPT_MAX", 3)
    narrow = gate(events=["1*"])
    for number in range(20):
        narrow(event(name=str(number)))
    assert narrow._name_passes.cache_info().currsize == 3  # type: ignore[attr-defined]


# --- consent -------------------------------------------------------------------------------------

ALL_TRUE = {"ads": True, "measure": True}


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        # The rows of Segment's table.
        ({}, None),
        ({"consent": {}}, "consent"),
        ({"consent": {"categoryPreferences": {}}}, "consent"),
        ({"consent": {"categoryPreferences": ALL_TRUE}}, None),
        ({"consent": {"categoryPreferences": ALL_TRUE | {"unknown": False}}}, None),
        ({"consent": {"categoryPreferences": {"ads": True, "measure": False}}}, "consent"),
        ({"consent": {"categoryPreferences": {"ads": True}}}, "consent"),
        ({"consent": {"categoryPreferences": {"Ads": True, "measure": True}}}, "consent"),
        *(
            ({"consent": {"categoryPreferences": ALL_TRUE | {"ads": odd}}}, "consent")
            for odd in ("true", 1, None, {}, [True])
        ),
        # What cannot be read grants nothing.
        *(({"consent": odd}, "consent") for odd in (None, True, "yes", [], [ALL_TRUE], 1)),
        *(
            ({"consent": {"categoryPreferences": odd}}, "consent")
            for odd in (None, True, "ads", ["ads", "measure"])
        ),
        ({"consent": {"tcf": "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"}}, "consent"),
        # The browser's objection to sale is no answer to a consent dialogue.
        ({"consent": {"gpc": True}}, None),
        ({"consent": {"gpc": True, "categoryPreferences": ALL_TRUE}}, None),
        ({"consent": {"gpc": True, "categoryPreferences": {}}}, "consent"),
    ],
)
def test_the_decision_table_of_consent(context: dict[str, Any], reason: str | None) -> None:
    found = event(context=context)
    assert withheld(found, consent=["ads", "measure"]) == reason
    assert withheld(found) is None, "a destination without categories gets everything"


@pytest.mark.parametrize(
    "context", [None, {}, {"consent": {"gpc": True}}, {"page": {"title": "consent"}}]
)
def test_consent_can_be_required(context: dict[str, Any] | None) -> None:
    found = event() if context is None else event(context=context)
    assert withheld(found, consent=["ads"], consent_required=True) == "consent"
    assert withheld(found, consent=["ads"]) is None


@pytest.mark.parametrize(
    ("management", "both", "either"),
    [
        ({"allowedConsentIds": ["a", "b"], "deniedConsentIds": []}, True, True),
        ({"allowedConsentIds": ["a", "b"]}, True, True),
        ({"allowedConsentIds": ["a"], "deniedConsentIds": ["b"]}, False, True),
        ({"allowedConsentIds": ["a", "b"], "deniedConsentIds": ["b"]}, False, True),
        ({"allowedConsentIds": ["a", "b"], "deniedConsentIds": ["a", "b"]}, False, False),
        ({"allowedConsentIds": ["a"], "deniedConsentIds": [""]}, False, True),
        ({"deniedConsentIds": ["a"]}, False, False),
        ({"deniedConsentIds": []}, False, False),
        ({"allowedConsentIds": ["a", "b", 1, None], "deniedConsentIds": [1]}, True, True),
        ({"allowedConsentIds": {"a": True, "b": True}}, False, False),
        ({"allowedConsentIds": ["a", "b"], "deniedConsentIds": "a"}, False, False),
        ({}, False, False),
        (None, False, False),
        ([], False, False),
        ("custom", False, False),
    ],
)
def test_rudderstacks_form_is_read_as_preferences(
    management: object, both: bool, either: bool
) -> None:
    for provider in ("oneTrust", "custom", None):
        told = management
        if isinstance(management, dict) and provider:
            told = management | {"provider": provider}
        for strategy, passes in (("and", both), ("or", either)):
            found = event(context={"consentManagement": told})
            reason = withheld(found, consent=["a", "b"], consent_strategy=strategy)
            assert reason == (None if passes else "consent")


@pytest.mark.parametrize(
    ("provider", "asked", "own", "passes"),
    [
        ("ketch", "or", "and", True),
        ("ketch", "and", "or", False),
        ("ketch", "xor", "or", True),
        ("ketch", None, "and", False),
        ("custom", "or", "and", False),
        ("custom", "and", "or", True),
    ],
)
def test_the_strategy_is_the_events_but_for_custom_providers(
    provider: str, asked: str | None, own: str, passes: bool
) -> None:
    told = {"provider": provider, "resolutionStrategy": asked, "allowedConsentIds": ["a"]}
    found = event(context={"consentManagement": told})
    reason = withheld(found, consent=["a", "b"], consent_strategy=own)
    assert reason == (None if passes else "consent")


@pytest.mark.parametrize(
    ("consent", "passes"),
    [
        ({"categoryPreferences": {"a": True}}, True),
        ({"categoryPreferences": {"a": False}}, False),
        ({"gpc": True}, True),
        ({}, False),
        (None, False),
    ],
)
def test_segments_form_wins_over_rudderstacks(consent: object, passes: bool) -> None:
    for allowed in (["a"], []) if passes and consent != {"gpc": True} else (["a"],):
        told = {"allowedConsentIds": allowed, "deniedConsentIds": []}
        found = event(context={"consent": consent, "consentManagement": told})
        assert withheld(found, consent=["a"]) == (None if passes else "consent")


def test_who_asks_for_consent_hears_of_its_withdrawal() -> None:
    context = {"consent": {"categoryPreferences": {"ads": False}}}
    told = event(name=PREFERENCE_EVENT, context=context)
    assert withheld(told, consent=["ads"]) is None
    assert withheld(event(name=PREFERENCE_EVENT), consent=["ads"], consent_required=True) is None
    assert withheld(event("page", PREFERENCE_EVENT, context=context), consent=["ads"]) == "consent"
    assert withheld(told, consent=["ads"], events=["Order *"]) == "event_filtered"


# --- integrations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("integrations", "reason"),
    [
        ({}, None),
        ({"All": True}, None),
        ({"All": False}, "integrations_off"),
        ({"all": False}, "integrations_off"),
        ({"All": "false"}, "integrations_off"),
        ({"All": False, "Meta": True}, None),
        ({"All": False, "Meta": {"pixel": 1}}, None),
        ({"All": False, "Meta": {}}, None),
        ({"All": False, "Meta": None}, "integrations_off"),
        ({"All": False, "meta": True}, "integrations_off"),
        ({"All": False, "Facebook": True}, None),
        ({"All": False, "ads": True}, None),
        ({"All": False, "Our Ads": True}, None),
        ({"All": False, "Klaviyo": True}, "integrations_off"),
        ({"All": True, "Meta": False}, "integrations_off"),
        ({"Meta": "false"}, "integrations_off"),
        ({"Meta": None}, None),
        ({"meta": False}, None),
        ({"ads": False}, "integrations_off"),
        ({"Our Ads": False}, "integrations_off"),
        ({"Meta": True, "ads": False}, "integrations_off"),
        ({"Klaviyo": False}, None),
    ],
)
def test_what_the_sender_asks_for(integrations: dict[str, Any], reason: str | None) -> None:
    assert withheld(event(integrations=integrations), integrations=["Our Ads"]) == reason


def test_the_sender_cannot_ask_for_what_the_person_denied() -> None:
    context = {"consent": {"categoryPreferences": {"ads": False}}}
    found = event(context=context, integrations={"All": True, "Meta": True, "ads": {"x": 1}})
    assert withheld(found, consent=["ads"]) == "consent"


# --- opt-out -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpc", "objects"),
    [(True, True), ("true", True), ("1", True), (1, True), (False, False), (None, False),
     ("false", False), ({}, False), ([True], False)],
)  # fmt: skip
def test_an_objection_to_sale_concerns_advertising_only(gpc: object, objects: bool) -> None:
    found = event(context={"consent": {"gpc": gpc}})
    for how, reason, restricted in (
        ("skip", "opt_out", False),
        ("restrict", None, True),
        ("send", None, False),
    ):
        advertising = gate(purpose="advertising", on_opt_out=how)
        assert advertising(found) == (reason if objects else None)
        assert advertising.restricts(found) == (restricted and objects)
        analytics = gate(purpose="analytics", on_opt_out=how)
        assert analytics(found) is None
        assert not analytics.restricts(found)


@pytest.mark.parametrize("context", [None, {}, {"consent": "gpc"}, {"gpc": True}])
def test_who_says_nothing_does_not_object(context: dict[str, Any] | None) -> None:
    found = event() if context is None else event(context=context)
    advertising = gate(purpose="advertising")
    assert advertising(found) is None
    assert not advertising.restricts(found)


# --- bots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "agent",
    [
        CRAWLER,
        "Mozilla/5.0",
        " Mozilla/5.0 ",
        "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
        "Mozilla/5.0 (Windows NT 10.0) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0",
        "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
        "Barracuda Sentinel (EE)",
        "proofpoint-urldefense",
        "MimeCast",
        "CiscoSecureEmail",
        "TMES",
        "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b",
        "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "facebookexternalhit/1.1",
        "Twitterbot/1.0",
        "LinkedInBot/1.0",
        "WhatsApp/2.19.81 A",
        "TelegramBot (like TwitterBot)",
        "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
        "python-requests/2.31.0",
        "curl/8.5.0",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/126.0.0.0 Safari/537.36",
    ],
)
def test_machines_are_told_by_their_user_agent(agent: str) -> None:
    found = event(context={"userAgent": agent})
    assert withheld(found, bots="skip") == "bot"
    assert withheld(found) is None


@pytest.mark.parametrize(
    "agent",
    [
        BROWSER,
        "Mozilla/5.0 (Linux; Android 9; CUBOT_NOTE_S) Chrome/81.0.4044.138 Mobile Safari/537.36",
        "Mozilla/4.0 (compatible; MSIE 7.0; Microsoft Outlook 16.0.5197; ms-office; MSOffice 16)",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/21A329 [FBAN/FBIOS;FBAV/43]",
        "MyApp/1.0 CFNetwork/1410 Darwin/22.6.0",
    ],
)
def test_persons_are_not(agent: str) -> None:
    assert withheld(event(context={"userAgent": agent}), bots="skip") is None


@pytest.mark.parametrize(
    ("source", "context", "reason"),
    [
        ("shop", {}, "bot"),
        ("gone", {}, "bot"),
        ("backend", {}, None),
        ("shop", {"library": {"name": "analytics-python"}}, None),
        ("shop", {"library": {"name": "@jitsu/js", "env": "node"}}, None),
        ("shop", {"library": {"name": "analytics.js"}}, "bot"),
        ("shop", {"library": {"name": ["odd"]}}, "bot"),
        ("shop", {"library": "odd"}, "bot"),
        ("shop", {"device": {"id": "7"}}, None),
        ("shop", {"device": None}, "bot"),
    ],
)
def test_only_a_persons_device_is_judged_by_its_user_agent(
    source: str, context: dict[str, Any], reason: str | None
) -> None:
    for agent in (CRAWLER, "okhttp/4.9.2", "python-requests/2.31.0"):
        found = event(source=source, context=context | {"userAgent": agent})
        assert withheld(found, bots="skip") == reason


@pytest.mark.parametrize("source", ["shop", "backend"])
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"context": {"isBot": True}}, "bot"),
        ({"context": {"isBot": "true"}}, "bot"),
        ({"context": {"isBot": False}}, None),
        ({"context": {"bot": {"name": "Googlebot", "url": ""}}}, "bot"),
        ({"context": {"bot": "Googlebot"}}, "bot"),
        ({"context": {"bot": True}}, "bot"),
        ({"context": {"bot": {}}}, None),
        ({"context": {"bot": False}}, None),
        ({"context": {"bot": "false"}}, None),
        ({"properties": {"machine_open": True}}, "bot"),
        ({"properties": {"machine_open": "true"}}, "bot"),
        ({"properties": {"machine_open": False}}, None),
        ({"properties": {"note": "machine_open"}}, None),
    ],
)
def test_what_the_sender_says_of_bots_counts(
    source: str, members: dict[str, Any], reason: str | None
) -> None:
    assert withheld(event(source=source, **members), bots="skip") == reason


def test_a_mail_is_not_opened_without_a_user_agent() -> None:
    for name in ("Email Opened", "Email Link Clicked"):
        for context in ({}, {"userAgent": ""}, {"userAgent": 7}):
            assert withheld(event(name=name, context=context), bots="skip") == "bot"
        assert withheld(event(name=name, source="backend"), bots="skip") is None
    assert withheld(event(name="Order Completed"), bots="skip") is None


def test_verdicts_on_user_agents_are_kept_and_bounded() -> None:
    is_bot.cache_clear()
    for size in (600, 60_000):
        found = event(context={"userAgent": BROWSER + "x" * size})
        assert withheld(found, bots="skip") is None
    info = is_bot.cache_info()
    assert (info.hits, info.misses) == (1, 1)
    assert AGENT_CHARS * (info.maxsize or 0) < 10_000_000


# --- sampling ------------------------------------------------------------------------------------


def test_a_sample_is_of_people_and_the_same_every_time() -> None:
    few, more = gate(sample_rate=0.1), gate(sample_rate=0.3)
    people = [f"user-{number}" for number in range(5_000)]
    chosen = {person for person in people if few(event(user_id=person)) is None}
    assert 400 < len(chosen) < 600
    assert chosen < {person for person in people if more(event(user_id=person)) is None}
    for person in people[:500]:
        for type_ in ("page", "identify"):
            assert (gate(sample_rate=0.1)(event(type_, user_id=person)) is None) == (
                person in chosen
            )
        by_device = event(user_id=None, anonymous_id=person)
        assert (few(by_device) is None) == (person in chosen)
        assert (few(event(user_id=person, anonymous_id="x")) is None) == (person in chosen)


def test_who_is_nobody_is_sampled_by_message() -> None:
    few = gate(sample_rate=0.5)
    found = [
        few(StoredEvent(1, 1, 1, None, None, f"m{number}", "track", "E", source="shop"))
        for number in range(1_000)
    ]
    assert 400 < found.count("sampled_out") < 600


def test_the_hash_does_not_change_between_versions() -> None:
    few = gate(sample_rate=0.1)
    chosen = [n for n in range(50) if few(event(user_id=f"user-{n}")) is None]
    assert chosen == [4, 6, 9, 18, 46]


# --- order, settings, anything -------------------------------------------------------------------


def test_the_first_that_objects_gives_the_reason() -> None:
    context: dict[str, Any] = {
        "userAgent": CRAWLER,
        "consent": {"categoryPreferences": {"ads": False}, "gpc": True},
    }
    settings: dict[str, Any] = {
        "types": ["page"], "sources": ["backend"], "events": ["X"], "bots": "skip",
        "consent": ["ads"], "purpose": "advertising", "on_opt_out": "skip", "sample_rate": 1e-12,
    }  # fmt: skip
    found = event(context=context, integrations={"All": False})
    reasons = []
    for setting in ("types", "sources", "events", "bots", "consent", None, "purpose"):
        reasons.append(withheld(found, **settings))
        if setting is None:
            found = event(context=context)
        else:
            del settings[setting]
    assert [*reasons, withheld(found, **settings)] == [
        *("type_filtered", "source_filtered", "event_filtered", "bot", "consent"),
        *("integrations_off", "opt_out", "sampled_out"),
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"types": ["alias"]}, ("types", "alias", "leave it out")),
        ({"sources": ["shp"]}, ("sources", "shp", "backend, shop")),
        ({"sources_except": ["shp"]}, ("sources_except", "shp", "backend, shop")),
        ({"consent_required": True}, ("consent_required", "consent")),
    ],
)
def test_a_filter_that_can_never_be_meant_stops_the_start(
    settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        gate(frozenset({"track"}), **settings)
    assert all(word in caught.value.detail for word in ("destination ads", *words))


def test_context_is_not_decoded_unless_a_filter_needs_it() -> None:
    found = event(context={"page": {"url": "x"}}, properties={}, integrations={"All": True})
    for settings in ({}, {"sample_rate": 0.99999}, {"consent": ["a"]}, {"purpose": "advertising"}):
        filtered = gate(**settings)
        filtered(found)
        filtered.restricts(found)
        assert found._context is None


NAMES = ("consent", "categoryPreferences", "gpc", "consentManagement", "allowedConsentIds",
         "deniedConsentIds", "provider", "resolutionStrategy", "userAgent", "isBot", "bot",
         "library", "name", "device", "machine_open", "a", "All", "Meta", "ads")  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats(-2, 2)
    | st.sampled_from(["", "a", "or", "custom", "true"]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
objects = st.dictionaries(st.sampled_from(NAMES), anything, max_size=4)
STRICT = gate(
    bots="skip", consent=["a"], purpose="advertising", on_opt_out="skip", sample_rate=0.5,
    events=["*"], consent_strategy="or",
)  # fmt: skip


@given(objects, objects, objects, st.text(max_size=3), st.sampled_from(sorted(EVENT_TYPES)))
def test_whatever_an_event_carries_there_is_a_verdict(
    context: dict[str, Any],
    properties: dict[str, Any],
    integrations: dict[str, Any],
    name: str,
    type_: str,
) -> None:
    found = event(type_, name, context=context, properties=properties, integrations=integrations)
    assert STRICT(found) in {None, *REASONS}
    assert isinstance(gate(purpose="advertising").restricts(found), bool)


@given(objects)
def test_nothing_but_a_grant_is_a_grant(context: dict[str, Any]) -> None:
    """Whoever asks for a category gets an event only if the event says true, or says nothing."""
    if withheld(event(context=context), consent=["a"], consent_required=True) is not None:
        return
    consent, management = context.get("consent"), context.get("consentManagement")
    if isinstance(consent, dict) and "categoryPreferences" in consent:
        assert consent["categoryPreferences"]["a"] is True
    else:
        assert "a" in management["allowedConsentIds"]
        assert "a" not in (management.get("deniedConsentIds") or ())


# --- documentation -------------------------------------------------------------------------------


def test_every_reason_and_filter_is_explained() -> None:
    page = Path(__file__).parents[2] / "docs" / "destinations" / "filters.md"
    explained = set(re.findall(r"`(\w+)", page.read_text()))
    settings = list(DestinationSettings.__struct_fields__)
    filters = settings[settings.index("types") : settings.index("overrides") + 1]
    assert len(filters) > 12
    assert {*REASONS, *filters, *Override.__struct_fields__} - explained <= {"once"}
