"""
Relations: objects of Customer.io, and the people who belong to them, as group calls.

Errors   Invalid.
Source   Customer.io, "Track API", section Objects and relationships
"""

from typing import NamedTuple

from msgspec import Raw

from collector.event import Problem
from collector.ingest.senders.customerio.person import Event, Person, own
from collector.ingest.senders.members import (
    NULL,
    Invalid,
    Members,
    elements,
    members,
    text,
)

RELATIONSHIPS_MAX = 1_000  # of one call; each becomes an event


class Thing(NamedTuple):
    """An object that people are related to."""

    id: str
    type_id: str | None

    @property
    def properties(self) -> Event:
        return {"object_id": self.id} | self.traits

    @property
    def traits(self) -> Event:
        return {"object_type_id": self.type_id} if self.type_id else {}


def thing_of(identifiers: Members) -> Thing:
    """The object that *identifiers* name."""
    found = text(identifiers, "object_id", "identifiers") or text(
        identifiers, "cio_object_id", "identifiers"
    )
    if found is None:
        detail = "identifiers needs object_type_id and object_id, or cio_object_id"
        raise Invalid(Problem("missing_identifier", detail), "identifiers")
    return Thing(found, text(identifiers, "object_type_id", "identifiers"))


class Relation(NamedTuple):
    """The other end of a relationship, and what is said of it."""

    identifiers: Members
    attributes: Members


def relations(call: Members) -> list[Relation]:
    """The relationships that *call* names, in either of the two forms."""
    raw = bytes(call.get("cio_relationships", b"null"))
    listed = call
    if raw[:1] == b"{":  # v1: {"action": …, "relationships": […]}
        listed = {
            "cio_relationships": members(call, "cio_relationships").get("relationships", NULL)
        }
    found = elements(listed, "cio_relationships")
    if len(found) > RELATIONSHIPS_MAX:
        detail = f"a call may have {RELATIONSHIPS_MAX} relationships: send fewer"
        raise Invalid(Problem("too_many_events", detail), "cio_relationships")
    return [_relation(one) for one in found]


def _relation(raw: Raw) -> Relation:
    one = members({"cio_relationships": raw}, "cio_relationships")
    name = "cio_relationships.identifiers"
    attributes = members(one, "relationship_attributes")
    return Relation(members(one, "identifiers", name), attributes)


def relationships(person: Person, call: Members, times: Members) -> list[Event]:
    """The objects that a person is related to, or no longer is."""
    gone = False
    if bytes(call.get("cio_relationships", b""))[:1] == b"{":
        action = text(members(call, "cio_relationships"), "action", "cio_relationships.action")
        gone = action == "delete_relationships"
    return [
        related(person, thing_of(one.identifiers), times, {}, one.attributes, gone=gone)
        for one in relations(call)
    ]


def related(
    person: Person,
    thing: Thing,
    call: Members,
    attributes: Members,
    relation: Members,
    *,
    gone: bool = False,
) -> Event:
    """A person and an object that belong together, or no longer do."""
    context = own(relationship=relation)
    if gone:
        return person.event(
            "track",
            call,
            event="Relationship Deleted",
            groupId=thing.id,
            properties=thing.properties,
            context=context,
        )
    traits = thing.traits | attributes
    return person.event("group", call, groupId=thing.id, traits=traits, context=context)
