"""
Base: what the server asks of every sender.

    routes()           the paths that are known beforehand
    find(base, path)   the handlers of a path that carries something of the request, an id say;
                       asked only about paths that no route takes, so that it costs those nothing
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from collector.ingest.protocol import Reply, Request

Handler = Callable[[Request], Awaitable[Reply]]
Methods = dict[str, Handler]


class Route(NamedTuple):
    """One path, and what answers it."""

    path: str
    method: str
    handler: Handler
    image: bool = False  # the path of a pixel: an image whatever happens


class Sender:
    """One vendor's SDKs."""

    def routes(self) -> Iterator[Route]:
        """The paths that are known beforehand."""
        yield from ()

    def find(self, base: str, path: str) -> Methods | None:
        """The handlers of *path*, as it was sent but without the prefix *base*, by method."""
        return None


def key_between(before: str, path: str, behind: str) -> str | None:
    """The write key that stands in *path* between the two, or None if it is another path."""
    path = path.removesuffix("/")
    if not path.startswith(before) or not path.endswith(behind):
        return None
    key = path[len(before) : -len(behind)]
    return unquote(key) if key and "/" not in key else None
