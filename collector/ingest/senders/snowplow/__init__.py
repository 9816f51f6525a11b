"""
Snowplow: its trackers, for browsers, apps and servers.

    GET  /i                                   one event in the query; answers with an image
    POST /com.snowplowanalytics.snowplow/tp2  many; other paths by `ingest.snowplow_paths`

Trackers send no key but an app id (`aid`): it belongs to the source that lists it among its
`snowplow_app_ids`, or whose write key it is. They try again whatever is not 2xx, but for 400, 401,
403, 410 and 422. So a body of which something can be read is a 200, what is wrong with an event
of it is told in the answer and kept; a body that cannot be read is a 400, one whose apps are all
unknown a 401. A page that asked for an image gets one with these too: else it would ask again.

SP-Anonymous asks that the address be forgotten, and it is.

Source   Snowplow, "Snowplow Tracker Protocol"; recorded requests in tests/wire
"""

import asyncio
import re
import time
from collections.abc import Iterator

import msgspec

from collector import metrics
from collector.errors import BadRequest
from collector.event import BATCH, Problem, Refusal
from collector.ingest.decode import REFUSED_DATA_BYTES, Decoded
from collector.ingest.intake import Intake
from collector.ingest.pixel import GIF, NEVER_CACHED
from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Route, Sender
from collector.ingest.senders.members import Invalid
from collector.ingest.senders.snowplow.events import Event, Parameters, event_of, parameters_of
from collector.ingest.settings import SourceSettings
from collector.ingest.tracking import SUCCESS, partly
from collector.leniency import Unreadable, split

THREAD_BYTES = 256 << 10  # reading more than this leaves the loop alone
SERVER = "srv"  # the platform of trackers that speak for many persons

_APP_ID = re.compile(rb'("aid"\s*:\s*)"[^"]*"?')  # it may be a write key


class _Payload(msgspec.Struct, gc=False):
    data: list[Parameters]


_decode_payload = msgspec.json.Decoder(_Payload).decode

Problems = list[tuple[int, Problem]]  # by index in the body


def _image(status: int, outcome: str) -> Reply:
    return Reply(status, GIF, "image/gif", [("X-Collector", outcome), *NEVER_CACHED])


_STORED = _image(200, "stored")
_NOT_RECORDED = _image(200, "not_recorded")


class _Group:
    """The events of one source that become one frame, and what cannot be one."""

    def __init__(self, source: SourceSettings, by_server: bool) -> None:
        self.source = source
        self.by_server = by_server
        self.events: list[Event] = []
        self.indices: list[int] = []  # of each event, in the body
        self.refusals: list[Refusal] = []


