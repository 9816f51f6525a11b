"""Tallies: what Prometheus is shown of them."""

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from collector.tallies import Spread, Tally


def test_a_tally_shows_each_number_by_its_labels() -> None:
    registry = CollectorRegistry()
    tally = Tally("requests", "Requests.", ["status"], registry=registry)
    tally.labels("2xx").inc()
    tally.labels("2xx").inc(2)
    assert tally.labels("4xx") is tally.labels("4xx")
    assert registry.get_sample_value("requests_total", {"status": "2xx"}) == 3
    assert registry.get_sample_value("requests_total", {"status": "4xx"}) == 0


def test_a_spread_shows_what_a_histogram_would() -> None:
    bounds, shown = (0.001, 0.5, 1.0, 10.0), []
    for kind in (Spread, Histogram):
        registry = CollectorRegistry()
        spread = kind("seconds", "Seconds.", buckets=bounds, registry=registry)
        for value in (0.0, 0.001, 0.0011, 0.5, 0.7, 10.0, 11.0):
            spread.observe(value)
        text = generate_latest(registry).decode()
        shown.append([line for line in text.splitlines() if "_created" not in line])
    assert shown[0] == shown[1]
