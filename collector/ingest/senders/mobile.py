"""
Mobile: Segment's SDKs for apps: analytics-swift, analytics-kotlin, analytics-react-native.

    POST /v1/b                         batches, the write key in the body only
    GET  /v1/projects/<key>/settings   what an app asks before it sends

Both are Segment's own and live in tracking.py and sdk.py. An app names its hosts with or without
`/v1` behind them, so the same paths are here once more without it: an app in a shop cannot be
corrected in a day.

Source   the sources of the three SDKs; tests/wire/mobile-from-source
"""

from collections.abc import Iterator
from functools import partial

from collector.event import BATCH
from collector.ingest.sdk import Sdk
from collector.ingest.senders.base import Methods, Route, Sender, key_between
from collector.ingest.tracking import Tracking


class Mobile(Sender):
    """Segment's paths without `/v1`."""

    def __init__(self, tracking: Tracking, sdk: Sdk) -> None:
        self._tracking = tracking
        self._sdk = sdk

    def routes(self) -> Iterator[Route]:
        yield Route("/b", "POST", self._tracking.handler(BATCH))

    def find(self, base: str, path: str) -> Methods | None:
        key = key_between("/projects/", path, "/settings")
        if key is None:
            return None
        return {"GET": partial(self._sdk.settings, key=key, base=base)}
