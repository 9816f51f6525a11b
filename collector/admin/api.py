"""
Api: what operators ask and decide about deliveries, as JSON.

    GET  /destinations                      how each stands
    POST /destinations/NAME/pause           {"detail": "why"}, or nothing
    POST /destinations/NAME/resume
    GET  /dead-letters                      ?destination= reason= event= type= message_id= since=
                                             until= limit=
    GET  /dead-letters/ID                   with its event
    POST /dead-letters/retry                {"destination": …, "ids": […], …}, or {"all": true}
    POST /dead-letters/drop                 the same
    GET  /replays                           ?destination=
    GET  /replays/ID
    POST /replays                           {"destination": …, "since": …, "dry_run": true, …}
    POST /replays/ID/cancel  pause  resume
    GET  /trace/MESSAGE_ID

The guard of server.py stands before all of it. No SQL is taken here, whoever asks: `where` belongs
to the command line. A request has a connection of its own, and there are few at once.

Shapes   what collector/store/desk has; a body is an object, sent as application/json.
Errors   400 bad_body, bad_query and what the desk refuses; 404; 409; 413; 415;
         503 while Postgres is away or its schema is not ours.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from collector.admin.answers import answer, problem
from collector.errors import BadRequest, CollectorError, ConfigError
from collector.store.desk import Connect, Visit, couriers, deadletters, replays, trace, visit
from collector.store.desk.deadletters import Letters
from collector.store.selection import Selection

BODY_BYTES_MAX = 262_144
AT_ONCE_MAX = 4
JOB_SECONDS = 30.0
COUNT_SECONDS = 10.0  # for all of a replay's events; beyond, how many they are stays unknown
RETRY_AFTER_SECONDS = 5
NUMBER_MAX = 2**63 - 1

S = TypeVar("S", bound=msgspec.Struct)
Job = Callable[[Visit, web.Request], Awaitable[object]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Why(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a pause."""

    detail: Annotated[str, Meta(max_length=couriers.DETAIL_CHARS)] = ""


class Chosen(Letters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a retry or a drop: which dead letters; all of them only for who says so."""

    all: bool = False

    def letters(self) -> Letters:
        """Without a choice nothing is done."""
        members = {name: getattr(self, name) for name in Letters.__struct_fields__}
        if not any(members.values()) and not self.all:
            raise BadRequest(
                "nothing_chosen", 'say which, such as {"reason": "…"}, or {"all": true}'
            )
        return Letters(**members)


class Order(Selection, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a new replay."""

    destination: Annotated[str, Meta(min_length=1, max_length=64)]
    dry_run: bool = False

    def selection(self) -> Selection:
        """What it asks for, of which SQL is no part."""
        if self.where:
            raise BadRequest(
                "where_not_here",
                "SQL is taken from the command line alone: use collector replay --where there",
            )
        if self.dead_letters:
            raise BadRequest("bad_body", "dead letters are tried again by /dead-letters/retry")
        members = {name: getattr(self, name) for name in Selection.__struct_fields__}
        return Selection(**members)


class Api:
    """The routes; *connect* gives a connection to Postgres or raises Unreachable."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(AT_ONCE_MAX)

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        number, name = r"{id:[0-9]{1,19}}", "{name}"
        return [
            web.get("/destinations", self._handler(_destinations)),
            web.post(f"/destinations/{name}/pause", self._handler(_pause)),
            web.post(f"/destinations/{name}/resume", self._handler(_resume)),
            web.get("/dead-letters", self._handler(_dead_letters)),
            web.get(f"/dead-letters/{number}", self._handler(_dead_letter)),
            web.post("/dead-letters/retry", self._handler(_retry)),
            web.post("/dead-letters/drop", self._handler(_drop)),
            web.get("/replays", self._handler(_replays)),
            web.get(f"/replays/{number}", self._handler(_replay)),
            web.post("/replays", self._handler(_order)),
            web.post(f"/replays/{number}/cancel", self._handler(_cancel)),
            web.post(f"/replays/{number}/pause", self._handler(_pause_replay)),
            web.post(f"/replays/{number}/resume", self._handler(_resume_replay)),
            web.get("/trace/{message_id:.+}", self._handler(_trace)),
        ]

    def _handler(self, job: Job) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            await request.read()  # before anything is held: it may come slowly
            try:
                async with self._free, visit(self._connect, JOB_SECONDS) as guest:
                    return answer(200, await job(guest, request))
            except BadRequest as exc:
                return problem(exc.status, exc.code, exc.detail)
            except ConfigError as exc:
                return problem(503, exc.code, exc.detail)
            except CollectorError as exc:
                away = problem(503, exc.code, f"{exc.detail}: ask again when it is back")
                away.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
                return away

        return handle


# --- what is asked ---------------------------------------------------------------------------


async def _body(request: web.Request, shape: type[S]) -> S:
    """The request's body; an empty one is an empty object."""
    data = await request.read()
    # A page of another site can send text, and JSON only with our consent.
    if data and request.content_type != "application/json":
        raise BadRequest("bad_type", "send the body as application/json", status=415)
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest("bad_body", f"the body cannot be used: {exc}") from exc


def _query(request: web.Request, known: dict[str, str], lists: tuple[str, ...] = ()) -> Any:
    """The members of the query by the names of *known*; those in *lists* may be repeated."""
    found: dict[str, Any] = {}
    for key, value in request.query.items():
        if key not in known:
            _bad_query(f"{key} is no parameter: use {', '.join(known)}")
        if known[key] in lists:
            found.setdefault(known[key], []).append(value)
        elif key in found:
            _bad_query(f"{key} is there twice")
        else:
            found[known[key]] = value
    return found


def _bad_query(reason: str) -> NoReturn:
    raise BadRequest("bad_query", f"the query cannot be used: {reason}")


def _number(request: web.Request) -> int:
    return min(int(request.match_info["id"]), NUMBER_MAX)


# --- destinations ----------------------------------------------------------------------------


async def _destinations(guest: Visit, _: web.Request) -> object:
    return {"destinations": await guest.do(couriers.destinations)}


async def _pause(guest: Visit, request: web.Request) -> object:
    why = await _body(request, Why)
    changed = await guest.do(couriers.pause, request.match_info["name"], why.detail)
    return {"changed": changed}


async def _resume(guest: Visit, request: web.Request) -> object:
    return {"changed": await guest.do(couriers.resume, request.match_info["name"])}


# --- dead letters ----------------------------------------------------------------------------


class _Listed(Letters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=deadletters.LIMIT_MAX)] = 100


