"""
Ledger: which numbers were given out, which of them were acknowledged, and which were found stored.

Each sender counts on its own: number = turn * senders + sender, so a number says whose it is, and
an event can be made again from its number alone.

Shapes   a message id is `prove-<run>-<number>`, a user id `prove-<run>-sender-<sender>`.
Units    events; two bytes of memory for each; seconds on time.monotonic's clock.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

EVENTS_MAX = 100_000_000
IDS_NAMED_MAX = 10
_GROWTH = 1 << 16
_TIMES_MAX = 255


class Ledger:
    """The two sides of the books: what senders were told, and what Postgres holds."""

    def __init__(self, run: str, senders: int) -> None:
        self.run = run
        self.prefix = f"prove-{run}-"
        self.sent = 0
        self.acknowledged = 0
        self.refused: Counter[str] = Counter()  # events that were turned down, by code
        self.resent = 0  # acknowledged before, sent again on purpose and acknowledged again
        self.retries = 0  # requests that were not acknowledged and were sent again
        self.longest_silence_seconds = 0.0  # between two acknowledgements
        self._heard_at = 0.0
        self._turns = [0] * senders
        self._acknowledged = bytearray()
        self._stored = bytearray()  # how often each number was found
        self._number = re.compile(re.escape(self.prefix) + r"(0|[1-9][0-9]{0,17})")

    # --- sending ---------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on silence counts."""
        self._heard_at = time.monotonic()

    def take(self, sender: int, count: int) -> range:
        """The next numbers of *sender*."""
        senders, turn = len(self._turns), self._turns[sender]
        self._turns[sender] = turn + count
        self.sent += count
        numbers = range(turn * senders + sender, (turn + count) * senders, senders)
        if numbers[-1] >= len(self._acknowledged):
            more = bytes(numbers[-1] + _GROWTH - len(self._acknowledged))
            self._acknowledged += more
            self._stored += more
        return numbers

    def earlier(self, sender: int, turn: int, count: int) -> range:
        """Numbers that *sender* was given before, from its *turn* on."""
        senders = len(self._turns)
        last = min(turn + count, self._turns[sender])
        return range(turn * senders + sender, last * senders, senders)

    def turns(self, sender: int) -> int:
        """How many numbers *sender* was given."""
        return self._turns[sender]

    def acknowledge(self, numbers: range, refused: dict[int, str] | None = None) -> None:
        """Every event of *numbers* was acknowledged, but those *refused*, by index, with a code."""
        for index, number in enumerate(numbers):
            if refused and index in refused:
                self.refused[refused[index]] += 1
            else:
                self._acknowledged[number] = 1
                self.acknowledged += 1
        self.heard()

    def heard(self) -> None:
        """An acknowledgement arrived just now."""
        now = time.monotonic()
        self.longest_silence_seconds = max(self.longest_silence_seconds, now - self._heard_at)
        self._heard_at = now

    def id_of(self, number: int) -> str:
        """The message id of a number."""
        return f"{self.prefix}{number}"

    def user_of(self, number: int) -> str:
        """The user id of a number: its sender."""
        return f"{self.prefix}sender-{number % len(self._turns)}"

    # --- reconciling -----------------------------------------------------------------------

    def number_of(self, message_id: str) -> int | None:
        """The number of an id that was given out; None for one that never was."""
        found = self._number.fullmatch(message_id)
        if found is None:
            return None
        number = int(found[1])
        turn, sender = divmod(number, len(self._turns))
        return number if turn < self._turns[sender] else None

    def forget_stored(self) -> None:
        """Begin to count anew what is stored."""
        self._stored = bytearray(len(self._stored))

    def found(self, number: int) -> bool:
        """The number is stored; say whether this is the first time it was found."""
        times = self._stored[number]
        self._stored[number] = min(times + 1, _TIMES_MAX)
        return not times

    def lost(self) -> "Ids":
        """Acknowledged and not stored."""
        return self._where((self._of(self._acknowledged) == 1) & (self._of(self._stored) == 0))

    def twice(self) -> "Ids":
        """Stored more than once."""
        return self._where(self._of(self._stored) > 1)

    def stored(self) -> int:
        """How many numbers were found."""
        return int(np.count_nonzero(self._of(self._stored)))

    def unasked(self) -> int:
        """Stored though never acknowledged, which is allowed: the answer was lost on its way."""
        return int(np.count_nonzero(self._of(self._stored)[self._of(self._acknowledged) == 0]))

    @staticmethod
    def _of(flags: bytearray) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        return np.frombuffer(flags, dtype=np.uint8)

    def _where(self, flags: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> "Ids":
        numbers = np.flatnonzero(flags)
        return Ids(len(numbers), [self.id_of(int(n)) for n in numbers[:IDS_NAMED_MAX]])


class Ids:
    """So many ids, the first of them by name."""

    def __init__(self, count: int = 0, named: list[str] | None = None) -> None:
        self.count = count
        self.named = named or []

    def add(self, message_id: str) -> None:
        """One more."""
        self.count += 1
        if len(self.named) < IDS_NAMED_MAX:
            self.named.append(message_id)

    def __bool__(self) -> bool:
        return bool(self.count)

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.named) else ""
        return ", ".join(self.named) + more
