"""Destinations: `collector destinations`, how each stands, and the switch."""

from typing import Any

import click

from collector.cli.asking import ask, config_option, json_option
from collector.cli.tables import (
    ago,
    by_reason,
    many,
    members,
    plain,
    show_json,
    show_notes,
    span,
    table,
)
from collector.cli.trial import test
from collector.config import Config
from collector.errors import BadRequest
from collector.store.desk import Visit, couriers
from collector.store.desk.couriers import Standing

NUMBERS = (
    "lag", "pending", "waiting", "rate/s", "delivered", "skipped", "refused", "dead letters",
)  # fmt: skip
COLUMNS = ("destination", "type", "state", *NUMBERS)


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def destinations(ctx: click.Context, path: str | None, *, as_json: bool) -> None:
    """Show how each destination stands; pause, resume, test."""
    if ctx.invoked_subcommand is not None:
        return

    async def look(guest: Visit, config: Config) -> tuple[list[Standing], Config]:
        return await guest.do(couriers.destinations), config

    found, config = ask(path, look)
    configured = {one.name: one for one in config.destinations}
    if as_json:
        show_json(
            [
                members(one)
                | {"configured": one.name in configured and configured[one.name].enabled}
                for one in found
            ]
        )
        return
    if found:
        click.echo(table(COLUMNS, [_row(one) for one in found], NUMBERS))
    notes = [note for one in found for note in _notes(one)]
    notes += _differences({one.name for one in found}, configured)
    show_notes(notes)
    if not found and not notes:
        click.echo("There is no destination: add a [[destinations]] table, and start.")


def _row(one: Standing) -> list[str]:
    outcomes = one.outcomes
    return [
        one.name,
        one.type,
        f"{one.state}, {one.reason}" if one.reason else one.state,
        span(one.lag_seconds) if one.pending else "-",
        f"{one.pending:,}",
        f"{one.waiting:,}",
        f"{one.rate_per_second:,.1f}",
        f"{outcomes.delivered:,}",
        f"{sum(outcomes.skipped.values()):,}",
        f"{sum(outcomes.refused.values()):,}",
        f"{one.dead_letters:,}",
    ]


def _notes(one: Standing) -> list[str]:
    """What does not fit into a row."""
    notes = []
    if one.reason:
        lasted = f" for {ago(one.since).removesuffix(' ago')}" if one.since else ""
        notes.append(f"{one.reason}{lasted}: {plain(one.detail or '')}")
        if one.state == "paused":
            notes[-1] += f"; to go on: collector destinations resume {one.name}"
    if one.pending and one.owner is None:
        notes.append("no collector serves it now: start one")
    if one.last_error:
        when = f" {ago(one.last_error_at)}" if one.last_error_at else ""
        notes.append(f"last error{when}: {plain(one.last_error)}")
    if one.outcomes.skipped:
        notes.append(f"skipped: {by_reason(one.outcomes.skipped)}")
    if one.outcomes.refused:
        notes.append(f"refused: {by_reason(one.outcomes.refused)}")
    return [f"{one.name}: {note}" for note in notes]


def _differences(known: set[str], configured: dict[str, Any]) -> list[str]:
    """Where this configuration and the tables do not agree."""
    notes = []
    for name, settings in sorted(configured.items()):
        if settings.enabled and name not in known:
            notes.append(f"{name}: configured, and has not begun yet: start the collector")
    for name in sorted(known):
        if name not in configured:
            notes.append(f"{name}: not in this configuration: its events wait")
        elif not configured[name].enabled:
            notes.append(f"{name}: switched off by `enabled`: its events wait")
    return notes


def _check(name: str, config: Config, error: BadRequest) -> BadRequest:
    """A name that is configured and has no row is no mistake of whoever asked."""
    if error.code == "unknown_destination" and any(d.name == name for d in config.destinations):
        return BadRequest(
            error.code, f"{name} is configured and has not begun yet: start the collector", 404
        )
    return error


@destinations.command()
@click.argument("name")
@click.option("--because", "detail", metavar="TEXT", help="Why, for whoever looks at it next.")
@config_option
@json_option
def pause(name: str, detail: str | None, path: str | None, *, as_json: bool) -> None:
    """Stop sending to NAME until it is resumed. Its events wait, and are kept."""

    async def act(guest: Visit, config: Config) -> bool:
        try:
            return await guest.do(couriers.pause, name, detail)
        except BadRequest as exc:
            raise _check(name, config, exc) from exc

    changed = ask(path, act)
    if as_json:
        show_json({"changed": changed})
    elif changed:
        click.echo(
            f"{name} is paused: nothing is sent to it within a second or two. "
            f"To go on: collector destinations resume {name}"
        )
    else:
        click.echo(f"{name} was paused before.")


@destinations.command()
@click.argument("name")
@config_option
@json_option
def resume(name: str, path: str | None, *, as_json: bool) -> None:
    """Go on sending to NAME where it stopped."""

    async def act(guest: Visit, config: Config) -> tuple[bool, int]:
        try:
            changed = await guest.do(couriers.resume, name)
        except BadRequest as exc:
            raise _check(name, config, exc) from exc
        standing = await guest.do(couriers.destinations)
        return changed, next((one.pending for one in standing if one.name == name), 0)

    changed, pending = ask(path, act)
    if as_json:
        show_json({"changed": changed})
    elif changed:
        click.echo(f"{name} goes on, with {many(pending, 'event')} pending.")
    else:
        click.echo(f"{name} was not paused.")


destinations.add_command(test)
