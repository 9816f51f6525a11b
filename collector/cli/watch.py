"""
Watch: what a replay shows while it is counted, and until it ends.

The running collector does the sending; Ctrl-C ends the watching, and the replay goes on.

Units    seconds.
"""

import asyncio
import signal

from collector.cli.asking import ask
from collector.cli.progress import Progress
from collector.cli.tables import by_reason, plain
from collector.config import Config
from collector.errors import Unreachable
from collector.store.desk import Visit, replays
from collector.store.desk.replays import Replay, Span
from collector.store.selection import Selection

GOING = ("running", "paused")
LOOK_SECONDS = 1.0
UNTAKEN_SECONDS = 10.0  # then somebody should know that no collector has taken it up


async def count(guest: Visit, selection: Selection, whole: Span, progress: Progress) -> int:
    """How many events of *whole* are selected, with *progress*."""
    found = 0
    for piece in replays.pieces(whole):
        found += await guest.do(replays.count, selection, piece)
        looked, size = piece.last - whole.first + 1, whole.last - whole.first + 1
        progress.show("count", f"Counting: {found:,} in {looked:,} of {size:,}")
    progress.clear()
    return found


def watch(path: str | None, started: Replay, progress: Progress) -> Replay:
    """Show how far it is until it ends, or until Ctrl-C, and return how it stands then."""

    async def look(guest: Visit, _: Config) -> Replay:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, stopped.set)
        found, waited, told = started, 0.0, False
        while found.state in GOING and not stopped.is_set():
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await stopped.wait()
            except TimeoutError:
                waited += LOOK_SECONDS
            try:
                found = await guest.do(replays.replay, started.id)
            except Unreachable as exc:
                raise Unreachable(
                    exc.code,
                    f"{exc.detail}; replay {started.id} goes on when it is back, and "
                    "collector replay list shows how far it is",
                ) from exc
            if waited >= UNTAKEN_SECONDS and not found.started and not told:
                told = True
                progress.say("No collector has taken it up yet: it waits until one runs.")
            if found.state in GOING:
                progress.show(found.state, line_of(found))
        progress.clear()
        return found

    found = ask(path, look)
    progress.say(line_of(found))
    if found.state in GOING:
        progress.say(
            f"Replay {found.id} goes on without us. To end it: collector replay cancel {found.id}"
        )
    return found


def line_of(found: Replay) -> str:
    """How it stands, in a line."""
    outcomes = found.outcomes
    words = [f"Replay {found.id} {found.state}: {share_of(found)} %"]
    words.append(f"{outcomes.delivered:,} of {found.total or 0:,} delivered")
    if outcomes.skipped:
        words.append(f"skipped {by_reason(outcomes.skipped)}")
    if outcomes.refused:
        words.append(f"refused {by_reason(outcomes.refused)}")
    if found.waiting:
        words.append(f"{found.waiting:,} waiting")
    if found.state == "running":
        words.append(f"{found.rate_per_second:,.1f} a second")
    if found.reason:
        words.append(plain(f"{found.reason}: {found.detail or ''}"))
    return ", ".join(words)


def share_of(found: Replay) -> str:
    """How much of it is done; never all of it before it is."""
    if found.state == "done":
        return "100.0"
    return f"{min(99.9, 100 * found.share):.1f}"