class Snowplow(Sender):
    """Handlers of Snowplow's tracker protocol."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> Iterator[Route]:
        yield Route("/i", "GET", self._get)
        paths = self._intake.settings.snowplow_paths
        for path in ("/com.snowplowanalytics.snowplow/tp2", *paths):
            yield Route(path, "POST", self._post)

    # --- requests --------------------------------------------------------------------------

    async def _get(self, request: Request) -> Reply:
        if request.method == "HEAD":
            return _NOT_RECORDED
        intake = self._intake
        sent = b""
        try:
            intake.admit(request)
            parameters = request.query()
            key = intake.key(request, parameters)
            parameters.pop("writeKey", None)
            sent = msgspec.json.encode(parameters)
            await self._take(request, [parameters], key, alone=True)
        except BadRequest as exc:
            self._keep(request, exc, sent)
            metrics.refused.labels(exc.code).inc()
            return _image(exc.status, exc.code)
        return _STORED

    async def _post(self, request: Request) -> Reply:
        intake = self._intake
        body = await intake.body(request)
        began = time.perf_counter()
        try:
            if len(body.data) > THREAD_BYTES:
                sent = await asyncio.to_thread(self._read, body.data)
            else:
                sent = self._read(body.data)
            parameters = request.query() if request.query_string else None
            problems = await self._take(request, sent, intake.key(request, parameters))
        except BadRequest as exc:
            self._keep(request, exc, body.data)
            raise
        finally:
            body.release()
        metrics.ack_seconds.observe(time.perf_counter() - began)
        return partly(problems) if problems else SUCCESS

    def _keep(self, request: Request, exc: BadRequest, data: bytes) -> None:
        if exc.code != "unknown_app_id":  # that one is nobody's, and shows what is wrong
            data = _APP_ID.sub(rb'\1"***"', data)
        self._intake.keep(request, exc, data)

    # --- events ----------------------------------------------------------------------------

    def _read(self, body: bytes) -> list[Parameters | Refusal]:
        """The events of a body, each with its parameters or why it cannot be read."""
        settings = self._intake.settings
        if body.count(b"{") <= 2 * settings.batch_events_max:
            try:
                payload = _decode_payload(body)
            except (ValueError, RecursionError):
                pass
            else:
                if len(payload.data) <= settings.batch_events_max:
                    return list(payload.data)
        try:
            found = split(body, elements_max=10 * settings.batch_events_max, listed="data")
        except Unreadable as exc:
            raise BadRequest(exc.code, exc.detail) from exc
        if found.elements is None:
            raise BadRequest("missing_batch", 'the body needs a list named "data": add one')
        return [self._read_one(index, element) for index, element in enumerate(found.elements)]

    def _read_one(self, index: int, element: bytes) -> Parameters | Refusal:
        settings = self._intake.settings
        problem = Problem("too_many_events", "too many events at once: send smaller batches")
        if len(element) > settings.event_bytes_max:
            detail = f"an event may have {settings.event_bytes_max} bytes: send less"
            problem = Problem("event_too_large", detail)
        elif index < settings.batch_events_max:
            try:
                return parameters_of(element, settings.depth_max)
            except Invalid as exc:
                problem = exc.problem
        return _refusal(index, problem, element)

    async def _take(
        self,
        request: Request,
        sent: list[Parameters | Refusal],
        key: str | None,
        *,
        alone: bool = False,
    ) -> Problems:
        """Journal what can be; what cannot is returned, or raised if the event is *alone*."""
        intake = self._intake
        whole = None if key is None else intake.source(request, key)
        groups: dict[tuple[str, bool], _Group] = {}
        strays: list[Refusal] = []  # that belong to nobody
        for index, parameters in enumerate(sent):
            if isinstance(parameters, Refusal):
                strays.append(parameters)
                continue
            source = whole or self._source(request, parameters.get("aid"))
            if source is None:
                detail = "no source has this app id (aid): add it to the snowplow_app_ids of one"
                problem = Problem("unknown_app_id", detail)
                strays.append(_refusal(index, problem, msgspec.json.encode(parameters)))
                continue
            by_server = parameters.get("p") == SERVER or request.header("SP-Anonymous") is not None
            group = groups.setdefault((source.name, by_server), _Group(source, by_server))
            self._sort(index, parameters, group)
        if strays and not groups:
            code = strays[0].code
            raise BadRequest(code, strays[0].detail, 401 if code == "unknown_app_id" else 400)
        problems: Problems = []
        frames: list[tuple[_Group, Decoded]] = []
        for group in groups.values():
            group.refusals += strays
            strays = []
            frames.append((group, await self._decode(group)))
            problems += frames[-1][1].problems
        if alone and problems:
            raise BadRequest(*problems[0][1])
        await asyncio.gather(
            *(
                intake.accept(request, group.source, BATCH, decoded, group.by_server)
                for group, decoded in frames
            )
        )
        return sorted(problems)

    def _source(self, request: Request, app_id: str | None) -> SourceSettings | None:
        intake = self._intake
        source = intake.sources.of_app(app_id)
        if source is None:
            try:
                source = intake.sources.find(app_id)
            except BadRequest:
                return None
        intake.cors.check(request, source)
        return source

    def _sort(self, index: int, parameters: Parameters, group: _Group) -> None:
        keyed = parameters.get("aid") == group.source.write_key
        try:
            depth = self._intake.settings.depth_max
            group.events.append(event_of(parameters, depth_max=depth, keyed=keyed))
            group.indices.append(index)
        except Invalid as exc:
            data = msgspec.json.encode(parameters | ({"aid": "***"} if keyed else {}))
            group.refusals.append(_refusal(index, exc.problem, data))

    async def _decode(self, group: _Group) -> Decoded:
        """The events of *group* as a batch, its problems by their index in the body."""
        body = msgspec.json.encode({"batch": group.events})
        decoded = await self._intake.decoder.decode(body, BATCH)
        problems = [(group.indices[index], problem) for index, problem in decoded.problems]
        problems += [(one.index, Problem(one.code, one.detail)) for one in group.refusals]
        return decoded._replace(
            events=decoded.events + len(group.refusals),
            refusals=decoded.refusals + group.refusals,
            problems=problems,
        )


def _refusal(index: int, problem: Problem, data: bytes) -> Refusal:
    return Refusal(index, problem.code, problem.detail, data[:REFUSED_DATA_BYTES])
