"""
The journal's contract: the durable buffer between ingest and store.

    append(frame)      returns the frame's position once it is on disk
    read(after, …)     the frames behind a position, in order
    forget(position)   everything up to there is stored and need not be kept

Shapes   A frame is opaque bytes; its source and its number of events stand beside it.
Units    A position counts frames from 1. Positions are dense and never reused under one identity,
         so `(id, position)` names a frame for ever and a missing position is a loss that is known.
Errors   Busy when there is no room, JournalError when the disk refuses or the journal is closed.
"""

from typing import NamedTuple, Protocol

from collector.settings import Bytes, SecondsOrNone, Section, Share


class Frame(NamedTuple):
    """What a room hands to the journal: bytes, and how many events of which source they hold."""

    data: bytes
    source: str
    events: int


class Record(NamedTuple):
    """A frame as the journal gives it back."""

    position: int
    appended_at: int  # microseconds since 1970
    source: str
    events: int
    data: bytes


class Reading(NamedTuple):
    """What one read brought: the records, and what was found to be lost on the way.

    How many events the lost frames held is found out later, or never, and comes with a later
    reading.
    """

    records: list[Record]
    end: int  # everything up to this position has been read or is lost
    lost_frames: int = 0
    lost_events: dict[str, int] = {}


Totals = dict[str, int]  # events by source


class JournalSettings(Section, frozen=True, kw_only=True):
    """How much the journal may hold, and for how long after it was stored."""

    total_bytes_max: Bytes = 10_000_000_000
    disk_share_max: Share = 0.5  # of the disk space that is free or already the journal's
    disk_reserve_bytes: Bytes = 256_000_000  # free space that is left to Postgres and the system
    file_bytes: Bytes = 64_000_000
    group_bytes_max: Bytes = 8_000_000  # one fsync covers at most so much
    pending_bytes_max: Bytes = 64_000_000  # waiting for their fsync; beyond that, Busy
    keep_seconds: SecondsOrNone = (
        3600.0  # stored frames stay so long, for a Postgres that fails over
    )


class Journal(Protocol):
    """One journal, one writer and one reader. See the module for what each call promises."""

    @property
    def id(self) -> str:
        """The identity that positions belong to."""

    @property
    def end(self) -> int:
        """The position of the newest frame on disk; 0 before the first."""

    @property
    def oldest(self) -> int:
        """The oldest position that is still kept."""

    @property
    def base(self) -> int:
        """Positions up to here were done under an earlier identity; 0 for the first one."""

    @property
    def end_at_open(self) -> int:
        """`end` when this process opened the journal."""

    @property
    def accepted(self) -> Totals:
        """Events ever appended under this journal, by source."""

    def check_room(self) -> None:
        """Raise Busy or JournalError if a frame could not be appended now."""

    async def append(self, frame: Frame) -> int:
        """Append *frame* and return its position once it is on disk.

        After an error, or when its caller was cancelled, the frame may be there all the same.
        """

    async def read(self, after: int, bytes_max: int) -> Reading:
        """Return the records behind position *after* until they are *bytes_max* or more.

        Waits while *after* is the end. Whoever reads a position needs it, stored or not.
        """

    async def totals_at(self, position: int) -> Totals:
        """Events of all frames up to *position*, by source."""

    def tell(self, position: int, totals: Totals) -> None:
        """Hear from the store's books how many events all frames up to *position* held, by source:
        believed where the files do not tell any more, because they are damaged or gone.
        """

    def forget(self, position: int) -> None:
        """Let go of frames up to *position*, which are stored: after `keep_seconds`, or sooner
        when room is needed. To be told after opening too, since what is stored is not on disk.
        """

    async def renew(self, base: int) -> str:
        """Take a new identity: frames behind *base* belong to it, those up to it are done."""

    async def close(self) -> None:
        """Commit what is pending and let go of the files."""
