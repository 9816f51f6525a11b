"""The thread that writes: one call after the other, each answered on the loop."""

import asyncio
import threading
import time

import pytest

from collector.journal.scribe import Scribe


async def test_calls_are_made_in_their_order_in_one_thread_and_answered_on_the_loop() -> None:
    scribe = Scribe(asyncio.get_running_loop(), "test")
    made: list[tuple[int, int]] = []
    heard: list[tuple[int, int]] = []

    def call(number: int) -> int:
        made.append((number, threading.get_ident()))
        return number

    for number in range(100):
        scribe.give(
            lambda n=number: call(n),  # type: ignore[misc]
            lambda result, error: heard.append((result or 0, threading.get_ident())),
        )
    assert await scribe.do(lambda: "last") == "last"
    scribe.close()
    assert [number for number, _ in made] == [number for number, _ in heard] == list(range(100))
    assert {thread for _, thread in heard} == {threading.get_ident()}
    assert len({thread for _, thread in made}) == 1
    assert made[0][1] != threading.get_ident()


async def test_what_a_call_raises_is_handed_on_and_the_next_is_made() -> None:
    scribe = Scribe(asyncio.get_running_loop(), "test")

    def fail() -> None:
        raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        await scribe.do(fail)
    assert await scribe.do(lambda: None) is None
    scribe.close()


async def test_who_was_cancelled_is_not_answered() -> None:
    scribe = Scribe(asyncio.get_running_loop(), "test")
    waiting = asyncio.create_task(scribe.do(lambda: time.sleep(0.1)))
    await asyncio.sleep(0.02)
    waiting.cancel()
    assert await scribe.do(lambda: 7) == 7
    scribe.close()


def test_a_loop_that_was_closed_ends_the_thread() -> None:
    loop = asyncio.new_event_loop()
    scribe = Scribe(loop, "test")
    loop.close()
    scribe.give(lambda: 1, lambda result, error: None)
    scribe.close()
    assert not scribe._thread.is_alive()
