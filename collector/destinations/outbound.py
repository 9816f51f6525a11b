"""
Outbound: how destinations speak HTTP to the outside.

Errors   Unreachable when nothing was sent, Ambiguous when something was and no answer came.
"""

from typing import Any, NamedTuple

import msgspec
from multidict import CIMultiDictProxy


class Answer(NamedTuple):
    """What came back: the body up to a bound."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        """The body decoded, or None if it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Outbound:
    """One destination's connections."""
