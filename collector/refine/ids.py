"""
Ids: who sent the event, and the id by which a resent one is known.

Whole numbers become text, empty text counts as absent. A missing message id is derived from the
request, so that refining the same frame again gives the same id. An event with neither user nor
anonymous id gets an anonymous one: one for the whole request if a person's device made it, one for
each event if a server did, which speaks for many persons.

Errors   none; ids that are too long or of a wrong type were turned down before.
Source   Segment, "Spec: Common Fields"
"""

import uuid

from collector.refine.draft import Draft


def ids(draft: Draft) -> None:
    """Set the five ids of the event."""
    wire, event, call = draft.wire, draft.event, draft.call
    message_id = wire.messageId
    event.message_id = (
        str(message_id)
        if message_id is not None and message_id != ""
        else f"srv-{call.envelope.seed.hex()}-{draft.index}"
    )
    event.user_id = _text(wire.userId)
    event.anonymous_id = _text(wire.anonymousId)
    event.group_id = _text(wire.groupId)
    event.previous_id = _text(wire.previousId)
    if event.user_id is None and event.anonymous_id is None:
        number = int.from_bytes(call.envelope.seed, "big")
        if not call.envelope.device:
            number ^= draft.index << 80  # bits that neither version nor variant overwrite
        event.anonymous_id = str(uuid.UUID(int=number, version=4))
    if event.type == "alias" and event.previous_id is None:
        event.previous_id = event.anonymous_id


def _text(value: str | int | None) -> str | None:
    if value is None or value == "":
        return None
    return value if value.__class__ is str else str(value)
