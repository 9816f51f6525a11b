"""
The gate: which events may go to a destination, decided before they are mapped.

    type ─▶ source ─▶ name ─▶ bots ─▶ consent ─▶ integrations ─▶ opt-out ─▶ sampling ─▶ may go

The first that objects gives the reason, and none revives what another withheld: `integrations` that
ask for a destination do not replace consent. The gate sees the event as it was sent, before
overrides.

Shapes   a reason is one of REASONS, so that metrics have bounded labels.
Cost     without filters under a microsecond an event. `context` is decoded only for a destination
         that asks for consent, skips bots or has an advertising purpose, and not for an event that
         does not contain the word; what is decoded is shared by all couriers of the event.
Bounds   the verdict on 1,024 names of events is kept.
Errors   ConfigError at start for a filter that can never be meant.
Source   Segment, "Filtering data", "Consent in Segment Connections"; `docs/destinations/filters.md`
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import xxhash

from collector.destinations.base import PREFERENCE_EVENT
from collector.destinations.bots import by_bot
from collector.destinations.consent import granted, opted_out
from collector.destinations.settings import DestinationSettings
from collector.errors import ConfigError
from collector.store.stored import StoredEvent

NAMES_KEPT_MAX: Final = 1_024

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "type_unsupported": "the destination has no use for events of this type",
        "type_filtered": "`types` does not list the type",
        "source_filtered": "`sources` or `sources_except` leaves the source out",
        "event_filtered": "`events` or `events_except` leaves the name out",
        "bot": "a crawler, a mail proxy or a scanner caused it, and `bots` is skip",
        "consent": "the person did not grant all categories in `consent`",
        "integrations_off": "the sender turned the destination off in `integrations`",
        "opt_out": "the person opted out of sale and sharing, and `on_opt_out` is skip",
        "sampled_out": "`sample_rate` leaves the person out",
    }
)

Check = Callable[[StoredEvent], str | None]


class Gate:
    """The gate of one destination: call it with an event for the reason to withhold it, or None."""

    def __init__(
        self,
        settings: DestinationSettings,
        types: Collection[str],
        integrations: Iterable[str],
        kinds: Mapping[str, str],
    ) -> None:
        """*types* and *integrations* as the destination's class has them; *kinds* of all sources"""
        _check(settings, types, kinds)
        self._supported = frozenset(types)
        self._types = self._supported & set(settings.types or types)
        self._sources = frozenset(settings.sources)
        self._sources_except = frozenset(settings.sources_except)
        self._name_passes = _name_filter(settings.events, settings.events_except)
        self._kinds = kinds  # itself: a reload may change it
        self._categories = tuple(settings.consent)
        self._consent_required = settings.consent_required
        self._strategy = settings.consent_strategy
        self._integrations = tuple(
            dict.fromkeys((settings.name, *settings.integrations, *integrations))
        )
        self._sampled_below = int(settings.sample_rate * 2**64)
        advertising = settings.purpose == "advertising"
        self._restricts = advertising and settings.on_opt_out == "restrict"
        wanted: tuple[tuple[object, Check], ...] = (
            (settings.sources or settings.sources_except, self._source),
            (settings.events or settings.events_except, self._name),
            (settings.bots == "skip", self._bot),
            (settings.consent, self._consent),
            (True, self._integration),
            (advertising and settings.on_opt_out == "skip", self._opt_out),
            (settings.sample_rate < 1, self._sample),
        )
        self._checks = tuple(check for on, check in wanted if on)

    def __call__(self, event: StoredEvent) -> str | None:
        """Why *event* may not go, a word of REASONS; None if it may."""
        if event.type not in self._types:
            return "type_filtered" if event.type in self._supported else "type_unsupported"
        for check in self._checks:
            reason = check(event)
            if reason is not None:
                return reason
        return None

    def restricts(self, event: StoredEvent) -> bool:
        """Whether *event*, which may go, may do so only with the vendor's flag for opt-outs."""
        return self._restricts and _opted_out(event)

    # --- one check each ----------------------------------------------------------------------

    def _source(self, event: StoredEvent) -> str | None:
        source = event.source
        if source in self._sources_except or (self._sources and source not in self._sources):
            return "source_filtered"
        return None

    def _name(self, event: StoredEvent) -> str | None:
        if event.type != "track" or self._name_passes(event.event or ""):
            return None
        return "event_filtered"

    def _bot(self, event: StoredEvent) -> str | None:
        return "bot" if by_bot(event, self._kinds.get(event.source, "browser")) else None

    def _consent(self, event: StoredEvent) -> str | None:
        text = event.context_text
        if text is None or b'"consent' not in text:
            verdict = None
        else:
            verdict = granted(event.context, self._categories, self._strategy)
        if verdict is None:
            verdict = not self._consent_required
        # Whoever asks for consent must hear of it being withdrawn.
        if verdict or (event.event == PREFERENCE_EVENT and event.type == "track"):
            return None
        return "consent"

    def _integration(self, event: StoredEvent) -> str | None:
        text = event.integrations_text
        if text is None or len(text) == 2:  # {}, as SDKs write it
            return None
        asked = event.integrations
        named = False
        for name in self._integrations:
            value = asked.get(name)
            if value is False or value == "false":  # in an image address every value is text
                return "integrations_off"
            named = named or value is not None
        if named:
            return None
        for everything in ("All", "all"):
            value = asked.get(everything)
            if value is False or value == "false":
                return "integrations_off"
        return None

    def _opt_out(self, event: StoredEvent) -> str | None:
        return "opt_out" if _opted_out(event) else None

    def _sample(self, event: StoredEvent) -> str | None:
        # Unsalted: destinations with the same rate get the same people, a lower rate some of them.
        person = event.user_id or event.anonymous_id or event.message_id
        number = xxhash.xxh3_64_intdigest(person.encode(errors="replace"))
        return None if number < self._sampled_below else "sampled_out"


def _opted_out(event: StoredEvent) -> bool:
    text = event.context_text
    return text is not None and b'"gpc"' in text and opted_out(event.context)


# --- names -------------------------------------------------------------------------------------


def pattern_of(globs: Iterable[str]) -> re.Pattern[str]:
    """What matches a whole name that one of *globs* does; only * and ? mean more than they are."""
    # Real names have brackets, such as "[Amplitude] Page Viewed": they are no character class.
    return re.compile("|".join(translate(glob.replace("[", "[[]")) for glob in globs))


def _name_filter(included: list[str], excluded: list[str]) -> Callable[[str], bool]:
    inside = pattern_of(included or ["*"])
    outside = pattern_of(excluded) if excluded else None

    @lru_cache(NAMES_KEPT_MAX)
    def passes(name: str) -> bool:
        return inside.match(name) is not None and (outside is None or not outside.match(name))

    return passes


# --- settings ----------------------------------------------------------------------------------


def _check(settings: DestinationSettings, types: Collection[str], kinds: Mapping[str, str]) -> None:
    """What no single setting can tell."""
    where = f"destination {settings.name}"
    for kind in settings.types:
        if kind not in types:
            taken = ", ".join(sorted(types))
            raise ConfigError(f"{where}: types: it takes no {kind}, only {taken}; leave it out")
    for setting in ("sources", "sources_except"):
        for source in getattr(settings, setting):
            if source not in kinds:
                known = ", ".join(sorted(kinds))
                raise ConfigError(
                    f"{where}: {setting}: there is no source {source}; name one of {known}"
                )
    if settings.consent_required and not settings.consent:
        raise ConfigError(
            f"{where}: consent_required: nothing is withheld without categories; "
            "name those it needs in consent"
        )
