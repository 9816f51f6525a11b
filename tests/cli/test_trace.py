"""`collector trace`: one message id, in words."""

from collector.store.postgres import Connection
from tests.cli.conftest import Shell
from tests.store.desk import (
    RECEIVED,
    add_courier,
    add_event,
    add_letter,
    add_log,
    add_waiting,
    insert,
)


async def fill(connection: Connection) -> None:
    for seq in range(1, 6):
        await add_event(connection, seq, user_id="u\x1b[1m")
    await add_courier(connection, "crm", first_seq=4, position=3, state="paused", reason="denied")
    await add_courier(connection, "hook", position=4)
    await add_log(connection, "hook", "delivered", [1, 2], attempts=2)
    await add_log(connection, "hook", "refused", [3], reason="invalid_email")
    await add_letter(connection, "hook", 3)
    await add_waiting(
        connection, "hook", 5, attempts=3, reason="http_503", detail="busy", not_before=RECEIVED
    )


def test_it_tells_what_each_destination_made_of_it(shell: Shell) -> None:
    shell.sql(fill)
    out = shell("trace", "m1").out
    assert "stored    track 'Order Completed' as seq 1 from shop\n" in out
    assert "received  2026-06-01 12:00:00, " in out
    assert "user      u [1m\n" in out
    assert "crm          not its business: stored before the destination began" in out
    assert "hook         delivered" in out
    out = shell("trace", "m3").out
    assert "hook: the vendor says no, dead letter 1\n" in out
    out = shell("trace", "m4").out
    assert "hook         settled, details no longer kept" in out
    assert "crm: held up: denied" in out
    out = shell("trace", "m5").out
    assert "hook: busy, not tried before 2026-06-01 12:00:00" in out


def test_json_tells_the_same(shell: Shell) -> None:
    shell.sql(fill)
    (stored,) = shell("trace", "m3", "--json").json["stored"]
    assert [(f["destination"], f["outcome"]) for f in stored["fates"]] == [
        ("crm", "before_start"), ("hook", "refused")
    ]  # fmt: skip


def test_what_is_not_stored_may_be_in_a_journal(shell: Shell) -> None:
    ended = shell("trace", "nothing")
    assert ended.status == 1
    assert ended.out.startswith("nothing is not stored (yet). If it was answered 200 it is in a")
    assert shell("trace", "nothing", "--json").status == 1


def test_what_was_turned_down_says_why(shell: Shell) -> None:
    async def reject(connection: Connection) -> None:
        row = {
            "received_at": RECEIVED,
            "source": None,
            "accepted": False,
            "reason": "unknown_key",
            "detail": "use a key of one of the sources",
            "message_id": "bad",
            "payload": "{}",
            "payload_bytes": 2,
        }
        await insert(connection, "rejected_events", row)

    shell.sql(reject)
    ended = shell("trace", "bad")
    assert ended.status == 0
    assert "from an unknown key, refused in rejected_events as 1: unknown_key" in ended.out


def test_without_a_destination_it_says_so(shell: Shell) -> None:
    async def add(connection: Connection) -> None:
        await add_event(connection, 1)

    shell.sql(add)
    assert shell("trace", "m1").out.endswith("There is no destination.\n")
