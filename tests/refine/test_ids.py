"""Ids: what an event without any gets, and that it is the same when it is refined again."""

from collector.event import Envelope, Event
from collector.refine import Limits, refine

LIMITS = Limits(512, 1024)
BODY = b'{"batch":[' + b",".join([b'{"type":"track","event":"E"}'] * 300) + b"]}"


def refined(*, device: bool) -> list[Event]:
    envelope = Envelope("s", "batch", 1, bytes(range(16)), BODY, device)
    events = [result for result in refine(envelope, LIMITS) if isinstance(result, Event)]
    assert len(events) == 300
    return events


def test_a_device_is_one_person_and_a_server_speaks_for_many() -> None:
    assert len({event.anonymous_id for event in refined(device=True)}) == 1
    assert len({event.anonymous_id for event in refined(device=False)}) == 300


def test_refining_again_gives_the_same_ids() -> None:
    first, again = refined(device=False), refined(device=False)
    assert [e.message_id for e in first] == [e.message_id for e in again]
    assert [e.anonymous_id for e in first] == [e.anonymous_id for e in again]
    assert len({event.message_id for event in first}) == 300
