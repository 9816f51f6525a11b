"""
Consent: the browser's own objection to being sold or shared, as part of what the person chose.

    Sec-GPC: 1      context.consent.gpc = true

Ingest notes the header for sources of kind browser only: a server that sends it speaks of itself,
and what it says of a person stands in `context.consent.gpc` already.

Shapes   what else the sender says in `context.consent` stays. A consent that says nothing, or is
         no object, withholds the event from every destination that asks for consent. The member
         added here must not undo that: such a one gets `categoryPreferences` that grant nothing.
Source   W3C, "Global Privacy Control"; Segment, "Consent in Segment"
"""

import msgspec
from msgspec import Raw

from collector.event import NOTHING
from collector.refine.content import context_of
from collector.refine.draft import Draft, bare, extend, given

OPTED_OUT = b'"gpc":true'
NOTHING_GRANTED = b'"categoryPreferences":{}'


class _Chosen(msgspec.Struct):
    consent: Raw = NOTHING


_decode = msgspec.json.Decoder(_Chosen).decode


def consent(draft: Draft) -> None:
    """Add context.consent.gpc where the browser asked for it."""
    if not draft.call.envelope.gpc:
        return
    context = context_of(draft.call, draft.wire.context)
    sent = NOTHING if context is None else _decode(context).consent
    if sent is NOTHING:
        chosen = extend(None, [OPTED_OUT])
    elif (text := given(sent)) is None or bare(text):
        chosen = extend(None, [NOTHING_GRANTED, OPTED_OUT])
    else:
        chosen = extend(text, [OPTED_OUT])  # of two members of one name the last counts
    draft.members.append(b'"consent":' + chosen)
