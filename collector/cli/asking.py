"""
Asking: what every command shares: its options, its way to Postgres, and how it fails.

    0  all is well      1  something failed while running      2  wrong use, or wrong settings

Shapes   times are dates, ISO 8601 (UTC unless they name a zone), or so long ago: 90m, 12h, 3d.
"""

import os
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import uvloop

from collector.config import Config, find, load
from collector.errors import BadRequest, CollectorError, ConfigError
from collector.store.desk import Visit, visit
from collector.store.embedded import dsn_of
from collector.store.postgres import Postgres

T = TypeVar("T")

JOB_SECONDS = 300.0  # a person waits, and can stop waiting
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def fail(error: CollectorError) -> NoReturn:
    """Say what went wrong, and end."""
    click.echo(f"collector: {error.detail}", err=True)
    sys.exit(2 if isinstance(error, ConfigError | BadRequest) else 1)


def load_config(path: str | None) -> Config:
    """The settings that count; ends if they cannot be used."""
    try:
        return load(find(path))
    except ConfigError as exc:
        fail(exc)


def dsn_in(config: Config) -> str:
    """Where the events are, the embedded Postgres too."""
    return config.store.dsn or dsn_of(Path(config.data_dir).absolute() / "postgres")


def ask(path: str | None, job: Callable[[Visit, Config], Awaitable[T]]) -> T:
    """Do *job* on a connection to Postgres, and return what it returns."""
    config = load_config(path)

    async def work() -> T:
        async with visit(Postgres(dsn_in(config)).connect, JOB_SECONDS) as guest:
            return await job(guest, config)

    try:
        return uvloop.run(work())
    except BrokenPipeError:  # whoever reads us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except CollectorError as exc:
        fail(_with_advice(exc, config))


def _with_advice(error: CollectorError, config: Config) -> CollectorError:
    """Say where Postgres should be, when it is not there."""
    if error.code != "postgres_away":
        return error
    advice = (
        "see whether it runs, and whether store.dsn names it"
        if config.store.dsn
        else f"the embedded one in {Path(config.data_dir).absolute()} runs with the collector: "
        "start that, or name its configuration with --config"
    )
    return CollectorError(error.code, f"{error.detail}: {advice}")


class Moment(click.ParamType[datetime]):
    """A point in time."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        if ago := re.fullmatch(r"(\d{1,6})([smhd])", value):
            return datetime.now(UTC) - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time: write 2026-06-01, 2026-06-01T12:00:00Z, or 12h ago as 12h",
                param,
                ctx,
            )
        return at if at.tzinfo else at.replace(tzinfo=UTC)


def _inherited(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """What was given to the command, or before it to the group."""
    if value or ctx.parent is None or param.name is None:
        return value
    return ctx.parent.params.get(param.name) or value


config_option = click.option(
    "--config",
    "path",
    metavar="FILE",
    callback=_inherited,
    help="The configuration file; else $COLLECTOR_CONFIG.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_inherited, help="Print JSON."
)
since_option = click.option("--since", type=Moment(), help="From this time on; 12h is 12 h ago.")
until_option = click.option("--until", type=Moment(), help="Before this time.")
