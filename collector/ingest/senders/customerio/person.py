"""
Person: who a call of Customer.io's Track API is about, and events about them.

Shapes   an event is a dict that becomes JSON; what was sent stays raw in it. A person's id is the
         id, else the email address, else `cio_` and the vendor's id, as in the paths of v1.
         What has no place of its own is under `context.customerio`.
Errors   Invalid.
"""

from typing import NamedTuple

from collector.event import Problem
from collector.ingest.coerce import coerce_time
from collector.ingest.senders.members import Invalid, Members, given, text

Event = dict[str, object]


class Person(NamedTuple):
    """Who a call is about."""

    user_id: str | None = None
    anonymous_id: str | None = None
    email: str | None = None

    def event(self, type_: str, call: Members, **more: object) -> Event:
        """An event about this person, with what every call may say."""
        event: Event = {"type": type_}
        if self.user_id:
            event["userId"] = self.user_id
        if self.anonymous_id:
            event["anonymousId"] = self.anonymous_id
        if self.email and type_ != "identify":
            more["context"] = {"traits": {"email": self.email}} | _object(more.get("context"))
        event |= {name: value for name, value in more.items() if value not in (None, {})}
        if given(call, "timestamp"):
            event["timestamp"] = coerce_time(call["timestamp"])
        return event

    def track(self, name: str, call: Members, **more: object) -> list[Event]:
        return [self.event("track", call, event=name, **more)]


NOBODY = Person()


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def own(**values: object) -> dict[str, object]:
    """A context with what has no place of its own, if there is any."""
    kept = {name: value for name, value in values.items() if value not in (None, {})}
    return {"customerio": kept} if kept else {}


def person_of(identifiers: Members, field: str = "identifiers", *, alone: bool = False) -> Person:
    """The person that *identifiers* name, which must be by one of them only if *alone*."""
    names = [name for name in ("id", "email", "cio_id") if text(identifiers, name, field)]
    anonymous = text(identifiers, "anonymous_id", field)
    if (alone and len(names) != 1) or not (names or anonymous):
        detail = f"{field} needs one of id, email, cio_id: name the person by it"
        raise Invalid(Problem("missing_identifier", detail), field)
    if not names:
        return Person(anonymous_id=anonymous)
    value = text(identifiers, names[0])
    user = f"cio_{value}" if names[0] == "cio_id" else value
    return Person(user, anonymous, text(identifiers, "email"))
