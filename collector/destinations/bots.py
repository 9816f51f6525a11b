"""
Bots: events that no person caused: crawlers, machines that open mails, scanners that follow links.

What a sender says itself counts for every source: `context.isBot`, `context.bot` (RudderStack's)
and `properties.machine_open`. The user agent counts only where it is that of a person's device,
so not for sources of kind server nor for what a server's library wrote: those have the library's
own, and every event of theirs would be a bot's. Apps describe a `context.device`, and their user
agent is the HTTP library they are built with; they are left alone too.

Which user agents are a machine's is in refine/agents.py. What a link scanner did is flagged when
its request arrives (ingest/redirect.py): `context.isBot`.

Errors   none.
"""

from typing import Any, Final

from collector.refine.agents import AGENT_CHARS, is_bot
from collector.refine.client import SERVER_LIBRARIES
from collector.store.stored import Json, StoredEvent

OPENED: Final = frozenset({"Email Opened", "Email Link Clicked"})


def by_bot(event: StoredEvent, kind: str) -> bool:
    """Whether a machine caused *event*, which came by a source of *kind*."""
    properties = event.properties_text
    if properties and b"machine_open" in properties and _affirmed(event.properties, "machine_open"):
        return True
    context = event.context
    if _affirmed(context, "isBot") or _named(context.get("bot")):
        return True
    if kind == "server" or _by_library(context) or isinstance(context.get("device"), dict):
        return False
    agent = context.get("userAgent")
    if isinstance(agent, str) and agent.strip():
        return is_bot(agent[:AGENT_CHARS])
    # A person's mail program always has one; so have browsers, but SDKs may not hand it on.
    return event.type == "track" and event.event in OPENED


def _affirmed(members: Json, name: str) -> bool:
    return members.get(name) in (True, "true")  # in an image address every value is text


def _named(value: Any) -> bool:
    """Whether *value* tells of a bot: its name, or an object with it."""
    if isinstance(value, str):
        return value not in {"", "false", "null"}
    return value is True or (isinstance(value, dict) and bool(value))


def _by_library(context: Json) -> bool:
    library = context.get("library")
    if not isinstance(library, dict):
        return False
    name = library.get("name")
    return (isinstance(name, str) and name in SERVER_LIBRARIES) or library.get("env") == "node"
