"""
Ids: who sent the event, and the id by which a resent one is known.

Whole numbers become text, empty text counts as absent. A missing message id is derived from the
request, so that refining the same frame again gives the same id. An event with neither user nor
anonymous id gets an anonymous one: one for the whole request if a person's device made it, one for
each event if a server did, which speaks for many persons. The id of the identity cookie is that of
all events of its request; what they called themselves stays in `extra.collector.claims`.

Errors   none; ids that are too long or of a wrong type were turned down before.
Source   Segment, "Spec: Common Fields"
"""

import uuid

from collector.refine.draft import Draft


def ids(draft: Draft) -> None:
    """Set the five ids of the event."""
    wire, event, call = draft.wire, draft.event, draft.call
    event.message_id = _text(wire.messageId) or f"srv-{call.envelope.seed.hex()}-{draft.index}"
    if wire.userId is not None:
        event.user_id = _text(wire.userId)
    if wire.anonymousId is not None:
        event.anonymous_id = _text(wire.anonymousId)
    if wire.groupId is not None:
        event.group_id = _text(wire.groupId)
    if wire.previousId is not None:
        event.previous_id = _text(wire.previousId)
    visitor = call.envelope.anonymous_id
    if visitor is not None and event.anonymous_id != visitor:
        if event.anonymous_id is None:
            event.anonymous_id = visitor
        elif call.envelope.anonymous_id_wins:
            draft.claims = draft.claims | {"anonymousId": event.anonymous_id}
            event.anonymous_id = visitor
    if event.user_id is None and event.anonymous_id is None:
        number = int.from_bytes(call.envelope.seed, "big")
        if not call.envelope.device:
            number ^= draft.index << 80  # bits that neither version nor variant overwrite
        event.anonymous_id = str(uuid.UUID(int=number, version=4))
    if event.type == "alias" and event.previous_id is None:
        event.previous_id = event.anonymous_id


def _text(value: str | int | None) -> str | None:
    if value.__class__ is str:
        return value or None
    return None if value is None else str(value)
