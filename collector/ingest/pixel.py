"""
Pixel: events as image addresses, for mails and for people who write HTML by hand.

    GET /v1/pixel/{track,page,screen,identify,group,alias}?data=<base64 of one event in JSON>
    GET /v1/pixel/{…}?writeKey=…&userId=…&event=…&properties.subject=…
    GET /px.gif?wk=…&e=Email%20Opened&uid=…&p.subject=…
    GET /lib/line.gif?…                        as px.gif, which blockers know

Always answers 200 with a transparent 1x1 GIF that nothing may cache, whatever is wrong, so that
no mail program shows a broken image. What became of the event is in the header X-Collector:
`stored` once it is on disk, else the reason. HEAD answers and records nothing.

Shapes   base64 as found in the wild: either alphabet, with or without padding, `+` turned into a
         space on the way. Dotted names make nested objects, all their values are text.
Source   Segment, "Pixel Tracking API"; test vectors in tests/wire
"""

import binascii
import re
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote_to_bytes

import msgspec

from collector import metrics
from collector.errors import BadRequest, CollectorError
from collector.ingest.intake import Intake
from collector.ingest.protocol import Reply, Request

# The smallest transparent GIF that every mail program and browser shows.
GIF = binascii.a2b_base64("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
NEVER_CACHED = (
    ("Cache-Control", "no-store, no-cache, must-revalidate, private, max-age=0"),
    ("Pragma", "no-cache"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
)
DEPTH_MAX = 10  # of dotted names

SHORT = {
    "wk": "writeKey",
    "t": "type",
    "e": "event",
    "n": "name",
    "cat": "category",
    "uid": "userId",
    "aid": "anonymousId",
    "gid": "groupId",
    "pid": "previousId",
    "mid": "messageId",
    "ts": "timestamp",
    "p": "properties",
    "tr": "traits",
    "c": "context",
}
OBJECTS = frozenset({"properties", "traits", "context", "integrations"})
MEMBERS = frozenset(SHORT.values()) - OBJECTS | {"sentAt", "originalTimestamp"}

_DATA = re.compile(r"(?:^|&)data=([^&]*)")
_WRITE_KEY = re.compile(r"((?:^|&)(?:wk|writeKey)=)[^&]*")  # of what is kept to look at


def gif(outcome: str) -> Reply:
    """The image, with *outcome* in its header."""
    return Reply(200, GIF, "image/gif", [("X-Collector", outcome), *NEVER_CACHED])


STORED = gif("stored")
NOT_RECORDED = gif("not_recorded")
_stored = metrics.pixels.labels("stored")


class Pixel:
    """Handlers of image addresses."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def handler(self, call: str | None) -> Callable[[Request], Awaitable[Reply]]:
        """The handler of *call*, an event type, or of the short form, which names its own."""

        return partial(self._take, call)

    async def _take(self, call: str | None, request: Request) -> Reply:
        if request.method == "HEAD":
            return NOT_RECORDED
        intake = self._intake
        source_name = ""
        sent = None
        try:
            intake.admit(request)
            # Of the usual address nothing but its data need be taken apart.
            plain = call is not None and "&" not in request.query_string
            parameters = {} if plain else request.query()
            if call is None:
                members = nested(parameters, short=True)
                call = str(members.pop("type", None) or ("track" if "event" in members else "page"))
                body = msgspec.json.encode(members)
            else:
                body = _body(request, parameters)
            sent = body
            decoded = await intake.decoder.decode(body, call)
            source = intake.source(request, intake.key(request, parameters) or decoded.write_key)
            source_name = source.name
            if decoded.problems:
                raise BadRequest(*decoded.problems[0][1])
            await intake.accept(request, source, call, decoded)
        except CollectorError as exc:
            if isinstance(exc, BadRequest):
                if sent is None:
                    sent = _WRITE_KEY.sub(r"\1***", request.query_string).encode()
                intake.keep(request, exc, sent, source_name)
            metrics.refused.labels(exc.code).inc()
            metrics.pixels.labels(exc.code).inc()
            return gif(exc.code)
        _stored.inc()
        return STORED


def _body(request: Request, parameters: dict[str, str]) -> bytes:
    """The event in the address, as JSON."""
    query = request.query_string
    found = _DATA.search(query)
    if found is None:
        if "=" not in query:
            raise BadRequest("missing_data", "the address has no data: add ?data=<base64 JSON>")
        return msgspec.json.encode(nested(parameters or request.query(), short=False))
    data = found[1]
    return unbase64(unquote_to_bytes(data) if "%" in data else data.encode(errors="replace"))


def unbase64(data: bytes) -> bytes:
    """Base64 as it arrives in addresses, decoded."""
    plain = data.replace(b" ", b"+").replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=\r\n")
    try:
        return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except binascii.Error as exc:
        raise BadRequest("bad_base64", f"data is no base64 ({exc}): encode the JSON anew") from exc


def nested(parameters: dict[str, str], *, short: bool) -> dict[str, object]:
    """An event from plain parameters; those that no event has are left alone."""
    event: dict[str, object] = {}
    utm: dict[str, str] = {}
    for name, value in parameters.items():
        first, *rest = name.split(".", DEPTH_MAX)
        first = SHORT.get(first, first) if short else first
        if not rest:
            if first in MEMBERS or (first == "type" and short):
                event[first] = value
            elif first.startswith("utm_"):
                utm["name" if first == "utm_campaign" else first[4:]] = value
        elif first in OBJECTS:
            place = event.setdefault(first, {})
            for part in rest[:-1]:
                if not isinstance(place, dict):
                    break
                place = place.setdefault(part, {})
            if isinstance(place, dict):
                place[rest[-1]] = value
    if utm:
        context = event.setdefault("context", {})
        if isinstance(context, dict):
            context.setdefault("campaign", utm)
    return event
