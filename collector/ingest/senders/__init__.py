"""
Senders: other vendors' SDKs, whose calls become the same events.

One module here and one page in docs/senders/ for each vendor. A sender says which paths are its
own, reads what its SDKs write, and answers as they want to be answered; what it made of a request
goes through the same decoder into the same journal as everything else. What vendors share with
Segment (`/v1/track`, `/v1/batch` and their like) stays in tracking.py.
"""

from collector.ingest.intake import Intake
from collector.ingest.sdk import Sdk
from collector.ingest.senders.base import Handler, Route, Sender
from collector.ingest.senders.cdp import Cdp
from collector.ingest.senders.customerio import CustomerIo
from collector.ingest.senders.jitsu import Jitsu
from collector.ingest.senders.mobile import Mobile
from collector.ingest.senders.rudder import Rudder
from collector.ingest.senders.script import Script
from collector.ingest.senders.snowplow import Snowplow
from collector.ingest.tracking import Tracking

__all__ = ["Handler", "Route", "Sender", "make_senders"]


def make_senders(intake: Intake, tracking: Tracking, sdk: Sdk) -> list[Sender]:
    """All senders, over one way into the journal."""
    return [
        Rudder(intake, tracking),
        Jitsu(tracking),
        Mobile(tracking, sdk),
        Cdp(sdk),
        CustomerIo(intake),
        Snowplow(intake),
        Script(intake),
    ]
