"""Everybody's events arrive in their order, whatever fails; an order is one order."""

import random

import pytest

from collector.destinations.base import TAKEN, Later, Outcome, Parcel, Refused
from collector.errors import Unacceptable, Unreachable
from tests.destinations.conftest import Depots
from tests.destinations.depot import (
    Depot,
    event,
    except_for,
    failing_with,
    hang_up,
    in_turn,
    take,
    users,
)


@pytest.mark.parametrize("seed", range(4))
async def test_everybodys_events_come_in_order_with_four_at_once(depots: Depots, seed: int) -> None:
    """Whole batches fail, and events that are alone in theirs."""
    dice = random.Random(seed)
    hook = await depots(concurrency=4, batch_events_max=7, linger_seconds=0.0)

    def behave(batch: list[Parcel]) -> list[Outcome]:
        chance = dice.random()
        if chance < 0.2:
            raise Unreachable("unavailable", "not now")
        if chance < 0.4 and len(batch) > 1:
            raise Unacceptable("refused", "something in it")
        persons = {parcel.payload.user_id for parcel in batch}
        if chance < 0.6 and len(persons) == len(batch):
            return [dice.choice([TAKEN, TAKEN, Later("throttled", "not now")]) for _ in batch]
        return [TAKEN] * len(batch)

    async def answer() -> None:
        await hook.clock.sleep(dice.random() * 2)

    hook.vendor.behave = behave  # type: ignore[assignment]
    hook.vendor.answer = answer
    await hook.add(*users(150, 11))
    await hook.start()
    await hook.advance(3.0)
    await hook.add(*users(50, 11, first=150))
    await hook.settle()
    assert hook.vendor.under_way_max == 4
    assert len(set(hook.vendor.taken)) == 200
    hook.assert_in_order(11)
    await hook.assert_books_close(pending=0)


async def test_the_second_half_of_a_batch_does_not_overtake_the_first(hook: Depot) -> None:
    """The batch is refused as a whole, and the vendor goes away during the first half."""
    hook.vendor.behave = in_turn(
        failing_with(Unacceptable("refused", "something"), "m0"),
        failing_with(Unreachable("unavailable", "not now"), "m0"),
        take,
    )
    await hook.add(*users(20, 1))
    await hook.start()
    await hook.settle()
    hook.assert_in_order(1)
    assert len(set(hook.vendor.taken)) == 20


async def test_who_waits_holds_up_nobody_else(hook: Depot) -> None:
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now", 500.0)})
    await hook.add(*users(50, 10))
    await hook.start()
    await hook.advance(5.0)
    await hook.add(*users(50, 10, first=50))
    await hook.advance(5.0)
    # In the first batch the vendor took those behind m0; later ones wait for it.
    assert set(hook.vendor.taken) == {f"m{n}" for n in range(1, 100) if n % 10 or n < 50}
    await hook.assert_books_close(pending=6)
    hook.vendor.behave = take
    await hook.settle()
    assert hook.vendor.taken[-6:] == ["m0", "m50", "m60", "m70", "m80", "m90"]


async def test_an_alias_comes_between_what_was_before_and_after_it(hook: Depot) -> None:
    alias = event("m1", "known", type="alias", event=None, previous_id="visitor")
    hook.vendor.behave = except_for({"m1": Later("throttled", "not now", 50.0)})
    await hook.add(event("m0", None, anonymous_id="visitor"))
    await hook.start()
    await hook.settle()
    await hook.add(alias)
    await hook.advance(1.0)
    await hook.add(event("m2", "known"), event("m3", None, anonymous_id="visitor"), event("m4"))
    await hook.advance(5.0)
    assert hook.vendor.taken == ["m0", "m4"]
    hook.vendor.behave = take
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m4", "m1", "m2", "m3"]


async def test_where_order_does_not_matter_nobody_waits_for_another(
    hook: Depot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(hook.destination), "ordered", False)
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now", 500.0)})
    await hook.add(event("m0"))
    await hook.start()
    await hook.advance(2.0)
    await hook.add(event("m1"), event("m2"))
    await hook.advance(2.0)
    assert hook.vendor.taken == ["m1", "m2"]


# --- one order is one order --------------------------------------------------------------------


