"""Dead letters: `collector dead-letters`, what a destination refused for good."""

from collections.abc import Callable
from typing import Any

import click
import msgspec

from collector.cli.asking import (
    ask,
    config_option,
    fail,
    json_option,
    since_option,
    until_option,
)
from collector.cli.tables import by_reason, clock, many, plain, show_json, table
from collector.config import Config
from collector.errors import BadRequest
from collector.event import EVENT_TYPES
from collector.store.desk import Visit, deadletters
from collector.store.desk.deadletters import DeadLetter, Letters, Page, Retry

COLUMNS = ("id", "failed at", "destination", "reason", "event", "message id", "attempts", "retry")
NUMBERS = ("id", "attempts")
FILTERS = (
    click.option("--destination", metavar="NAME", default="", help="Refused by this one."),
    click.option("--reason", metavar="WORD", default="", help="Refused for this."),
    click.option("--event", metavar="NAME", default="", help="With this name; * and ? allowed."),
    click.option(
        "--type", "types", type=click.Choice(sorted(EVENT_TYPES)), multiple=True, help="Of a type."
    ),
    click.option("--message-id", metavar="ID", default="", help="The event with this id."),
    since_option,
    until_option,
)


def filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options that choose dead letters."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def chosen(*, ids: tuple[int, ...] = (), all_: bool, **members: Any) -> Letters:
    """Which dead letters; without a choice all of them, if that is what was said."""
    members["types"] = list(members["types"])
    letters = Letters(ids=list(ids), **members)
    if letters == Letters() and not all_:
        raise click.UsageError("Say which: numbers, filters such as --reason, or --all.")
    if len(ids) > deadletters.LIMIT_MAX:
        raise click.UsageError(f"No more than {deadletters.LIMIT_MAX:,} numbers at once.")
    return letters


numbers = click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(1, 2**63 - 1))
everything = click.option("--all", "all_", is_flag=True, help="All that there are.")


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that destinations refused: look, try again, drop."""


@dead_letters.command("list")
@filtered
@click.option(
    "--limit", type=click.IntRange(1, deadletters.LIMIT_MAX), default=50, show_default=True
)
@config_option
@json_option
def show_list(limit: int, path: str | None, *, as_json: bool, **members: Any) -> None:
    """List them, newest first, and count them by reason."""
    letters = chosen(all_=True, **members)

    async def look(guest: Visit, _: Config) -> Page:
        return await guest.do(deadletters.dead_letters, letters, limit)

    page = ask(path, look)
    if as_json:
        show_json(page)
        return
    if not page.total:
        click.echo("There is no dead letter like that." if letters != Letters() else
                   "There is no dead letter.")  # fmt: skip
        return
    click.echo(table(COLUMNS, [_row(letter) for letter in page.dead_letters], NUMBERS))
    click.echo()
    if page.total > len(page.dead_letters):
        click.echo(f"{many(page.total, 'dead letter')}, of which the newest are shown.")
    for destination, reasons in page.reasons.items():
        click.echo(f"{destination}: {by_reason(reasons)}")


def _row(letter: DeadLetter) -> list[str]:
    return [
        str(letter.id),
        clock(letter.failed_at),
        letter.destination,
        letter.reason,
        letter.event or letter.type or "",
        letter.message_id or "",
        f"{letter.attempts:,}",
        f"replay {letter.retry}" if letter.retry else "",
    ]


@dead_letters.command()
@click.argument("number", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@config_option
@json_option
def show(number: int, path: str | None, *, as_json: bool) -> None:
    """Show one with all that is known, and the event."""

    async def look(guest: Visit, _: Config) -> tuple[DeadLetter, dict[str, Any] | None]:
        return await guest.do(deadletters.dead_letter, number)

    letter, event = ask(path, look)
    if as_json:
        show_json({"dead_letter": letter, "event": event})
        return
    facts = {
        "dead letter": str(letter.id),
        "destination": letter.destination,
        "failed at": clock(letter.failed_at),
        "reason": letter.reason,
        "detail": letter.detail,
        "attempts": f"{letter.attempts:,}",
        "tried again": f"by replay {letter.retry}" if letter.retry else "no",
        "message id": letter.message_id or "",
        "seq": str(letter.seq),
    }
    for name, value in facts.items():
        click.echo(f"{name:<12} {plain(value)}".rstrip())
    click.echo()
    if event is None:
        click.echo("The event is past its retention: it cannot be tried again.")
    else:
        click.echo(msgspec.json.format(msgspec.json.encode(event)).decode())


@dead_letters.command()
@numbers
@filtered
@everything
@config_option
@json_option
def retry(path: str | None, *, as_json: bool, **members: Any) -> None:
    """Try some again, by a replay of just those."""
    letters = chosen(**members)

    async def act(guest: Visit, _: Config) -> Retry:
        return await guest.do(deadletters.retry, letters)

    result = ask(path, act)
    if as_json:
        show_json(result)
        return
    for one in result.replays:
        click.echo(
            f"Replay {one.replay} tries {many(one.events, 'event')} of {one.destination} again: "
            "collector replay list shows how far it is."
        )
    if result.under_way:
        click.echo(f"{many(result.under_way, 'event')}: a replay tries them already.")
    if result.expired:
        click.echo(
            f"{many(result.expired, 'event')}: past their retention, and cannot be tried again. "
            "Drop them when you have seen enough."
        )
    if not (result.replays or result.under_way or result.expired):
        click.echo("There is no dead letter like that.")


@dead_letters.command()
@numbers
@filtered
@everything
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def drop(path: str | None, *, yes: bool, as_json: bool, **members: Any) -> None:
    """Forget some for good. The events stay stored; they can still be replayed."""
    letters = chosen(**members)
    if not yes:
        if as_json:
            fail(BadRequest("not_confirmed", "--json asks nothing: add --yes to drop them"))
        total = ask(path, _counter(letters)).total
        if total:
            click.confirm(f"Forget {many(total, 'dead letter')} for good?", abort=True)

    async def act(guest: Visit, _: Config) -> int:
        return await guest.do(deadletters.drop, letters)

    dropped = ask(path, act)
    if as_json:
        show_json({"dropped": dropped})
    else:
        click.echo(f"Dropped {many(dropped, 'dead letter')}.")


def _counter(letters: Letters) -> Any:
    async def count(guest: Visit, _: Config) -> Page:
        return await guest.do(deadletters.dead_letters, letters, 1)

    return count
