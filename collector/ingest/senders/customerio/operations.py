"""
Operations: version 2 of Customer.io's Track API, which says in the body what version 1 says in
the path.

    {"type": "person", "action": "event", "identifiers": {"id": "u1"}, "name": "Signed Up", …}

Errors   Invalid, with the field.
Source   Customer.io, "Track API v2"
"""

from collector.event import Problem
from collector.ingest.senders.customerio import calls
from collector.ingest.senders.customerio.person import NOBODY, Event, person_of
from collector.ingest.senders.customerio.relations import Thing, related, relations, thing_of
from collector.ingest.senders.members import Invalid, Members, members, text


def operate(call: Members) -> list[Event]:
    """The events of one operation."""
    kind, action = text(call, "type"), text(call, "action")
    identifiers = members(call, "identifiers")
    if kind == "person":
        return _person(action, identifiers, call)
    if kind == "object":
        return _thing(action, thing_of(identifiers), call)
    if kind == "delivery":
        name = text(call, "name") or text(members(call, "attributes"), "metric")
        return calls.delivery(call, text(identifiers, "id", "identifiers"), name)
    raise Invalid(Problem("unknown_type", "type must be one of person, object, delivery"), "type")


def _person(action: str | None, identifiers: Members, call: Members) -> list[Event]:
    if action == "merge":
        return calls.merge(call)
    if action in {"event", "page", "screen"}:
        # As in version 1, an event may be one of nobody.
        person = person_of(identifiers) if identifiers else NOBODY
        return calls.event(person, call, action, "attributes")
    person = person_of(identifiers)
    attributes = members(call, "attributes")
    beside = {name: call[name] for name in ("cio_relationships",) if name in call}
    match action:
        case "identify":
            return calls.identify(person, attributes | beside, call)
        case "add_relationships":
            return [
                related(person, thing_of(one.identifiers), call, {}, one.attributes)
                for one in relations(call)
            ]
        case "delete_relationships":
            return [
                related(person, thing_of(one.identifiers), call, {}, {}, gone=True)
                for one in relations(call)
            ]
        case "add_device":
            return calls.device(person, call)
        case "delete_device":
            token = calls.token(members(call, "device"))
            return calls.no_device(person, token, call)
        case _:
            pass
    if name := calls.ABOUT_PEOPLE.get(action or ""):
        return person.track(name, call)
    raise _unknown(action)


def _thing(action: str | None, thing: Thing, call: Members) -> list[Event]:
    attributes = members(call, "attributes")
    gone = action == "delete_relationships"
    if action == "delete":
        properties = thing.properties
        return NOBODY.track("Object Deleted", call, groupId=thing.id, properties=properties)
    if action in {"identify", "identify_anonymous"}:
        found = relations(call)
        if not found:
            return [related(NOBODY, thing, call, attributes, {})]
        # Its attributes are the object's: told once, whoever it is related to.
        first, *others = (
            related(
                person_of(one.identifiers, "cio_relationships.identifiers"),
                thing,
                call,
                {} if index else attributes,
                one.attributes,
            )
            for index, one in enumerate(found)
        )
        return [first, *others]
    if gone or action == "add_relationships":
        return [
            related(
                person_of(one.identifiers, "cio_relationships.identifiers"),
                thing,
                call,
                {},
                one.attributes,
                gone=gone,
            )
            for one in relations(call)
        ]
    raise _unknown(action)


def _unknown(action: str | None) -> Invalid:
    said = "there is none" if action is None else "this one is not known"
    return Invalid(Problem("unknown_action", f"action says what to do: {said}"), "action")
