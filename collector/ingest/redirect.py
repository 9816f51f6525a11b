"""
Redirect: a signed link is followed: its click is recorded, and the browser goes where it leads.

    GET | HEAD /r/<token>      302 to the target, or 404 and a page that says so

A valid link always redirects, also when its click cannot be recorded: the journal is full, say.
What became of the click is in the header X-Collector: `stored` once it is on disk, `machine` when
it is and no person made it, else the reason. Nothing of the request is reflected but a target that
we signed ourselves.

Machines that follow links, scanners of mail gateways above all, are redirected like everybody (who
blocks them harms delivery), and their clicks carry `context.isBot`, `properties.machine_click` and
`properties.machine_reason`, a word of machines.py.

Shapes   the click is a track event with `link_url` among its properties; utm_ parameters of the
         target become context.campaign, click ids of ad networks context.clickIds.
Errors   none that are answered otherwise than by 302 or 404.
Source   Segment, "Spec: V2 Email"
"""

from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from collector import metrics
from collector.errors import BadRequest, CollectorError
from collector.ingest.intake import Intake
from collector.ingest.links import PATH, Link, Links
from collector.ingest.machines import machine_of
from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Methods, Sender
from collector.refine.campaign import read

CALL: Final = "track"

# No cache keeps it, no search engine lists it, and the target does not learn where it stood.
PRIVATE: Final = (
    ("Cache-Control", "no-store, private, max-age=0"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Robots-Tag", "noindex, nofollow"),
)
PAGE: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>This link leads nowhere</title>
<h1>This link leads nowhere</h1>
<p>It was cut short or changed on its way, or its time is over.
Please go back to where you found it, and try it from there.</p>
</html>
"""
NOWHERE: Final = Reply(
    404,
    PAGE,
    "text/html; charset=utf-8",
    [
        *PRIVATE,
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
    ],
)

_encode = msgspec.json.Encoder().encode


class Redirect(Sender):
    """What answers signed links."""

    def __init__(self, intake: Intake, links: Links) -> None:
        self._intake = intake
        self._links = links

    def find(self, base: str, path: str) -> Methods | None:
        if not path.startswith(PATH):
            return None
        handler = partial(self._follow, path[len(PATH) :])
        return {"GET": handler, "HEAD": handler}

    async def _follow(self, token: str, request: Request) -> Reply:
        try:
            link = self._links.read(token)
        except BadRequest as exc:
            metrics.refused.labels(exc.code).inc()
            metrics.links.labels(exc.code).inc()
            return NOWHERE
        outcome = await self._record(link, request)
        metrics.links.labels(outcome).inc()
        headers = [("Location", link.target), ("X-Collector", outcome), *PRIVATE]
        return Reply(302, b"", None, headers)

    async def _record(self, link: Link, request: Request) -> str:
        """Journal the click; the word for what became of it."""
        intake = self._intake
        machine = machine_of(request)
        try:
            intake.admit(request)
            source = intake.sources.named(link.source)
            body = _encode(event_of(link, request, machine))
            decoded = await intake.decoder.decode(body, CALL)
            if decoded.problems:
                raise BadRequest(*decoded.problems[0][1])
            await intake.accept(request, source, CALL, decoded, click=True)
        except CollectorError as exc:
            return exc.code
        return "machine" if machine else "stored"


def event_of(link: Link, request: Request, machine: str | None) -> dict[str, Any]:
    """The click on *link* as senders write events."""
    properties = {"link_url": link.target} | link.properties
    context: dict[str, Any] = {}
    # The link's own query is what an ad network adds to it when it is an ad's.
    utm, clicks = read(urlsplit(link.target).query)
    _, added = read(request.query_string)
    if utm:
        context["campaign"] = utm
    if clicks := added | clicks:
        context["clickIds"] = clicks
    if machine:
        context["isBot"] = True
        properties |= {"machine_click": True, "machine_reason": machine}
    event: dict[str, Any] = {"event": link.event, "properties": properties}
    if link.user_id is not None:
        event["userId"] = link.user_id
    if link.anonymous_id is not None:
        event["anonymousId"] = link.anonymous_id
    if context:
        event["context"] = context
    return event
