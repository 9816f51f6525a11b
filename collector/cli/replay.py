"""
Replay: `collector replay`, a part of the past sent to a destination again.

    count, with progress ─▶ start ─▶ watch until it ends, see watch.py
"""

import sys
from datetime import datetime
from typing import Any

import click

from collector.cli.asking import (
    ask,
    config_option,
    json_option,
    since_option,
    until_option,
)
from collector.cli.progress import Progress, Silence
from collector.cli.tables import ago, many, plain, show_json, show_notes, table
from collector.cli.watch import GOING, count, share_of, watch
from collector.config import Config
from collector.errors import BadRequest
from collector.event import EVENT_TYPES
from collector.store.desk import Visit, replays
from collector.store.desk.replays import Replay
from collector.store.selection import Selection

NUMBERS = ("replay", "done", "delivered", "of", "rate/s")
COLUMNS = ("replay", "destination", "state", "started", "done", "delivered", "of", "rate/s", "what")


@click.group(invoke_without_command=True)
@click.option("--destination", metavar="NAME", help="Where they go.")
@since_option
@until_option
@click.option(
    "--event", "events", metavar="NAME", multiple=True, help="With this name; * and ? allowed."
)
@click.option(
    "--type",
    "types",
    type=click.Choice(sorted(EVENT_TYPES)),
    multiple=True,
    help="Of this type. Default: track, page and screen.",
)
@click.option("--source", "sources", metavar="NAME", multiple=True, help="From this source.")
@click.option("--message-id", "message_ids", metavar="ID", multiple=True, help="With this id.")
@click.option(
    "--where", metavar="SQL", default="", help="For which this holds, of collector.events e."
)
@click.option("--dry-run", is_flag=True, help="Only count them.")
@click.option("--detach", is_flag=True, help="Start it, and do not watch.")
@config_option
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    destination: str | None,
    since: datetime | None,
    until: datetime | None,
    events: tuple[str, ...],
    types: tuple[str, ...],
    sources: tuple[str, ...],
    message_ids: tuple[str, ...],
    where: str,
    path: str | None,
    *,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """Send stored events to a destination again.

    Or for the first time. Times are those at which events were received. identify, group and alias
    are sent only if --type or --message-id names them: old traits would overwrite newer ones.
    Vendors that know an event by its id take it once, for as long as they remember it.
    """
    selection = Selection(
        since=since,
        until=until,
        events=list(events),
        types=list(types),
        sources=list(sources),
        message_ids=list(message_ids),
        where=where,
    )
    if ctx.invoked_subcommand is not None:
        if destination or selection != Selection():
            raise click.UsageError(f"{ctx.invoked_subcommand} goes before its own options.")
        return
    if not destination:
        raise click.UsageError(
            "Say where to: --destination NAME; or list, cancel, pause, resume for those there are."
        )
    name = destination
    progress = Silence() if as_json else Progress()

    async def begin(guest: Visit, _: Config) -> Replay | int:
        whole = await guest.do(replays.prepare, name, selection)
        total = await count(guest, selection, whole, progress) if whole is not None else 0
        if dry_run:
            return total
        if whole is None or not total:
            raise BadRequest(
                "nothing_chosen", "there is no such event: nothing was started. Choose others"
            )
        number = await guest.do(replays.create, name, selection, whole, total)
        return await guest.do(replays.replay, number)

    started = ask(path, begin)
    if isinstance(started, int):
        if as_json:
            show_json({"events": started})
        else:
            click.echo(f"{many(started, 'event')} would go to {name}.")
        return
    progress.say(f"Replay {started.id}: {many(started.total or 0, 'event')} to {name}.")
    ended = started if detach else watch(path, started, progress)
    if as_json:
        show_json(ended)
    elif detach:
        click.echo(f"To see how far it is: collector replay list --destination {name}")
    if ended.state == "cancelled":
        sys.exit(1)


# --- those that there are --------------------------------------------------------------------


@replay.command("list")
@click.option("--destination", metavar="NAME", default="", help="Of this one alone.")
@config_option
@json_option
def show_list(destination: str, path: str | None, *, as_json: bool) -> None:
    """List replays, newest first."""

    async def look(guest: Visit, _: Config) -> list[Replay]:
        return await guest.do(replays.replays, destination)

    found = ask(path, look)
    if as_json:
        show_json(found)
    elif not found:
        click.echo("There is no replay.")
    else:
        click.echo(table(COLUMNS, [_row(one) for one in found], NUMBERS))
        show_notes(
            [
                f"replay {one.id}: {one.reason}: {plain(one.detail or '')}"
                for one in found
                if one.reason and one.state in GOING
            ]
        )


def _row(one: Replay) -> list[str]:
    return [
        str(one.id),
        one.destination,
        one.state,
        ago(one.created_at),
        f"{share_of(one)} %",
        f"{one.outcomes.delivered:,}",
        "?" if one.total is None else f"{one.total:,}",
        f"{one.rate_per_second:,.1f}",
        describe(one.selection),
    ]


def describe(selection: Selection) -> str:
    """Which events, in a line."""
    words = []
    if selection.dead_letters:
        words.append("dead letters")
    words += [*selection.types, *(f'"{event}"' for event in selection.events)]
    words += [f"from {source}" for source in selection.sources]
    words += [many(len(selection.message_ids), "id")] if selection.message_ids else []
    words += [f"since {selection.since:%Y-%m-%d %H:%M}"] if selection.since else []
    words += [f"until {selection.until:%Y-%m-%d %H:%M}"] if selection.until else []
    words += [f"where {selection.where}"] if selection.where else []
    return " ".join(words) or "all that happened"


number = click.argument("number", metavar="REPLAY", type=click.IntRange(1, 2**63 - 1))


def _act(path: str | None, job: Any, *arguments: Any, as_json: bool, done: str, not_: str) -> None:
    async def act(guest: Visit, _: Config) -> bool:
        changed: bool = await guest.do(job, *arguments)
        return changed

    changed = ask(path, act)
    if as_json:
        show_json({"changed": changed})
    else:
        click.echo(done if changed else not_)


@replay.command()
@number
@config_option
@json_option
def cancel(number: int, path: str | None, *, as_json: bool) -> None:
    """End a replay for good. What was sent stays sent."""
    _act(
        path,
        replays.cancel,
        number,
        as_json=as_json,
        done=f"Replay {number} is cancelled.",
        not_=f"Replay {number} was cancelled before.",
    )


@replay.command()
@number
@click.option("--because", "detail", metavar="TEXT", help="Why, for whoever looks at it next.")
@config_option
@json_option
def pause(number: int, detail: str | None, path: str | None, *, as_json: bool) -> None:
    """Stop a replay until it is resumed."""
    _act(
        path,
        replays.pause_replay,
        number,
        detail,
        as_json=as_json,
        done=f"Replay {number} is paused. To go on: collector replay resume {number}",
        not_=f"Replay {number} was paused before.",
    )


@replay.command()
@number
@config_option
@json_option
def resume(number: int, path: str | None, *, as_json: bool) -> None:
    """Go on with a replay."""
    _act(
        path,
        replays.resume_replay,
        number,
        as_json=as_json,
        done=f"Replay {number} goes on.",
        not_=f"Replay {number} was not paused.",
    )
