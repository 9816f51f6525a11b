"""Settings of the store: which Postgres, how large a batch, how long things are kept."""

from typing import Annotated

from msgspec import Meta

from collector.settings import Bytes, Count, CountOrNone, Seconds, SecondsOrNone, Section
from collector.store.dedupe import DedupeSettings
from collector.store.parameters import EmbeddedSettings

ProcessOrNone = Annotated[int, Meta(ge=0, le=1)]


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where events are stored, and for how long."""

    dsn: str = ""  # postgresql://user@host/database; empty runs a Postgres of our own
    batch_events_max: Count = 5_000
    batch_bytes_max: Bytes = 8_000_000
    linger_seconds: SecondsOrNone = 0.05  # a light load is gathered this long
    refine_processes: ProcessOrNone = 1  # beside our own, under a heavy load on several cores
    batch_seconds_max: Seconds = 60.0  # Postgres that does not take a batch in this time is away
    retention_days: CountOrNone = 365  # of events, by day; 0 keeps them for ever
    retention_extra_days: CountOrNone = 30  # for days that a destination has not come past
    rejected_retention_days: Count = 30
    delivery_log_days: Count = 30  # what became of which event at which destination
    drain_seconds: SecondsOrNone = 15.0  # on stop, to store what is still in the journal
    dedupe: DedupeSettings = DedupeSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
