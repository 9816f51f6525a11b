"""
SDK: what browser and mobile SDKs ask before they start, and what they report about themselves.

    GET  /v1/projects/<write key>/settings   where to send, and with which key
    POST /v1/m                               metrics of the SDK: counted, not stored

The settings name this collector as `apiHost`, so that a page needs to know nothing but where the
settings are; options in the page override them. One integration alone is named: more would make
analytics.js load further scripts.

Source   the source of @segment/analytics-next; recorded requests in tests/wire
"""

import msgspec

from collector import metrics
from collector.errors import BadRequest
from collector.ingest.intake import Intake, printable
from collector.ingest.protocol import Reply, Request
from collector.ingest.settings import IngestSettings


class _Metrics(msgspec.Struct):
    series: list[msgspec.Raw] = []


_decode_metrics = msgspec.json.Decoder(_Metrics).decode
_SUCCESS = Reply(200, b'{"success":true}')


class Sdk:
    """Handlers of what SDKs ask."""

    def __init__(self, intake: Intake, settings: IngestSettings) -> None:
        self._intake = intake
        self._settings = settings

    async def settings(
        self, request: Request, key: str, base: str, integration: str = "Segment.io"
    ) -> Reply:
        """
        The settings of the source with write key *key*, below the path prefix *base*.

        *integration* is the name under which the SDK looks for itself.
        """
        try:
            source = self._intake.source(request, key)
        except BadRequest as exc:
            self._intake.keep(request, exc)
            raise BadRequest(exc.code, exc.detail, status=404) from exc
        host = request.header("Host")
        secure = request.protocol.ssl_context is not None
        if self._intake.proxies.trusts(request.peer):
            secure = request.header("X-Forwarded-Proto") == "https"
            host = request.header("X-Forwarded-Host") or host
        host = printable(host) or f"{self._settings.host}:{self._settings.port}"
        protocol = "https" if secure else "http"
        api_host = f"{host}{base}/v1"
        where = {"apiKey": source.write_key, "apiHost": api_host, "protocol": protocol}
        answer = {
            "integrations": {integration: where},
            "plan": {"track": {"__default": {"enabled": True, "integrations": {}}}},
            "metrics": {"sampleRate": self._settings.sdk_metrics_sample_rate, "host": api_host},
            "edgeFunction": {},
            "analyticsNextEnabled": True,
            "middlewareSettings": {},
            "enabledMiddleware": {},
        }
        return Reply.json(200, answer, [("Cache-Control", "public, max-age=60")])

    async def metrics(self, request: Request) -> Reply:
        """Count what an SDK reports about itself."""
        body = await self._intake.body(request)
        try:
            metrics.sdk_metrics.inc(len(_decode_metrics(body.data).series))
        except (ValueError, RecursionError) as exc:
            raise BadRequest("bad_json", "the body must be JSON with a list series") from exc
        finally:
            body.release()
        return _SUCCESS
