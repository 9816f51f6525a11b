"""
Auth: a write key to the source it belongs to.

Where a key may stand, in the order that never goes wrong: X-Write-Key (Jitsu masks the key in its
body), the query (beacons), the user of Basic auth, the body. `Authorization: Bearer` belongs to
Segment's OAuth and carries no write key; it then stands in the body.

Some vendors' keys are pairs, `id:secret`. A source whose write key is such a pair asks for both;
one whose write key is the id alone takes it with whatever stands behind the colon.

Errors   BadRequest(missing_write_key), BadRequest(unknown_write_key): 401.
Source   Segment, "HTTP Tracking API", section Authentication; recorded requests in tests/wire
"""

import binascii
import hmac
from collections.abc import Container, Sequence

from collector.errors import BadRequest
from collector.ingest.cookies import Identity
from collector.ingest.settings import SourceSettings


class Sources:
    """The configured sources by write key."""

    def __init__(self, sources: Sequence[SourceSettings]) -> None:
        self.use(sources)

    def use(self, sources: Sequence[SourceSettings]) -> None:
        """From now on these are the sources."""
        self._by_key = {source.write_key: source for source in sources}
        self._by_app_id = {app: source for source in sources for app in source.snowplow_app_ids}
        self.pairs = {key for key in self._by_key if ":" in key}
        self.identities = {
            source.name: Identity(source) for source in sources if source.cookie_name
        }
        self._by_name = {source.name: source for source in sources}
        self.names = [source.name for source in sources]
        self.origins = {origin for source in sources for origin in source.origins}
        self.open = any(not source.origins for source in sources)

    def find(self, key: str | None) -> SourceSettings:
        """The source of *key*."""
        if not key:
            raise BadRequest(
                "missing_write_key",
                "the request has no write key: send it as the user of Basic auth, "
                "or as writeKey in the body or query",
                status=401,
            )
        source = self._by_key.get(key)
        if source is None and ":" in key:
            key = key.partition(":")[0]
            source = self._by_key.get(key)
        # The table finds it; the comparison in constant time decides.
        if source is None or not hmac.compare_digest(source.write_key.encode(), key.encode()):
            raise BadRequest(
                "unknown_write_key",
                "no source has this write key: compare it with [[sources]] in the collector's "
                "configuration",
                status=401,
            )
        return source

    def named(self, name: str) -> SourceSettings:
        """The source *name*, for what was signed with it."""
        source = self._by_name.get(name)
        if source is None:
            raise BadRequest(
                "unknown_source", "no source has this name any more: see [[sources]]", status=404
            )
        return source

    def of_app(self, app_id: str | None) -> SourceSettings | None:
        """The source that lists the Snowplow app *app_id*, or None."""
        return self._by_app_id.get(app_id or "")


def key_of_basic(authorization: str, pairs: Container[str] = ()) -> str | None:
    """
    The write key in an Authorization header, or None if it carries none.

    It is the user, or user and password if together they are one of *pairs*.
    """
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = binascii.a2b_base64(credentials.strip()).decode()
    except ValueError:  # neither ASCII, nor base64, nor UTF-8
        return None
    if decoded in pairs:
        return decoded
    return decoded.partition(":")[0] or None
