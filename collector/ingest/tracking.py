"""
Tracking: Segment's HTTP tracking API, which most SDKs speak.

    POST /v1/{track,identify,page,screen,group,alias}   one event, its type from the path
    POST /v1/{t,i,p,s,g,a}                              the same, as analytics.js writes it
    POST /v1/{batch,b,import}                           {"batch": [...]}, every event has a type

Answers 200 `{"success":true}` once everything is on disk. Events of a batch that cannot be taken
are named in `rejected` and kept as rejected events; a single event that cannot is a 400.

Source   Segment, "HTTP Tracking API"; recorded requests in tests/wire
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from collector import metrics
from collector.errors import BadRequest
from collector.event import BATCH, Problem
from collector.ingest.intake import Intake
from collector.ingest.protocol import Reply, Request

CALLS = {
    "track": "track",
    "identify": "identify",
    "page": "page",
    "screen": "screen",
    "group": "group",
    "alias": "alias",
    "t": "track",
    "i": "identify",
    "p": "page",
    "s": "screen",
    "g": "group",
    "a": "alias",
    "batch": BATCH,
    "b": BATCH,
    "import": BATCH,
}
REJECTED_NAMED_MAX = 50  # so many are named in the answer; all are counted and kept

SUCCESS = Reply(200, b'{"success":true}')

_observe_ack = metrics.ack_seconds.observe


class Tracking:
    """Handlers of the tracking calls."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def handler(
        self, call: str, *, by_server: bool = False
    ) -> Callable[[Request], Awaitable[Reply]]:
        """The handler of *call*: BATCH or an event type; *by_server*: no person's own device."""

        return partial(self._take, call, by_server)

    async def _take(self, call: str, by_server: bool, request: Request) -> Reply:
        intake = self._intake
        body = await intake.body(request)
        began = time.perf_counter()
        source_name = ""
        try:
            parameters = request.query() if request.query_string else None
            key = intake.key(request, parameters)
            if key is not None:
                # Before decoding: a wrong key costs us no more than it must.
                source_name = intake.source(request, key).name
            decoded = await intake.decoder.decode(body.data, call)
            source = intake.source(request, key or decoded.write_key)
            source_name = source.name
            if call != BATCH and decoded.problems:
                raise BadRequest(*decoded.problems[0][1])
            if decoded.events:
                await intake.accept(request, source, call, decoded, by_server)
        except BadRequest as exc:
            intake.keep(request, exc, body.data, source_name)
            raise
        finally:
            body.release()
        _observe_ack(time.perf_counter() - began)
        return partly(decoded.problems) if decoded.problems else SUCCESS


def partly(problems: Sequence[tuple[int, Problem]]) -> Reply:
    """The answer to a batch that was taken but for *problems*."""
    rejected = [
        {"index": index, "code": problem.code, "message": problem.detail}
        for index, problem in problems[:REJECTED_NAMED_MAX]
    ]
    answer = {"success": True, "rejected_count": len(problems), "rejected": rejected}
    return Reply.json(200, answer)
