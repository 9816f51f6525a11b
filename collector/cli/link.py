"""
Link: `collector link` makes a click link, signed with the first of `redirect.secrets`.

It needs no running collector: a program that sends mails can call it, or sign as links.py does.
"""

import click
import msgspec

from collector.admin import LinkMaker
from collector.admin.links import Wanted
from collector.cli.asking import config_option, fail, load_config
from collector.errors import BadRequest
from collector.ingest import IngestSettings
from collector.ingest.auth import Sources
from collector.ingest.links import EVENT, Links


def _property(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not name or not sign:
            raise click.BadParameter(f"{pair!r}: write NAME=VALUE", ctx, param)
        found[name] = value
    return found


@click.command()
@click.option("--target", required=True, metavar="URL", help="Where it leads.")
@click.option("--event", default=EVENT, show_default=True, help="What a click is recorded as.")
@click.option("--user", metavar="ID", help="Whom it is sent to.")
@click.option("--anonymous", metavar="ID", help="The same, of somebody who has no user id.")
@click.option("--source", default="", metavar="NAME", help="Else the first that is configured.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    callback=_property,
    metavar="NAME=VALUE",
    help="Of the event; any number of times.",
)
@click.option("--expires", metavar="TIME", help="A date, or 30d for in 30 days; else never.")
@click.option("--base-url", metavar="URL", help="In front of /r/; else redirect.base_url.")
@config_option
def link(
    path: str | None,
    target: str,
    event: str,
    user: str | None,
    anonymous: str | None,
    source: str,
    properties: dict[str, str],
    expires: str | None,
    base_url: str | None,
) -> None:
    """Make a link whose clicks are recorded."""
    config = load_config(path)
    links = Links(config.redirect)
    links.base_url = (base_url or links.base_url or _local(config.ingest)).rstrip("/")
    members = {
        "target": target,
        "source": source,
        "event": event,
        "user_id": user,
        "anonymous_id": anonymous,
        "properties": properties,
        "expires": expires,
    }
    try:
        wanted = msgspec.convert(members, Wanted)
        click.echo(LinkMaker(links, Sources(config.sources)).url(wanted))
    except msgspec.ValidationError as exc:
        fail(BadRequest("bad_link", f"the link cannot be made: {exc}"))
    except BadRequest as exc:
        fail(exc)


def _local(settings: IngestSettings) -> str:
    """For trying out on this machine."""
    return f"http://localhost:{settings.port}{settings.path_prefix}"
