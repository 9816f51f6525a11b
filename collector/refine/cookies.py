"""
Cookies: ids of ad networks that came as cookies, where destinations look for them.

    context.cookies                    as they came: _fbp, _fbc, _ga, _ga_*, _ttp, _gcl_*
    context.clientIds.fbp  fbc  ttp    the same values
    context.clientIds.ga4.clientId     of _ga       GA1.1.<client id>
    context.clientIds.ga4.sessionIds   of _ga_<ID>  GS1.1.<session id>.… or GS2.1.s<session id>$…
    context.clientIds.gclid            of _gcl_aw   GCL.<seconds>.<gclid>

Ingest keeps them for sources of kind browser only, bounded and as cookies may be written.

Shapes   what the sender wrote as `cookies` or `clientIds` (Jitsu's SDK does) stays.
Errors   none: a value of another shape stays a cookie and becomes no client id.
Source   Google, Meta and TikTok as observed; the names of client ids are Jitsu's
"""

import re

import msgspec
from msgspec import Raw

from collector.event import NOTHING
from collector.refine.content import context_of
from collector.refine.draft import Draft

_CLIENT = re.compile(r"GA\d\.\d\.(\d+\.\d+)")
_SESSION = re.compile(r"GS1\.\d+\.(\d+)\..*|GS2\.\d+\.s(\d+)(?:\$.*)?")
_CLICK = re.compile(r"GCL\.\d+\.([A-Za-z0-9_-]+)")

_encode = msgspec.json.Encoder().encode


class _Given(msgspec.Struct, gc=False):
    cookies: Raw = NOTHING
    clientIds: Raw = NOTHING  # noqa: N815


_decode = msgspec.json.Decoder(_Given).decode


def cookies(draft: Draft) -> None:
    """Add context.cookies and context.clientIds."""
    call, found = draft.call, draft.call.envelope.cookies
    if not found:
        return
    context = context_of(call, draft.wire.context)
    given = _Given() if context is None else _decode(context)
    if given.cookies is NOTHING:
        draft.members.append(b'"cookies":' + _encode(found))
    if given.clientIds is NOTHING and (known := client_ids(found)):
        draft.members.append(b'"clientIds":' + _encode(known))


def client_ids(found: dict[str, str]) -> dict[str, object]:
    """The ids in cookies of ad networks, by the names under which destinations look for them."""
    ids: dict[str, object] = {
        name[1:]: found[name] for name in ("_fbp", "_fbc", "_ttp") if name in found
    }
    google: dict[str, object] = {}
    if match := _CLIENT.fullmatch(found.get("_ga", "")):
        google["clientId"] = match[1]
    sessions = {
        name[4:]: match[1] or match[2]
        for name, value in found.items()
        if name.startswith("_ga_") and (match := _SESSION.fullmatch(value))
    }
    if sessions:
        google["sessionIds"] = sessions
    if google:
        ids["ga4"] = google
    if match := _CLICK.fullmatch(found.get("_gcl_aw", "")):
        ids["gclid"] = match[1]
    return ids
