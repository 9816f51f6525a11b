"""
Calls: what Customer.io's Track API is told, as events.

    a person's attributes      identify
    event, page, screen        track, page, screen
    merge                      alias: the secondary becomes the primary
    an object, a relationship  group
    all else                   track, under the names that Customer.io's own pipelines know:
                               User Deleted, User Suppressed, User Unsuppressed, Device Created or
                               Updated, Device Deleted, Object Deleted, Relationship Deleted,
                               Report Delivery Event; and Segment Entered, Segment Exited

Errors   Invalid.
Source   Customer.io, "Track API" and "Semantic events"; recorded requests in tests/wire
"""

import re

from collector.event import Problem
from collector.ingest.senders.customerio.person import NOBODY, Event, Person, own, person_of
from collector.ingest.senders.customerio.relations import RELATIONSHIPS_MAX, relationships
from collector.ingest.senders.members import (
    Invalid,
    Members,
    elements,
    given,
    members,
    text,
)

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.I)

ABOUT_PEOPLE = {  # calls that say no more
    "delete": "User Deleted",
    "suppress": "User Suppressed",
    "unsuppress": "User Unsuppressed",
}


def identify(person: Person, attributes: Members, call: Members) -> list[Event]:
    """A person's attributes; relationships among them become events of their own."""
    traits: Event = {"email": person.email} if person.email else {}
    traits |= {name: value for name, value in attributes.items() if name not in _CONTROL}
    anonymous = person.anonymous_id or text(attributes, "anonymous_id")
    if given(attributes, "_timestamp") and not given(call, "timestamp"):
        call = {"timestamp": attributes["_timestamp"]}
    context = own(update=attributes.get("_update"))
    event = person._replace(anonymous_id=anonymous).event(
        "identify", call, traits=traits, context=context
    )
    return [event, *relationships(person, attributes, call)]


_CONTROL = {"anonymous_id", "_update", "_timestamp", "cio_relationships"}
_EVENT = {"name", "data", "attributes", "id", "timestamp", "type", "anonymous_id"}
_OPERATION = {"action", "identifiers"}


def event(person: Person, call: Members, kind: str, data: str) -> list[Event]:
    """An event, page or screen of *kind*; its properties are the member *data*."""
    name = text(call, "name")
    if name is None:
        raise Invalid(Problem("missing_event", "an event needs a name: add name"), "name")
    anonymous = person.anonymous_id or text(call, "anonymous_id")
    person = person._replace(anonymous_id=anonymous)
    properties: Event = dict(members(call, data))
    rest = {n: value for n, value in call.items() if n not in _EVENT | _OPERATION}
    number = text(call, "id")
    ulid = number is not None and ULID.fullmatch(number) is not None
    context = own(id=None if ulid else number, **rest)
    if kind == "page":
        context = {"page": {"url": name}} | context
        properties.setdefault("url", name)
    more: Event = {"context": context}
    if ulid:  # by which a retry is known; any other id may be one person's own
        more["messageId"] = number
    if kind in {"page", "screen"}:
        return [person.event(kind, call, name=name, properties=properties, **more)]
    if kind != "event":
        detail = "type must be one of event, page, screen"
        raise Invalid(Problem("unknown_type", detail), "type")
    return person.track(name, call, properties=properties, **more)


def merge(call: Members) -> list[Event]:
    """Two people who are one."""
    primary, secondary = (
        person_of(members(call, name), name, alone=True) for name in ("primary", "secondary")
    )
    return [primary.event("alias", call, previousId=secondary.user_id)]


def device(person: Person, call: Members) -> list[Event]:
    """A device that the person has."""
    told = members(call, "device")
    properties: Event = {
        name: value for name, value in told.items() if name not in {"id", "platform", "attributes"}
    }
    properties |= members(told, "attributes", "device.attributes")
    context = _device(token(told), text(told, "platform", "device.platform"))
    name = "Device Created or Updated"
    return person.track(name, call, properties=properties, context=context)


def no_device(person: Person, told: str, call: Members) -> list[Event]:
    """A device that the person no longer has."""
    return person.track("Device Deleted", call, context=_device(told, None))


def token(told: Members) -> str:
    """The token that is a device's id."""
    found = text(told, "id", "device.id")
    if found is None:
        raise Invalid(Problem("missing_device", "a device needs its id: add device.id"), "device")
    return found


def _device(found: str, platform: str | None) -> Event:
    told = {"token": found, "type": platform}
    return {"device": {name: value for name, value in told.items() if value}}


def delivery(call: Members, delivery_id: str | None, metric: str | None) -> list[Event]:
    """What became of a message that Customer.io delivered."""
    if metric is None:
        detail = "a delivery needs what became of it: opened, clicked or another metric"
        raise Invalid(Problem("missing_event", detail), "metric")
    properties: Event = {
        name: value
        for name, value in (call | members(call, "attributes")).items()
        if name not in _DELIVERY
    }
    if delivery_id:
        properties["deliveryId"] = delivery_id
    properties["metric"] = metric
    found = text(call, "device_id") or text(members(call, "attributes"), "device_id")
    context = _device(found, None) if found else {}
    return NOBODY.track("Report Delivery Event", call, properties=properties, context=context)


_DELIVERY = {
    *("type", "action", "identifiers", "name", "event", "metric", "delivery_id", "device_id"),
    *("timestamp", "attributes"),
}


def segment(number: str, ids: Members, id_type: str, *, entered: bool) -> list[Event]:
    """People who came into a manual segment, or left it."""
    people = elements(ids, "ids")
    if len(people) > RELATIONSHIPS_MAX:
        detail = f"ids may name {RELATIONSHIPS_MAX} people at once: send fewer"
        raise Invalid(Problem("too_many_events", detail), "ids")
    name = "Segment Entered" if entered else "Segment Exited"
    properties = {"segment_id": number}
    found: list[Event] = []
    for one in people:
        person = person_of({id_type: one}, "ids")
        found += person.track(name, {}, properties=properties)
    return found
