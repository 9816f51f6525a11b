"""
Links: click links made for whoever sends mails, one or a thousand at a time.

    POST /links   {"target": "https://…", "user_id": "u1", …}      {"url": "https://…/r/1…"}
    POST /links   {"links": [{…}, {…}]}                            {"urls": ["…", "…"]}

A link names target, source (else the first configured), event, user_id, anonymous_id, properties
and expires: seconds since 1970, a date, or `30d`.

Errors   400 bad_body, bad_target, bad_expiry, bad_properties, link_too_long, links_off; 404
         unknown_source; 415. Of many links none is made if one cannot be; the answer says which.
"""

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from collector.admin.answers import answer, problem
from collector.errors import BadRequest
from collector.ingest.auth import Sources
from collector.ingest.links import EVENT, Id, Link, Links, Name, expiry_of

LINKS_MAX = 1_000


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link to be made."""

    target: str
    source: str = ""
    event: Name = EVENT
    user_id: Id | None = None
    anonymous_id: Id | None = None
    properties: dict[str, Any] = {}
    expires: Annotated[int, Meta(ge=0, lt=2**40)] | str | None = None


class _Many(msgspec.Struct, forbid_unknown_fields=True):
    links: Annotated[list[Wanted], Meta(max_length=LINKS_MAX)]


class _Which(msgspec.Struct):
    links: msgspec.Raw = msgspec.Raw(b"")


class LinkMaker:
    """The routes that make links."""

    def __init__(self, links: Links, sources: Sources) -> None:
        self._links = links
        self._sources = sources

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [web.post("/links", self._make)]

    async def _make(self, request: web.Request) -> web.Response:
        data = await request.read()
        # A page of another site can send text, and JSON only with our consent.
        if request.content_type != "application/json":
            return problem(415, "bad_type", "send the body as application/json")
        try:
            if not bytes(msgspec.json.decode(data, type=_Which).links):
                return answer(200, {"url": self.url(msgspec.json.decode(data, type=Wanted))})
            wanted = msgspec.json.decode(data, type=_Many).links
        except (ValueError, RecursionError) as exc:
            return problem(400, "bad_body", f"the body cannot be used: {exc}")
        except BadRequest as exc:
            return problem(exc.status, exc.code, exc.detail)
        urls = []
        for index, one in enumerate(wanted):
            try:
                urls.append(self.url(one))
            except BadRequest as exc:
                return problem(exc.status, exc.code, f"links[{index}]: {exc.detail}")
        return answer(200, {"urls": urls})

    def url(self, wanted: Wanted) -> str:
        """The address of the link that is *wanted*."""
        source = self._sources.named(wanted.source or self._sources.names[0]).name
        expires = wanted.expires
        return self._links.url(
            Link(
                target=wanted.target,
                source=source,
                event=wanted.event,
                user_id=wanted.user_id,
                anonymous_id=wanted.anonymous_id,
                properties=wanted.properties,
                expires=expiry_of(expires) if isinstance(expires, str) else expires,
            )
        )
