"""
Cdp: Customer.io's SDKs for its Data Pipelines, which are Segment's under another name.

    GET /cio/v1/projects/<key>/settings   as Segment's, for `Customer.io Data Pipelines`

Events go to Segment's paths. What differs is the name of the one integration in the settings: its
browser SDK that does not find its own sends to cdp.customer.io, and Segment's that finds another
beside its own loads scripts. Nothing in the request tells the two apart, so the page does: with
`/cio` behind the address that it names as `cdnURL`.

X-Strict-Mode: 1 asks the vendor to answer 400 and 401 where it else says 200. We always do.

Source   @customerio/cdp-analytics-browser and -node; recorded requests in tests/wire
"""

from functools import partial

from collector.ingest.sdk import Sdk
from collector.ingest.senders.base import Methods, Sender, key_between

INTEGRATION = "Customer.io Data Pipelines"


class Cdp(Sender):
    """The settings of Customer.io's browser and app SDKs."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def find(self, base: str, path: str) -> Methods | None:
        key = key_between("/cio/v1/projects/", path, "/settings")
        if key is None:
            return None
        return {"GET": partial(self._sdk.settings, key=key, base=base, integration=INTEGRATION)}
