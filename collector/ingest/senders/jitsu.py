"""
Jitsu: @jitsu/js, in browsers and in Node.

    POST /api/s/<type>       from the person's own device
    POST /api/s/s2s/<type>   from a server, which speaks for many persons

One event each. The write key, `id:secret`, is in the header X-Write-Key; the body has it too, but
masked, and is not asked. The answer is a JSON object: anything else is an error to the SDK, which
never tries again. `destinations` in it would have browsers load scripts, so there is none. A page
that says in X-IP-Policy that its visitors' addresses are not to be kept has none kept.

Source   @jitsu/js; recorded requests in tests/wire
"""

from collections.abc import Iterator
from functools import partial

from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Handler, Route, Sender
from collector.ingest.tracking import Tracking

TYPES = ("track", "identify", "page", "screen", "group", "alias")


class Jitsu(Sender):
    """Jitsu's paths for the calls of Segment."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def routes(self) -> Iterator[Route]:
        for call in TYPES:
            by_person = self._tracking.handler(call)
            by_server = self._tracking.handler(call, by_server=True)
            yield Route(f"/api/s/{call}", "POST", partial(_take, by_person, by_server))
            yield Route(f"/api/s/s2s/{call}", "POST", by_server)


async def _take(by_person: Handler, by_server: Handler, request: Request) -> Reply:
    kept = request.header("X-IP-Policy") in {None, "keep"}
    return await (by_person if kept else by_server)(request)
