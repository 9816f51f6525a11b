"""
Client: the person's device, where its SDK did not describe it.

Address, user agent and page are taken from the request only when the person's own device made it:
a server's address is never the person's. A source of kind browser may still be used by a server
SDK (the default source is), so an event that a server library wrote is left alone.

With a key that everybody can read, the address that an event names is anybody's claim: the one
that asked takes its place, or none if that was a server's, and `ip_replaced` flags it. What was
written stays in `extra.collector.claims`. A source that servers use as well (`mixed`) believes
what says to be written by their libraries.

Shapes   members of `context`; what the SDK sent otherwise stays, `0.0.0.0` included.
Source   Segment, "Spec: Common Fields": ip is filled in for client-side libraries only;
         `context.direct` asks for it in plain HTTP calls.
"""

from functools import lru_cache

import msgspec
from msgspec import UNSET

from collector.event import NOTHING
from collector.refine.draft import Draft

SERVER_LIBRARIES = frozenset(
    {
        "analytics-python",
        "analytics-node",
        "@segment/analytics-node",
        "@customerio/cdp-analytics-node",
        "@rudderstack/rudder-sdk-node",
        "analytics-ruby",
        "analytics-go",
        "analytics-java",
        "analytics-php",
        "analytics-csharp",
        "Analytics.NET",
        "analytics-rust",
        "analytics-elixir",
    }
)


UNRECORDED = frozenset({b"null", b'""', b'"0.0.0.0"', b'"::"'})  # asks for none to be kept
CLAIM_BYTES = 100
LIBRARY_BYTES = 1_000  # a longer description is not remembered


class _Library(msgspec.Struct):
    name: str = ""
    env: str = ""


_decode_library = msgspec.json.Decoder(_Library).decode


def client(draft: Draft) -> None:
    """Fill in ip, user agent and page from the request."""
    call, context = draft.call, draft.context
    if context.ip is not NOTHING and call.envelope.public:
        _judge(draft)
    if not call.envelope.device and bytes(context.direct) != b"true":
        return
    if context.library is not NOTHING and by_server(bytes(context.library)):
        return
    if context.ip is NOTHING and call.ip:
        draft.members.append(call.ip)
    if context.userAgent is NOTHING and call.agent:
        draft.members.append(call.agent)
    if context.page is UNSET and call.page:
        draft.members.append(call.page)


def _judge(draft: Draft) -> None:
    """Put the address that asked in the place of one that anybody may have written."""
    call, context = draft.call, draft.context
    text = bytes(context.ip)
    server = context.library is not NOTHING and by_server(bytes(context.library))
    if text in UNRECORDED or (server and call.envelope.mixed):
        return
    draft.flags = [*draft.flags, "ip_replaced"]
    written = text[:CLAIM_BYTES].decode(errors="replace").strip('"')
    draft.claims = draft.claims | {"ip": written}
    persons = call.envelope.device and not server
    draft.members.append(call.ip if persons and call.ip else b'"ip":null')


def by_server(text: bytes) -> bool:
    """Whether the library described by *text* runs on a server."""
    return _known(text) if len(text) <= LIBRARY_BYTES else _runs_on_server(text)


def _runs_on_server(text: bytes) -> bool:
    try:
        library = _decode_library(text)
    except msgspec.ValidationError:
        return False
    return library.name in SERVER_LIBRARIES or library.env == "node"


# Senders have few libraries, and write each in one way; what is longer is nobody's.
_known = lru_cache(256)(_runs_on_server)
