"""
Machines: requests that no person's browser made because the person wanted to.

    head        a HEAD request
    prefetch    Purpose, X-Purpose, X-Moz or Sec-Purpose say that nobody asked for it yet
    no_agent    no user agent
    agent       a user agent of a machine: see refine/agents.py

Source   Fetch and Prefetch standards for the headers
"""

from typing import Final

from collector.ingest.protocol import Request
from collector.refine.agents import AGENT_CHARS, is_bot

PURPOSES: Final = ("Purpose", "Sec-Purpose", "X-Purpose", "X-Moz")
UNASKED: Final = ("prefetch", "prerender", "preview")


def machine_of(request: Request) -> str | None:
    """Why it was no person who asked, or None if nothing says so."""
    if request.method == "HEAD":
        return "head"
    headers = request.message.headers
    for name in PURPOSES:
        if (purpose := headers.get(name)) and any(word in purpose.lower() for word in UNASKED):
            return "prefetch"
    agent = headers.get("User-Agent", "").strip()
    if not agent:
        return "no_agent"
    return "agent" if is_bot(agent[:AGENT_CHARS]) else None