def order(message_id: str, order_id: object = "o1", user: str = "u", **columns: object) -> dict:
    return event(
        message_id, user, event="Order Completed", properties={"order_id": order_id}, **columns
    )


async def test_an_order_is_sent_once_whatever_its_message_ids_are(hook: Depot) -> None:
    """From the page and from the server, of different users, in one batch or days apart."""
    await hook.add(order("m0"), order("m1", user="v"), order("m2", "o2"))
    await hook.start()
    await hook.settle()
    await hook.add(order("m3", user="w"), order("m4", "o3"))
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m2", "m4"]
    assert await hook.counts() == {"delivered": 3, "skipped:already_sent": 2}
    assert len(await hook.connection.fetch("select from collector.claims")) == 3
    await hook.assert_books_close(pending=0)


async def test_an_order_that_was_refused_may_come_again_at_once(hook: Depot) -> None:
    """The second stands behind the first and goes before anything has been committed."""
    hook.vendor.behave = except_for({"m0": Refused("bad_total", "no")})
    await hook.add(order("m0"), order("m1"), order("m2"))
    await hook.start()
    await hook.settle()
    assert hook.vendor.taken == ["m1"]
    assert await hook.letters() == {"m0": "bad_total"}
    assert await hook.counts() == {
        "delivered": 1,
        "refused:bad_total": 1,
        "skipped:already_sent": 1,
    }
    assert await hook.ask("select message_id from collector.claims") == "m1"


async def test_a_second_order_waits_for_what_becomes_of_the_first(hook: Depot) -> None:
    hook.vendor.behave = except_for({"m0": Later("throttled", "not now", 100.0)})
    await hook.add(order("m0"))
    await hook.start()
    await hook.advance(1.0)
    await hook.add(order("m1", user="v"))
    await hook.advance(50.0)
    assert not hook.vendor.taken
    assert len(hook.courier.window) == 2
    hook.vendor.behave = except_for({"m0": Refused("bad_total", "no")})
    await hook.settle()
    assert hook.vendor.taken == ["m1"]


async def test_the_same_order_is_sent_again_after_a_crash_and_no_other_in_its_place(
    hook: Depot,
) -> None:
    hook.vendor.behave = hang_up  # it may have it
    await hook.add(order("m0"), order("m1"))
    await hook.start()
    await hook.advance(0.2)
    await hook.crash()
    hook.vendor.behave = take
    await hook.start()
    await hook.settle()
    assert hook.vendor.seen == {"m0": 2}
    assert await hook.counts() == {"delivered": 1, "skipped:already_sent": 1}


async def test_one_that_may_have_arrived_keeps_its_claim(depots: Depots) -> None:
    hook = await depots(on_ambiguous="dead_letter")
    hook.vendor.behave = in_turn(hang_up, take)
    await hook.add(order("m0"), order("m1"))
    await hook.start()
    await hook.settle()
    assert not hook.vendor.taken
    assert await hook.counts() == {"refused:ambiguous": 1, "skipped:already_sent": 1}


@pytest.mark.parametrize(
    "order_id",
    ["ö" * 2_000, "😀" * 1_000, 17, 17.5, 2**70, "a b\n", "0"],
    ids=lambda id_: str(id_)[:5],
)
async def test_any_order_id_is_a_claim(hook: Depot, order_id: object) -> None:
    await hook.add(order("m0", order_id), order("m1", order_id))
    await hook.start()
    await hook.settle(seconds=60.0)
    assert hook.vendor.taken == ["m0"]


@pytest.mark.parametrize("order_id", [None, "", True, [], {}], ids=str)
async def test_what_is_no_order_id_claims_nothing(hook: Depot, order_id: object) -> None:
    await hook.add(order("m0", order_id), order("m1", order_id))
    await hook.start()
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m1"]


async def test_what_is_sent_once_is_a_setting(depots: Depots) -> None:
    hook = await depots(once={"Signed Up": "plan.name"})
    await hook.add(
        order("m0"),
        order("m1"),
        event("m2", event="Signed Up", properties={"plan": {"name": "a"}}),
        event("m3", event="Signed Up", properties={"plan": {"name": "a"}}),
        event("m4", event="Signed Up", properties={"plan": "a"}),
    )
    await hook.start()
    await hook.settle()
    assert hook.vendor.taken == ["m0", "m1", "m2", "m4"]
