"""
Trial: `collector destinations test`, one event sent to a destination while somebody looks on.

    sample or stored event ─gate─▶ overrides ─▶ map ─▶ send, in the vendor's test mode ─▶ shown

Nothing is written down: no cursor moves, no claim is taken, no dead letter is made. A sample passes
the gate unasked, because it is about nobody; a stored event that live delivery would withhold is
withheld here, too. What gives access is masked.

Errors   exit status 1 if the event was not taken.
"""

import contextlib
import sys
import zlib
from collections.abc import Mapping
from typing import Any

import click
import msgspec
import uvloop

from collector.cli.asking import ask, config_option, fail, json_option, load_config
from collector.cli.samples import TRAITS, sample
from collector.cli.tables import plain, show_json
from collector.config import Config
from collector.destinations.base import Later, Outcome, Parcel, Refused, Skipped
from collector.destinations.gate import REASONS
from collector.destinations.masking import masked
from collector.destinations.outbound import Exchange, Outbound
from collector.destinations.route import Route
from collector.destinations.settings import DestinationSettings
from collector.errors import BadRequest, CollectorError
from collector.event import EVENT_TYPES
from collector.store import deliveries
from collector.store.desk import Visit
from collector.store.desk.events import events_with
from collector.store.stored import NOTHING, Json, StoredEvent

SHOWN_BYTES_MAX = 20_000
INFLATE_GZIP = 31  # of zlib


class Trial(msgspec.Struct, kw_only=True):
    """What was sent, what came back, and what the courier would make of it."""

    destination: str
    type: str
    message_id: str
    outcome: str  # taken, skipped, refused, later or failed
    reason: str | None = None
    detail: str | None = None
    exchanges: list[dict[str, Any]] = []


@click.command()
@click.argument("name")
@click.option("--event", "message_id", metavar="MESSAGE_ID", help="A stored event.")
@click.option(
    "--sample",
    "type_",
    type=click.Choice(sorted(EVENT_TYPES)),
    help="An event about nobody; the default, of a type that the destination takes.",
)
@config_option
@json_option
def test(
    name: str, message_id: str | None, type_: str | None, path: str | None, *, as_json: bool
) -> None:
    """Send one event to NAME and show what is said.

    Request and answer are shown, secrets masked. It is sent in the vendor's test mode, where the
    vendor has one. A webhook and whatever takes Segment's API have none: there the event arrives as
    any other does.
    """
    if message_id and type_:
        raise click.UsageError("--event and --sample contradict each other: take one away.")
    config = load_config(path)
    try:
        settings = _settings(config, name)
    except BadRequest as exc:
        fail(exc)
    event, person = (None, NOTHING)
    if message_id:
        event, person = ask(path, _finder(message_id))
    try:
        trial = uvloop.run(_try(config, settings, event, person, type_))
    except CollectorError as exc:
        fail(exc)
    if as_json:
        show_json(trial)
    else:
        _show(trial)
    if trial.outcome != "taken":
        sys.exit(1)


def _settings(config: Config, name: str) -> DestinationSettings:
    for settings in config.destinations:
        if settings.name == name:
            return settings
    known = ", ".join(one.name for one in config.destinations)
    raise BadRequest(
        "unknown_destination",
        f"there is no destination {name} in this configuration: "
        + (f"name one of {known}" if known else "add a [[destinations]] table"),
    )


def _finder(message_id: str) -> Any:
    async def find(guest: Visit, _: Config) -> tuple[StoredEvent, Json]:
        events = await guest.do(events_with, message_id)
        if not events:
            raise BadRequest(
                "unknown_event",
                f"no event with the id {message_id} is stored: see collector trace, or try one "
                "with --sample",
            )
        event = events[-1]
        persons = await guest.do(deliveries.persons, [event.user_id or ""])
        traits = persons.get(event.user_id or "")
        return event, msgspec.json.decode(traits) if traits else NOTHING

    return find


