"""
The door: the command line, and what the exit status says.

    0  all is well      1  something failed while running      2  the settings cannot be used
"""

import importlib
import json
import sys
import urllib.error
import urllib.request
from functools import partial
from typing import Any

import click
import uvloop

from collector import __version__, checks, logs
from collector.app import App
from collector.cli.asking import config_option, dsn_in, fail, json_option, load_config
from collector.config import find, load, unknown
from collector.errors import CollectorError

STATUS_SECONDS = 5.0
# Read when they are asked for: `run` needs none of them.
COMMANDS = {
    "dead-letters": "collector.cli.deadletters:dead_letters",
    "destinations": "collector.cli.destinations:destinations",
    "link": "collector.cli.link:link",
    "prove": "collector.prove.command:prove",
    "replay": "collector.cli.replay:replay",
    "trace": "collector.cli.trace:trace",
}


class Door(click.Group):
    """The commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="collector")
def main() -> None:
    """Collect events from SDKs, pixels and links into Postgres, exactly once."""


@main.command()
@config_option
def run(path: str | None) -> None:
    """Take events and store them, until SIGTERM."""
    config = load_config(path)
    logs.configure(config.log)
    for name in unknown(config=config):
        click.echo(f"collector: {name} is set and is no setting", err=True)
    try:
        uvloop.run(App(config, partial(load, find(path))).run())
    except CollectorError as exc:
        fail(exc)


@main.command()
@config_option
@json_option
def check(path: str | None, *, as_json: bool) -> None:
    """Check the settings, the directories and Postgres, and say what to mend."""
    config = load_config(path)
    findings = uvloop.run(checks.examine(config))
    findings += [
        checks.Finding("warning", f"{name} is set and is no setting")
        for name in unknown(config=config)
    ]
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.level:8} {finding.text}")
    if any(finding.level == "error" for finding in findings):
        sys.exit(2)


@main.command()
@config_option
def dsn(path: str | None) -> None:
    """Print where the events are, for psql; the embedded Postgres too."""
    config = load_config(path)
    try:
        click.echo(dsn_in(config))
    except CollectorError as exc:
        fail(exc)


@main.command()
@config_option
@json_option
def status(path: str | None, *, as_json: bool) -> None:
    """Show what the running collector accepted, stored and still holds."""
    config = load_config(path)
    host = config.admin.host if config.admin.host not in {"", "0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.admin.port}/status"
    request = urllib.request.Request(url)
    if config.admin.token:
        request.add_header("Authorization", f"Bearer {config.admin.token}")
    try:
        with urllib.request.urlopen(request, timeout=STATUS_SECONDS) as answer:  # noqa: S310
            facts = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError) as exc:
        click.echo(
            f"collector: no collector answers at {url} ({exc}): start it, or name its "
            "configuration with --config",
            err=True,
        )
        sys.exit(1)
    click.echo(json.dumps(facts) if as_json else _table(facts))


def _table(facts: dict[str, Any]) -> str:
    journal, store = facts["journal"], facts["store"]
    percent = 100 * journal["bytes"] / max(1, journal["bytes_max"])
    took = f"{journal['bytes']:,} of {journal['bytes_max']:,} bytes ({percent:.1f} %)"
    waited = f"oldest waiting {store['oldest_seconds']:.1f} s"
    lines = [
        f"collector {facts['version']}, up {facts['uptime_seconds']:.0f} s",
        f"journal   {journal['trouble'] or 'writable'}, {took}",
        f"postgres  {store['trouble'] or 'up'}, last seq {store['last_seq']:,}, {waited}",
    ]
    if refused := facts["config"]["trouble"]:
        lines.append(f"settings  refused, older ones are in force: {refused}")
    if waiting := facts["config"]["restart_for"]:
        lines.append(f"settings  changed, and wait for a restart: {', '.join(waiting)}")
    lines += [f"anomaly   {kind}: {count}" for kind, count in facts["anomalies"].items()]
    columns = (
        "source", "accepted", "stored", "duplicate", "rejected", "lost", "waiting", "missing",
    )  # fmt: skip
    rows = [columns, *([f"{row[c]:,}" if c != "source" else row[c] for c in columns]
            for row in store["sources"])]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    lines.append("")
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