async def _dead_letters(guest: Visit, request: web.Request) -> object:
    names = ("destination", "reason", "event", "message_id", "since", "until", "limit")
    found = _query(request, {name: name for name in names} | {"type": "types"}, ("types",))
    try:
        asked = msgspec.convert(found, _Listed, strict=False)
    except msgspec.ValidationError as exc:
        _bad_query(str(exc))
    return await guest.do(deadletters.dead_letters, asked, asked.limit)


async def _dead_letter(guest: Visit, request: web.Request) -> object:
    letter, event = await guest.do(deadletters.dead_letter, _number(request))
    return {"dead_letter": letter, "event": event}


async def _retry(guest: Visit, request: web.Request) -> object:
    chosen = await _body(request, Chosen)
    return await guest.do(deadletters.retry, chosen.letters())


async def _drop(guest: Visit, request: web.Request) -> object:
    chosen = await _body(request, Chosen)
    return {"dropped": await guest.do(deadletters.drop, chosen.letters())}


# --- replays ---------------------------------------------------------------------------------


async def _replays(guest: Visit, request: web.Request) -> object:
    asked = _query(request, {"destination": "destination"})
    return {"replays": await guest.do(replays.replays, asked.get("destination", ""))}


async def _replay(guest: Visit, request: web.Request) -> object:
    return await guest.do(replays.replay, _number(request))


async def _order(guest: Visit, request: web.Request) -> object:
    order = await _body(request, Order)
    selection = order.selection()
    whole = await guest.do(replays.prepare, order.destination, selection)
    events = 0 if whole is None else await _count(guest, selection, whole)
    if order.dry_run:
        return {"events": events}  # null: there are too many to count here
    if whole is None:
        raise BadRequest("nothing_chosen", "no event is stored in that time: choose another")
    number = await guest.do(replays.create, order.destination, selection, whole, events)
    return await guest.do(replays.replay, number)


async def _count(guest: Visit, selection: Selection, whole: replays.Span) -> int | None:
    until = time.monotonic() + COUNT_SECONDS
    events = 0
    for piece in replays.pieces(whole):
        if time.monotonic() > until:
            return None
        events += await guest.do(replays.count, selection, piece)
    return events


async def _cancel(guest: Visit, request: web.Request) -> object:
    return {"changed": await guest.do(replays.cancel, _number(request))}


async def _pause_replay(guest: Visit, request: web.Request) -> object:
    why = await _body(request, Why)
    return {"changed": await guest.do(replays.pause_replay, _number(request), why.detail)}


async def _resume_replay(guest: Visit, request: web.Request) -> object:
    return {"changed": await guest.do(replays.resume_replay, _number(request))}


# --- traces ----------------------------------------------------------------------------------


async def _trace(guest: Visit, request: web.Request) -> object:
    return await guest.do(trace.trace, request.match_info["message_id"])
