"""
Rudder: RudderStack's SDKs, for browsers, apps and servers.

    GET  /sourceConfig           what an SDK asks before it starts; HEAD ?view=ad asks for blockers
    POST /beacon/v1/batch        batches by sendBeacon, the write key in the query
    POST /rsaMetrics             what the browser SDK reports about itself: counted, not stored
    GET  /pixel/v1/{track,page}  events as image addresses

Events go to `/v1/<type>` and `/v1/batch`, as Segment's do. The headers AnonymousId and SentAt only
repeat what stands in each event (RudderStack's gateway routes by them), and those that begin with
Rsa- tell of retries: neither changes an event.

Source   @rudderstack/analytics-js, rudder-sdk-android and -ios; recorded requests in tests/wire
"""

from collections.abc import Iterator

import msgspec

from collector import metrics
from collector.errors import BadRequest
from collector.event import BATCH
from collector.ingest.intake import Intake
from collector.ingest.pixel import Pixel
from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Route, Sender
from collector.ingest.tracking import SUCCESS, Tracking

_NOT_BLOCKED = Reply(200, b"{}")
_UPDATED_AT = "2026-01-01T00:00:00.000Z"  # never: what is asked for again is the same

_is_json = msgspec.json.Decoder(msgspec.Raw).decode


class Rudder(Sender):
    """What RudderStack's SDKs send besides Segment's calls."""

    def __init__(self, intake: Intake, tracking: Tracking) -> None:
        self._intake = intake
        self._tracking = tracking
        self._pixel = Pixel(intake)

    def routes(self) -> Iterator[Route]:
        yield Route("/sourceConfig", "GET", self._source_config)
        yield Route("/rsaMetrics", "POST", self._metrics)
        yield Route("/beacon/v1/batch", "POST", self._tracking.handler(BATCH))
        for call in ("track", "page"):
            yield Route(f"/pixel/v1/{call}", "GET", self._pixel.handler(call), image=True)

    async def _source_config(self, request: Request) -> Reply:
        """What the source is, without destinations: those are served from here."""
        parameters = request.query()
        if parameters.get("view") == "ad":
            return _NOT_BLOCKED  # any error would count as a blocker's
        intake = self._intake
        try:
            intake.admit(request)
            source = intake.source(request, intake.key(request, parameters))
        except BadRequest as exc:
            intake.keep(request, exc)
            raise BadRequest(exc.code, exc.detail, status=404) from exc
        reports = {"errors": {"enabled": False}, "metrics": {"enabled": False}}
        answer = {
            "source": {
                "id": source.name,
                "name": source.name,
                "writeKey": source.write_key,
                "enabled": True,  # without it apps stay silent
                "updatedAt": _UPDATED_AT,
                "config": {"statsCollection": reports},
                "destinations": [],
            },
            "updatedAt": _UPDATED_AT,
        }
        return Reply.json(200, answer, [("Cache-Control", "private, max-age=60")])

    async def _metrics(self, request: Request) -> Reply:
        body = await self._intake.body(request)
        try:
            _is_json(body.data)
        except (ValueError, RecursionError) as exc:
            raise BadRequest("bad_json", "the body must be JSON: send an object") from exc
        finally:
            body.release()
        metrics.sdk_metrics.inc()
        return SUCCESS
