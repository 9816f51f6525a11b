"""
Metrics: every metric of the collector, with its help text and labels.

Counts of stored, duplicate and rejected events are not kept here: they are read from Postgres,
where they move with the cursor, so that a restart or kill -9 does not break the sum. The store
hands them in through `Accounts`.

Labels are bounded: `source` is a configured name, `reason` and the rest are fixed words.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from collector.tallies import Spread, Tally

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside every counter that nobody reads
REGISTRY = CollectorRegistry()

_ACK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_COPY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

build_info = Info("collector_build", "Version of the collector.", registry=REGISTRY)

# --- ingest ---------------------------------------------------------------------------------
requests = Tally(
    "collector_ingest_requests",
    "Requests answered, by the first digit of the status.",
    ["status"],
    registry=REGISTRY,
)
refused = Counter(
    "collector_ingest_refused_requests",
    "Requests turned down before anything in them was accepted, by reason.",
    ["reason"],
    registry=REGISTRY,
)
pixels = Tally(
    "collector_ingest_pixels",
    "Pixel images served, by what became of their event: stored, or the reason it was not.",
    ["reason"],
    registry=REGISTRY,
)
links = Counter(
    "collector_ingest_links",
    "Click links asked for: stored, machine (stored, and no person clicked), or why neither.",
    ["reason"],
    registry=REGISTRY,
)
sdk_metrics = Counter(
    "collector_ingest_sdk_metrics",
    "Metrics that browser SDKs report about themselves; counted and not stored.",
    registry=REGISTRY,
)
repaired = Counter(
    "collector_ingest_repaired_requests",
    "Requests that were not strict JSON and were read leniently.",
    registry=REGISTRY,
)
body_bytes = Tally(
    "collector_ingest_body_bytes", "Bytes of request bodies, unzipped.", [], registry=REGISTRY
).labels()
in_flight = Gauge(
    "collector_ingest_in_flight_bytes", "Bytes of request bodies in memory.", registry=REGISTRY
)
connections = Gauge(
    "collector_ingest_connections", "Open connections on the ingest port.", registry=REGISTRY
)
ack_seconds = Spread(
    "collector_ingest_ack_seconds",
    "From a request's last byte to its answer, fsync included.",
    buckets=_ACK_BUCKETS,
    registry=REGISTRY,
)

# --- settings -------------------------------------------------------------------------------
reloads = Counter(
    "collector_config_reloads",
    "Times that the settings were read again (SIGHUP): applied, or refused.",
    ["outcome"],
    registry=REGISTRY,
)
config_refused = Gauge(
    "collector_config_refused",
    "1 while the settings that were read last are refused, and older ones in force.",
    registry=REGISTRY,
)

# --- journal --------------------------------------------------------------------------------
journal_bytes = Gauge("collector_journal_bytes", "What the journal takes.", registry=REGISTRY)
journal_bytes_max = Gauge(
    "collector_journal_max_bytes", "What the journal may take.", registry=REGISTRY
)
journal_oldest_seconds = Gauge(
    "collector_journal_oldest_seconds",
    "Age of the oldest frame that is not stored yet; 0 when all are.",
    registry=REGISTRY,
)
journal_commits = Gauge(
    "collector_journal_commits", "Group commits since the start.", registry=REGISTRY
)
journal_writable = Gauge(
    "collector_journal_writable", "1 while frames can be appended.", registry=REGISTRY
)
journal_lost_frames = Counter(
    "collector_journal_lost_frames",
    "Frames that were acknowledged and could not be read back.",
    registry=REGISTRY,
)
journal_anomalies = Counter(
    "collector_journal_anomalies",
    "Contradictions between journal and cursor, such as a restored backup, by kind.",
    ["kind"],
    registry=REGISTRY,
)

# --- store ----------------------------------------------------------------------------------
postgres_up = Gauge("collector_store_postgres_up", "1 while Postgres answers.", registry=REGISTRY)
copy_seconds = Histogram(
    "collector_store_copy_seconds",
    "One batch into Postgres, from lock to commit.",
    buckets=_COPY_BUCKETS,
    registry=REGISTRY,
)
copy_events = Counter(
    "collector_store_copied_events", "Events written by COPY and committed.", registry=REGISTRY
)
store_errors = Counter(
    "collector_store_errors",
    "Batches that Postgres did not take at once, by kind.",
    ["kind"],
    registry=REGISTRY,
)
seen_ids = Gauge("collector_store_seen_ids", "Message ids in the dedupe window.", registry=REGISTRY)

# --- the process ----------------------------------------------------------------------------
loop_lag_seconds = Gauge(
    "collector_process_loop_lag_seconds",
    "The longest wait for the event loop in the last ten seconds.",
    registry=REGISTRY,
)

Sums = Mapping[tuple[str, ...], float]  # values of the labels, and the sum


# --- destinations ---------------------------------------------------------------------------
delivery_seconds = Histogram(
    "collector_destination_request_seconds",
    "One request to a destination, until its answer was read.",
    ["destination"],
    buckets=_COPY_BUCKETS,
    registry=REGISTRY,
)


class Accounts(Collector):
    """Cumulative sums that live elsewhere, shown as counters: (name, help, labels, read)."""

    def __init__(self) -> None:
        self._counters: list[tuple[str, str, list[str], Callable[[], Sums]]] = []
        self._gauges: list[tuple[str, str, list[str], Callable[[], Sums]]] = []

    def counter(self, name: str, text: str, labels: list[str], read: Callable[[], Sums]) -> None:
        """Show what *read* returns as a counter with these labels."""
        self._counters.append((name, text, labels, read))

    def gauge(self, name: str, text: str, labels: list[str], read: Callable[[], Sums]) -> None:
        """Show what *read* returns as a gauge with these labels."""
        self._gauges.append((name, text, labels, read))

    def collect(self) -> Iterable[Metric]:
        for name, text, labels, read in self._counters:
            counter = CounterMetricFamily(name, text, labels=labels)
            for values, count in read().items():
                counter.add_metric(values, count)
            yield counter
        for name, text, labels, read in self._gauges:
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for values, count in read().items():
                gauge.add_metric(values, count)
            yield gauge
