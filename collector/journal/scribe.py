"""
Scribe: the one thread that writes, and how the event loop speaks with it.

An executor would do the same and cost each commit twice as much: a future of each kind, four locks
and one more turn of the loop. Under many small requests commits are what there is most of.

Errors   none of its own: what a call raises is handed to whoever gave it.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

Then = Callable[[T | None, BaseException | None], None]


class Scribe:
    """Makes calls in a thread, one after the other, in the order in which they are given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._calls: SimpleQueue[tuple[Callable[[], object], Then[object]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, call: Callable[[], T], then: Then[T]) -> None:
        """Have *call* made; *then* hears on the loop what it returned, or else what it raised."""
        self._calls.put((call, then))  # type: ignore[arg-type]  # each is answered in its type

    async def do(self, call: Callable[[], T]) -> T:
        """Have *call* made, and return or raise what it does."""
        done: asyncio.Future[T] = self._loop.create_future()
        self.give(call, partial(_settle, done))
        return await done

    def close(self) -> None:
        """Return when all that was given is done. Nothing may be given afterwards."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (given := self._calls.get()) is not None:
            call, then = given
            result: object = None
            error: BaseException | None = None
            try:
                result = call()
            except BaseException as exc:  # noqa: BLE001  it is handed on
                error = exc
            try:
                self._loop.call_soon_threadsafe(then, result, error)
            except RuntimeError:
                return  # the loop was closed: nobody waits any more
            del given, call, then, result, error


def _settle(done: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    if done.done():
        return  # whoever waited was cancelled
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)  # type: ignore[arg-type]  # None is what it returned
