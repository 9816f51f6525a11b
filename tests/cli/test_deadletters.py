"""`collector dead-letters`: look, try again, drop."""

import pytest

from collector.store.postgres import Connection
from tests.cli.conftest import Shell
from tests.store.desk import add_courier, add_event, add_letter


async def fill(connection: Connection) -> None:
    for seq in (1, 2, 3):
        await add_event(connection, seq, properties='{"order_id": "é"}')
    await add_courier(connection, "hook", position=3)
    await add_courier(connection, "crm", position=3)
    await add_letter(connection, "hook", 1)
    await add_letter(connection, "hook", 2, reason="too_large", detail="a\nb")
    await add_letter(connection, "crm", 99, event=None, type="page")


@pytest.fixture
def full(shell: Shell) -> Shell:
    shell.sql(fill)
    return shell


def test_they_are_listed_newest_first_and_counted(full: Shell) -> None:
    ended = full("dead-letters", "list")
    header, *rows = ended.rows()
    assert header[:5] == ["id", "failed at", "destination", "reason", "event"]
    assert [row[0] for row in rows] == ["3", "2", "1"]
    assert rows[1][2:6] == ["hook", "too_large", "Order Completed", "m2"]
    assert rows[0][4] == "page"
    assert "crm: 1 invalid_email\nhook: 1 invalid_email, 1 too_large\n" in ended.out
    assert "3 dead letters, of which the newest" in full("dead-letters", "list", "--limit", "1").out


def test_filters_narrow(full: Shell) -> None:
    def ids(*words: str) -> list[int]:
        found = full("dead-letters", "list", "--json", *words).json["dead_letters"]
        return [letter["id"] for letter in found]

    assert ids("--destination", "hook", "--reason", "too_large") == [2]
    assert ids("--event", "Order*") == [2, 1]
    assert ids("--type", "page") == [3]
    assert ids("--message-id", "m1") == [1]
    assert ids("--since", "1h") == [3, 2, 1]
    assert ids("--until", "2026-01-01") == []


def test_no_dead_letter_is_said_in_words(shell: Shell) -> None:
    assert shell("dead-letters", "list").out == "There is no dead letter.\n"
    assert shell("dead-letters", "list", "--reason", "x").out == (
        "There is no dead letter like that.\n"
    )


def test_one_is_shown_with_its_event(full: Shell) -> None:
    out = full("dead-letters", "show", "2").out
    assert "reason       too_large\ndetail       a b\n" in out
    assert '"messageId": "m2"' in out
    assert '"order_id": "é"' in out
    assert "past its retention" in full("dead-letters", "show", "3").out
    assert full("dead-letters", "show", "1", "--json").json["event"]["messageId"] == "m1"
    ended = full("dead-letters", "show", "77")
    assert (ended.status, ended.err[:38]) == (2, "collector: there is no dead letter 77:")


def test_some_are_tried_again(full: Shell) -> None:
    ended = full("dead-letters", "retry", "--all")
    assert ended.status == 0
    assert "Replay 1 tries 2 events of hook again" in ended.out
    assert "1 event: past their retention" in ended.out
    assert "2 events: a replay tries them already." in full("dead-letters", "retry", "1", "2").out
    assert full("dead-letters", "retry", "--reason", "x").out == (
        "There is no dead letter like that.\n"
    )
    assert full("dead-letters", "retry", "--all", "--json").json["under_way"] == 2


def test_what_is_dropped_is_asked_for_first(full: Shell) -> None:
    ended = full("dead-letters", "drop", "--destination", "hook", answer="n\n")
    assert "Forget 2 dead letters for good?" in ended.out
    assert ended.status == 1
    assert full.sql("select count(*) from collector.dead_letters") == 3
    assert full("dead-letters", "drop", "1", answer="y\n").out.endswith("Dropped 1 dead letter.\n")
    assert full("dead-letters", "drop", "--all", "--yes", "--json").json == {"dropped": 2}
    ended = full("dead-letters", "drop", "--all", "--json")
    assert (ended.status, ended.out) == (2, "")
    assert "add --yes" in ended.err


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_without_a_choice_nothing_is_done(full: Shell, verb: str) -> None:
    ended = full("dead-letters", verb)
    assert ended.status == 2
    assert "--all" in ended.err
    assert full.sql("select count(*) from collector.dead_letters where retry is null") == 3


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--since", "yesterday"),
        ("list", "--limit", "0"),
        ("list", "--destination", "ga4"),
        ("retry", "0"),
        ("retry", "99999999999999999999"),
        ("show", "x"),
        ("list", "--type", "purchase"),
        ("list", "--reason", "a\0b"),
    ],
)
def test_what_cannot_be_meant_is_refused(full: Shell, words: tuple[str, ...]) -> None:
    ended = full("dead-letters", *words)
    assert ended.status == 2
    assert ended.err
