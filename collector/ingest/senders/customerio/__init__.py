"""
Customerio: Customer.io's Track API, versions 1 and 2, for its clients customerio (PyPI) and
customerio-node.

    PUT, DELETE  /api/v1/customers/{id}
    POST         /api/v1/customers/{id}/{events,suppress,unsuppress}
    PUT, DELETE  /api/v1/customers/{id}/devices[/{device}]
    POST         /api/v1/{events,merge_customers,push/events,metrics}
    POST         /api/v1/segments/{id}/{add_customers,remove_customers}
    GET          /api/v1/accounts/region
    POST         /api/v2/{entity,batch}

Basic auth, site id as user and API key as password: a source's write key is both with a colon
between, or the site id alone. Answers 200 `{}`, never 204, which one of the clients takes for a
failure; a batch of which some operations are bad is a 207 that names them. Errors say what is
wrong in `meta.error` and `errors`, where the clients look for it.

Shapes   an id in a path is percent-encoded once, slashes too: it is taken from the raw path.
Source   Customer.io, "Track API"; recorded requests in tests/wire
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from urllib.parse import unquote

import msgspec

from collector import metrics
from collector.errors import BadRequest, CollectorError
from collector.event import BATCH, Problem, Refusal
from collector.ingest.decode import REFUSED_DATA_BYTES, Decoded
from collector.ingest.intake import Intake
from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Handler, Methods, Route, Sender
from collector.ingest.senders.customerio import calls
from collector.ingest.senders.customerio.operations import operate
from collector.ingest.senders.customerio.person import NOBODY, Event, Person
from collector.ingest.senders.members import Invalid, Members, read, text
from collector.leniency import Unreadable, split

OK = Reply(200, b"{}")
THREAD_BYTES = 256 << 10  # reading more than this leaves the loop alone
MORE_BYTES = 4_096  # that a call may have beside what becomes its event
NAMED_MAX = 50  # operations of a batch that are named in its answer; all are counted and kept
AGENT_CHARS = 100

Make = Callable[[Members], list[Event]]


class CustomerIo(Sender):
    """Handlers of the Track API."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> Iterator[Route]:
        anonymous = partial(_event, NOBODY)
        yield Route("/api/v1/events", "POST", self._handler(anonymous))
        yield Route("/api/v1/merge_customers", "POST", self._handler(calls.merge))
        yield Route("/api/v1/push/events", "POST", self._handler(_delivery))
        yield Route("/api/v1/metrics", "POST", self._handler(_delivery))
        yield Route("/api/v1/accounts/region", "GET", partial(_told, self._region))
        yield Route("/api/v2/entity", "POST", self._handler(operate))
        yield Route("/api/v2/batch", "POST", partial(_told, self._batch))

    def find(self, base: str, path: str) -> Methods | None:
        parts = path.removesuffix("/").split("/")
        if parts[:3] != ["", "api", "v1"] or len(parts) < 5 or not parts[4]:
            return None
        _, _, _, what, id_, *rest = parts
        number = unquote(id_, errors="replace")
        if what == "customers":
            return self._about_person(Person(number), rest)
        if (
            what == "segments"
            and len(rest) == 1
            and rest[0] in {"add_customers", "remove_customers"}
        ):
            entered = rest[0] == "add_customers"
            return {"POST": partial(_told, partial(self._segment, number, entered))}
        return None

    def _about_person(self, person: Person, rest: list[str]) -> Methods | None:
        match rest:
            case []:
                return {
                    "PUT": self._handler(lambda call: calls.identify(person, call, {})),
                    "DELETE": self._handler(lambda _: person.track("User Deleted", {})),
                }
            case ["events"]:
                return {"POST": self._handler(partial(_event, person))}
            case ["suppress" | "unsuppress" as action]:
                name = calls.ABOUT_PEOPLE[action]
                return {"POST": self._handler(lambda _: person.track(name, {}))}
            case ["devices"]:
                return {"PUT": self._handler(partial(calls.device, person))}
            case ["devices", device] if device:
                token = unquote(device, errors="replace")
                return {"DELETE": self._handler(lambda _: calls.no_device(person, token, {}))}
            case _:
                return None

    # --- requests --------------------------------------------------------------------------

    def _handler(self, make: Make) -> Handler:
        return partial(_told, partial(self._one, make))

    async def _one(self, make: Make, request: Request) -> Reply:
        """One call, of which all is taken or nothing."""

        async def take(body: bytes) -> tuple[Reply, Decoded | None]:
            if len(body) > self._intake.settings.event_bytes_max + MORE_BYTES:
                most = self._intake.settings.event_bytes_max
                detail = f"an event may have {most} bytes, not {len(body)}"
                raise Invalid(Problem("event_too_large", detail))
            events = make(read(body, self._intake.settings.depth_max))
            if not events:
                return OK, None
            decoded = await self._decode(events, request)
            if decoded.problems:
                raise Invalid(decoded.problems[0][1])
            return OK, decoded

        return await self._take(take, request)

    async def _segment(self, number: str, entered: bool, request: Request) -> Reply:
        id_type = request.query().get("id_type", "id")

        def make(call: Members) -> list[Event]:
            return calls.segment(number, call, id_type, entered=entered)

        return await self._one(make, request)

    async def _batch(self, request: Request) -> Reply:
        """Many operations: what is wrong with one costs the others nothing."""

        async def take(body: bytes) -> tuple[Reply, Decoded | None]:
            if len(body) > THREAD_BYTES:
                made = await asyncio.to_thread(self._operations, body)
            else:
                made = self._operations(body)
            if not made.operations:
                return OK, None
            decoded = await self._decode(made.events, request)
            found = [(made.belongs[index], problem, "") for index, problem in decoded.problems]
            errors = [
                {"batch_index": index} | _error(problem, field)
                for index, problem, field in sorted(found + made.wrong)
            ]
            problems = decoded.problems + [
                (refusal.index, Problem(refusal.code, refusal.detail)) for refusal in made.refusals
            ]
            decoded = decoded._replace(
                events=decoded.events + len(made.refusals),
                refusals=decoded.refusals + made.refusals,
                problems=problems,
            )
            if not errors:
                return OK, decoded
            return Reply.json(207, {"errors": errors[:NAMED_MAX]}), decoded

        return await self._take(take, request)

    async def _take(
        self,
        take: Callable[[bytes], Awaitable[tuple[Reply, Decoded | None]]],
        request: Request,
    ) -> Reply:
        intake = self._intake
        body = await intake.body(request)
        began = time.perf_counter()
        source_name = ""
        try:
            source = intake.source(request, intake.key(request, None))
            source_name = source.name
            try:
                reply, decoded = await take(body.data)
            except Invalid as exc:
                error = BadRequest(*exc.problem)
                error.beside = {"errors": [_error(exc.problem, exc.field)]}
                raise error from exc
            if decoded is not None:
                await intake.accept(request, source, BATCH, decoded, by_server=True)
        except BadRequest as exc:
            intake.keep(request, exc, body.data, source_name)
            raise
        finally:
            body.release()
        metrics.ack_seconds.observe(time.perf_counter() - began)
        return reply

    async def _region(self, request: Request) -> Reply:
        """Where this account is: here, if the credentials are right."""
        intake = self._intake
        try:
            intake.source(request, intake.key(request, None))
        except BadRequest as exc:
            intake.keep(request, exc)
            raise
        host = request.header("Host") or ""
        answer = {"url": host, "region": "us", "data_center": "us", "environment_id": 1}
        return Reply(200, msgspec.json.encode(answer))

    # --- events ----------------------------------------------------------------------------

    async def _decode(self, events: list[Event], request: Request) -> Decoded:
        batch: dict[str, object] = {"batch": events}
        name, slash, version = (request.header("User-Agent") or "")[:AGENT_CHARS].partition("/")
        if slash and name.startswith("Customer.io"):
            batch["context"] = {"library": {"name": name, "version": version}}
        return await self._intake.decoder.decode(msgspec.json.encode(batch), BATCH)

    def _operations(self, body: bytes) -> "_Made":
        settings = self._intake.settings
        try:
            found = split(body, elements_max=10 * settings.batch_events_max)
        except Unreadable as exc:
            raise Invalid(Problem(exc.code, exc.detail)) from exc
        if found.elements is None:
            detail = 'the body needs a list named "batch": add one'
            raise Invalid(Problem("missing_batch", detail), "batch")
        made = _Made(len(found.elements))
        for index, element in enumerate(found.elements):
            try:
                if len(element) > settings.event_bytes_max:
                    detail = f"an event may have {settings.event_bytes_max} bytes"
                    raise Invalid(Problem("event_too_large", detail))
                events = operate(read(element, settings.depth_max))
                if len(made.events) + len(events) > settings.batch_events_max:
                    detail = f"a batch becomes at most {settings.batch_events_max} events"
                    raise Invalid(Problem("too_many_events", f"{detail}: send smaller ones"))
            except Invalid as exc:
                made.refuse(index, exc, element)
            else:
                made.belongs += [index] * len(events)
                made.events += events
        return made


class _Made:
    """What became of the operations of a batch."""

    def __init__(self, operations: int) -> None:
        self.operations = operations
        self.events: list[Event] = []
        self.belongs: list[int] = []  # the operation of each event
        self.refusals: list[Refusal] = []
        self.wrong: list[tuple[int, Problem, str]] = []  # the same, and the field to blame

    def refuse(self, index: int, exc: Invalid, element: bytes) -> None:
        self.refusals.append(Refusal(index, *exc.problem, element[:REFUSED_DATA_BYTES]))
        self.wrong.append((index, exc.problem, exc.field))


def _event(person: Person, call: Members) -> list[Event]:
    return calls.event(person, call, text(call, "type") or "event", "data")


def _delivery(call: Members) -> list[Event]:
    return calls.delivery(
        call, text(call, "delivery_id"), text(call, "event") or text(call, "metric")
    )


def _error(problem: Problem, field: str) -> dict[str, object]:
    return {"reason": problem.code, "field": field, "message": problem.detail}


async def _told(take: Handler, request: Request) -> Reply:
    """What *take* answers, an error in the words that the clients look for."""
    try:
        return await take(request)
    except CollectorError as exc:
        exc.beside = {"meta": {"error": exc.detail}} | exc.beside
        raise
