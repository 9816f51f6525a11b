"""Trace: `collector trace`, one message id from its request to every destination."""

import sys

import click

from collector.cli.asking import ask, config_option, json_option
from collector.cli.tables import ago, clock, members, plain, show_json, show_notes, table
from collector.config import Config
from collector.store.desk import Visit
from collector.store.desk import trace as desk
from collector.store.desk.trace import Fate, Stored, Trace

COLUMNS = ("destination", "outcome", "at", "attempts", "why")
OUTCOMES = {
    "pending": "not reached yet",
    "before_start": "not its business: stored before the destination began",
    "settled": "settled, details no longer kept",
    "sending": "being sent",
    "cancelled": "not sent: the replay was cancelled before it was reached",
}


@click.command()
@click.argument("message_id")
@config_option
@json_option
def trace(message_id: str, path: str | None, *, as_json: bool) -> None:
    """Show what became of one event, everywhere.

    Exit status 1 if nothing is known of it.
    """

    async def look(guest: Visit, _: Config) -> Trace:
        return await guest.do(desk.trace, message_id)

    found = ask(path, look)
    if as_json:
        show_json(members(found))
    else:
        _show(found)
    if not found.stored and not found.rejected:
        sys.exit(1)


def _show(found: Trace) -> None:
    for one in found.rejected:
        answered = "answered 200, and kept" if one.accepted else "refused"
        click.echo(
            f"rejected  {clock(one.rejected_at)} from {one.source or 'an unknown key'}, {answered} "
            f"in rejected_events as {one.id}: {one.reason}: {plain(one.detail)}"
        )
    for stored in found.stored:
        _show_stored(stored)
    if not found.stored:
        click.echo(
            f"{plain(found.message_id)} is not stored (yet). If it was answered 200 it is in a "
            "journal, of which collector status shows how many events wait;"
            if not found.rejected
            else "No event with this id is stored."
        )
        if not found.rejected:
            click.echo(
                "otherwise it never arrived, was refused with another status, or is past its "
                "retention."
            )


def _show_stored(stored: Stored) -> None:
    name = f" {plain(stored.event)!r}" if stored.event else ""
    click.echo(f"stored    {stored.type}{name} as seq {stored.seq} from {stored.source}")
    for label, at in (
        ("happened", stored.timestamp),
        ("sent", stored.sent_at),
        ("received", stored.received_at),
    ):
        if at is not None:
            click.echo(f"{label:<9} {clock(at)}, {ago(at)}")
    for label, value in (("user", stored.user_id), ("anonymous", stored.anonymous_id)):
        if value is not None:
            click.echo(f"{label:<9} {plain(value)}")
    click.echo()
    if not stored.fates:
        click.echo("There is no destination.")
        return
    click.echo(table(COLUMNS, [_row(fate) for fate in stored.fates], ("attempts",)))
    notes = [(_who(fate), _note(fate)) for fate in stored.fates]
    show_notes([f"{who}: {note}" for who, note in notes if note])


def _who(fate: Fate) -> str:
    return f"{fate.destination}, replay {fate.replay}" if fate.replay else fate.destination


def _row(fate: Fate) -> list[str]:
    return [
        _who(fate),
        OUTCOMES.get(fate.outcome, fate.outcome),
        clock(fate.at),
        "" if fate.attempts is None else f"{fate.attempts:,}",
        fate.reason or "",
    ]


def _note(fate: Fate) -> str:
    """What does not fit into a row."""
    words = []
    if fate.detail:
        words.append(plain(fate.detail))
    if fate.not_before:
        words.append(f"not tried before {clock(fate.not_before)}")
    if fate.held_up_by:
        words.append(f"held up: {fate.held_up_by}")
    if fate.dead_letter:
        words.append(f"dead letter {fate.dead_letter}")
    if fate.retry:
        words.append(f"tried again by replay {fate.retry}")
    return ", ".join(words)
