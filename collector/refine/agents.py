"""
Agents: user agents of machines: crawlers, proxies of mail providers, scanners that follow links.

Proxies of mail providers are machines also where a person opened the mail: what they tell of
device, place and time is their own. Outlook fetches images itself and is no proxy.

Bounds   a verdict is kept for 8,192 user agents of at most 512 characters, once for the process:
         the list is some 600 patterns, and asking it takes a fifth of a millisecond.
Errors   none.
Source   the list of the package crawler-user-agents; mail programs and scanners as their vendors
         and observers describe them
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

AGENTS_KEPT_MAX: Final = 8_192
AGENT_CHARS: Final = 512

APPLE: Final = "Mozilla/5.0"  # Apple's Mail Privacy Protection gives nothing more
# Gmail's own, which it adds when it loads images before anybody looks.
PREFETCH: Final = re.compile(r"Edge/12\.246 Mozilla/5\.0$")
SCANNERS: Final = re.compile(r"barracuda|proofpoint|mimecast|ciscosecureemail|\bTMES\b", re.I)
PROXIES: Final = re.compile(r"GoogleImageProxy|YahooMailProxy")


@lru_cache(AGENTS_KEPT_MAX)
def is_bot(agent: str) -> bool:
    """Whether *agent* is the user agent of a machine."""
    agent = agent.strip()
    return (
        agent == APPLE
        or PREFETCH.search(agent) is not None
        or SCANNERS.search(agent) is not None
        or PROXIES.search(agent) is not None
        or crawlers()(agent)
    )


@cache
def crawlers() -> Callable[[str], bool]:
    """The list of crawlers, read only if somebody asks: it takes some milliseconds."""
    from crawleruseragents import is_crawler  # noqa: PLC0415

    return lambda agent: bool(is_crawler(agent))
