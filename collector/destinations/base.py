"""
Base: the promise every destination keeps.

    StoredEvent ─map─▶ Parcel | Skipped | Refused      pure: no network, no clock
    [Parcel, …] ─send─▶ [TAKEN | Refused | Later, …]   one request, or a few

Waiting, batching, order, retries, counting and dead letters belong to the courier: a destination
neither sleeps nor loops nor tries again. `send` is given parcels of one `group`, no more than
`batch_events_max` and `batch_bytes_max`, in the order of each person's events, and returns one
outcome for each, in their order. What concerns all of them it raises:

    Unreachable    nothing arrived                       wait, longer each time
    Ambiguous      sent, and no usable answer            `on_ambiguous` says what then
    Unacceptable   refused for something in it           bisected until that is alone
    TooLarge       refused for its size                  halved
    Denied         credentials or account refused        paused until a person acts
    anything else  a defect: logged, and Ambiguous

A retried parcel may come in another batch, so that a batch is never what a vendor recognises a
resend by: `Parcel.key` is, the same for each attempt, replays included.

Units    seconds, bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeAlias, TypeVar

from collector.destinations.outbound import Outbound
from collector.destinations.settings import DestinationSettings
from collector.store.stored import Json, StoredEvent

S = TypeVar("S", bound=DestinationSettings)

PREFERENCE_EVENT: Final = "Segment Consent Preference Updated"


class Mail(NamedTuple):
    """An event on its way to one destination: past the gate, overrides applied."""

    event: StoredEvent
    person: Json  # what identify calls said of the user so far; empty if nobody asked for it
    restricted: bool  # the person opted out of sale and sharing: only with the vendor's flag


class Parcel(NamedTuple):
    """What is sent for one event."""

    key: str  # what the vendor recognises a resend by
    payload: Any  # what `send` needs; one event may make several of the vendor's items
    size: int  # bytes it takes in a request
    group: Hashable = None  # parcels of different groups never share a batch
    age_seconds_max: float | None = None  # older than this the vendor does not take it


class Skipped(NamedTuple):
    """Not for this destination: no error. *reason* is a fixed word."""

    reason: str


class Refused(NamedTuple):
    """Never taken as it is: a dead letter. *reason* is a fixed word, *detail* says what to do."""

    reason: str
    detail: str


class Later(NamedTuple):
    """Not taken now: this event alone waits, *seconds* at least if the vendor said so."""

    reason: str
    detail: str
    seconds: float | None = None


class Taken(NamedTuple):
    """The vendor has it."""


TAKEN: Final = Taken()
Outcome: TypeAlias = Taken | Refused | Later
Mapped: TypeAlias = Parcel | Skipped | Refused


class Destination(ABC, Generic[S]):
    """One configured destination."""

    types: ClassVar[frozenset[str]]  # of events that it has a mapping for
    integrations: ClassVar[tuple[str, ...]]  # its names in the `integrations` of senders
    ordered: ClassVar[bool] = True  # whether it matters in which order one person's events come
    reads_person: ClassVar[bool] = False  # whether `map` looks at `Mail.person`

    def __init__(self, settings: S, http: Outbound) -> None:
        self.settings = settings
        self.http = http

    async def open(self) -> None:
        """Get ready to send, without asking the vendor anything. Called in the running loop."""

    async def close(self) -> None:
        """Let go of connections."""

    @abstractmethod
    def map(self, mail: Mail) -> Mapped:
        """What to send for this event, or why nothing is. Pure."""

    @abstractmethod
    async def send(self, batch: Sequence[Parcel], *, test: bool = False) -> Sequence[Outcome]:
        """Send *batch*; with *test* so that the vendor records nothing, if it has such a mode."""


def derived_key(message_id: str, index: int) -> str:
    """The key of the *index*th item that one event makes, the same each time."""
    return f"{message_id}:{index}"
