"""
CORS: what lets a page of another origin send events and read the answer.

Preflights carry no key, so they are answered for the port as a whole: an origin that some source
lists is echoed and may send credentials; any other is let in without credentials as long as one
source is open to all. What a source allows is checked again when its key is known. Error answers
carry the same headers: without them a 400 looks like a network failure and is retried.

Source   Fetch standard; recorded preflights in tests/wire
"""

from collector.errors import BadRequest
from collector.ingest.auth import Sources
from collector.ingest.protocol import Reply, Request
from collector.ingest.settings import SourceSettings

EXPOSED = "Retry-After"
# Chromium keeps a preflight 5 s without it, per path, and nearly every event would cost two.
MAX_AGE_SECONDS = 86_400
ALLOWED_HEADERS = "authorization, content-type, content-encoding, x-retry-count, x-write-key"

OPEN = f"Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: {EXPOSED}\r\n".encode()
CLOSED = b"Vary: Origin\r\n"


class Cors:
    """Which origins may send, over all sources."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def headers(self, request: Request | None) -> bytes:
        """The header lines that the answer to *request* carries, None if it could not be read."""
        sources = self._sources
        if not sources.origins:
            return OPEN
        origin = None if request is None else request.header("Origin")
        if origin is not None and origin in sources.origins:
            return (
                f"Access-Control-Allow-Origin: {origin}\r\n"
                "Access-Control-Allow-Credentials: true\r\n"
                f"Access-Control-Expose-Headers: {EXPOSED}\r\n"
                "Vary: Origin\r\n"
            ).encode("latin-1")
        return OPEN + CLOSED if sources.open else CLOSED

    def check(self, request: Request, source: SourceSettings) -> None:
        """Raise BadRequest if the page that sends may not use *source*."""
        if not source.origins:
            return
        origin = request.header("Origin")
        if origin is not None and origin not in source.origins:
            raise BadRequest(
                "origin_not_allowed",
                "this source does not take events from this web origin: add it to its origins",
                status=403,
            )

    def preflight(self, request: Request) -> Reply:
        """The answer to an OPTIONS request."""
        # Reflecting is the only list that does not age; `*` would leave out authorization.
        asked = request.header("Access-Control-Request-Headers")
        headers = [
            ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
            ("Access-Control-Allow-Headers", _one_line(asked) or ALLOWED_HEADERS),
            ("Access-Control-Max-Age", str(MAX_AGE_SECONDS)),
            ("Allow", "GET, HEAD, POST, OPTIONS"),
        ]
        if request.header("Access-Control-Request-Private-Network") == "true":
            headers.append(("Access-Control-Allow-Private-Network", "true"))
        return Reply(204, content_type=None, headers=headers)


def _one_line(text: str | None) -> str | None:
    """A header value that can be reflected: what is no header name list is not."""
    if text is None or len(text) > 2000 or not text.isascii():
        return None
    if not all(c.isalnum() or c in "-_, " for c in text):
        return None
    return text