async def _try(
    config: Config,
    settings: DestinationSettings,
    event: StoredEvent | None,
    person: Json,
    type_: str | None,
) -> Trial:
    exchanges: list[Exchange] = []
    http = Outbound(
        timeout_seconds=settings.timeout_seconds,
        connections_max=1,
        private_addresses=settings.private_addresses,
    )
    http.watch = exchanges.append
    destination = settings.build(http)
    route = Route(destination, {source.name: source.kind for source in config.sources})
    skipped = None
    if event is None:
        types = settings.types or [
            one for one in ("track", "page", "identify") if one in destination.types
        ]
        event = sample(type_ or types[0])
        person = TRAITS
    else:
        skipped = route.skip(event)
    trial = Trial(
        destination=settings.name, type=event.type, message_id=event.message_id, outcome="skipped"
    )
    if skipped is not None:
        trial.reason, trial.detail = skipped, REASONS.get(skipped)
        return trial
    await destination.open()
    try:
        mapped = route.map(event, person)
        if isinstance(mapped, Parcel):
            _judge(trial, (await destination.send([mapped], test=True))[0])
        else:
            _judge(trial, mapped)
    except CollectorError as exc:
        trial.outcome, trial.reason, trial.detail = "failed", exc.code, exc.detail
    finally:
        await destination.close()
        await http.close()
    trial.exchanges = [_shown(one, settings) for one in exchanges]
    return trial


def _judge(trial: Trial, outcome: Outcome | Skipped) -> None:
    trial.outcome = type(outcome).__name__.lower()
    if isinstance(outcome, Skipped | Refused | Later):
        trial.reason = outcome.reason
    if isinstance(outcome, Refused | Later):
        trial.detail = outcome.detail


# --- what people see -------------------------------------------------------------------------


def _shown(exchange: Exchange, settings: DestinationSettings) -> dict[str, Any]:
    """One request and its answer, without what gives access."""
    packed = exchange.headers.get("Content-Encoding", "").lower() == "gzip"
    if packed:
        with contextlib.suppress(zlib.error):
            body = zlib.decompressobj(INFLATE_GZIP).decompress(exchange.body, SHOWN_BYTES_MAX)
            exchange = exchange._replace(body=body)
    exchange = masked(exchange, settings.secret_values())
    found: dict[str, Any] = {
        "request": {
            "method": exchange.method,
            "url": exchange.url,
            "headers": dict(exchange.headers),
            "body": _body(exchange.body),
        }
    }
    answer = exchange.answer
    if answer is not None:
        found["answer"] = {
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": _body(answer.body),
        }
    if exchange.error is not None:
        found["error"] = {"code": exchange.error.code, "message": exchange.error.detail}
    return found


def _body(body: bytes) -> Any:
    """JSON as what it says, everything else as text."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:SHOWN_BYTES_MAX].decode(errors="replace")


def _show(trial: Trial) -> None:
    click.echo(f"{trial.type} {trial.message_id} to {trial.destination}")
    for exchange in trial.exchanges:
        request = exchange["request"]
        click.echo(f"\n> {request['method']} {plain(request['url'])}")
        _show_message(">", request["headers"], request["body"])
        if answer := exchange.get("answer"):
            click.echo(f"\n< {answer['status']}")
            _show_message("<", answer["headers"], answer["body"])
        if error := exchange.get("error"):
            click.echo(f"\n< {error['code']}: {plain(error['message'])}")
    why = ": ".join(plain(word) for word in (trial.reason, trial.detail) if word)
    click.echo(f"\n{trial.outcome}{f': {why}' if why else ''}")


def _show_message(mark: str, headers: Mapping[str, str], body: object) -> None:
    for name, value in headers.items():
        click.echo(f"{mark} {plain(name)}: {plain(value)}")
    text = (
        body if isinstance(body, str) else msgspec.json.format(msgspec.json.encode(body)).decode()
    )
    for line in text[:SHOWN_BYTES_MAX].splitlines():
        click.echo(f"{mark} {plain(line)}")
    if len(text) > SHOWN_BYTES_MAX:
        click.echo(f"{mark} … {len(text):,} characters in all")
