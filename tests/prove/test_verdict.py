"""Verdict: nothing that is wrong goes without a sentence."""

from collections import Counter
from typing import Any

import pytest

from collector.prove.database import Found
from collector.prove.ledger import Ids, Ledger
from collector.prove.verdict import audit, problems

EVENTS = 20


def ledger() -> Ledger:
    made = Ledger("r", 2)
    made.acknowledge(made.take(0, EVENTS))
    return made


def found(**other: Any) -> Found:
    facts: dict[str, Any] = {
        name: Ids() for name in ("lost", "twice", "disordered", "altered", "unknown", "rejected")
    }
    facts |= {"rows": EVENTS, "stored": EVENTS, "unasked": 0, "reasons": Counter()}
    facts |= {"seq_breaks": 0, "seq_missing": 0, "books": {"stored": EVENTS, "duplicate": 3}}
    return Found(**facts | other)


def status(anomalies: dict[str, int] | None = None, **other: int) -> dict[str, Any]:
    row = {"source": "s", "accepted": EVENTS + 3, "stored": EVENTS, "duplicate": 3}
    row |= {"rejected": 0, "lost": 0, "waiting": 0, "missing": 0}
    return {"store": {"sources": [row | other]}, "anomalies": anomalies or {}}


def test_there_is_nothing_to_say_when_all_is_well() -> None:
    assert list(problems(ledger(), found())) == []
    books, wrong = audit(status(), ledger(), found())
    assert wrong == []
    assert books["accepted"] == EVENTS + 3


@pytest.mark.parametrize("name", ["lost", "twice", "disordered", "altered", "unknown", "rejected"])
def test_each_kind_of_wrong_row_is_a_problem_with_its_ids(name: str) -> None:
    ids = Ids(12, [f"prove-r-{n}" for n in range(10)])
    (problem,) = problems(ledger(), found(**{name: ids}))
    assert problem.startswith("12 ")
    assert "prove-r-0, prove-r-1, " in problem
    assert "prove-r-9, …" in problem


def test_order_is_asked_only_of_one_collector() -> None:
    assert not list(problems(ledger(), found(disordered=Ids(1, ["x"])), ordered=False))


@pytest.mark.parametrize("name", ["seq_breaks", "seq_missing"])
def test_a_seq_that_is_not_dense_is_a_problem(name: str) -> None:
    (problem,) = problems(ledger(), found(**{name: 1}))
    assert "seq is not dense" in problem


def test_nothing_acknowledged_proves_nothing() -> None:
    (problem,) = problems(Ledger("r", 1), found())
    assert "nothing is proved" in problem


def test_what_was_never_answered_is_a_problem() -> None:
    made = ledger()
    made.take(1, 7)
    assert not list(problems(made, found(), ended=False))
    (problem,) = problems(made, found())
    assert "7 sent and never acknowledged" in problem


def test_what_was_turned_down_is_a_problem() -> None:
    made = ledger()
    made.acknowledge(made.take(1, 5), {0: "plan", 4: "plan"})
    (problem,) = problems(made, found())
    assert problem == "2 faultless and turned down (plan 2)"
    assert made.acknowledged == EVENTS + 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"missing": 1}, "accepted is not the sum"),
        ({"accepted": EVENTS - 1}, "accepted is 19"),
        ({"stored": EVENTS + 1}, "21 count as stored, and 20 rows"),
        ({"lost": 1}, "1 count as lost"),
        ({"waiting": 1}, "1 count as waiting"),
        ({"rejected": 1}, "1 count as rejected"),
        ({"duplicate": 4}, "collector.accounting has 3 as duplicate"),
    ],
)
def test_books_that_do_not_close_are_a_problem(other: dict[str, int], words: str) -> None:
    _, wrong = audit(status(**other), ledger(), found())
    assert any(words in problem for problem in wrong)
    assert all(problem.startswith("the books do not close: ") for problem in wrong)


def test_a_cursor_that_went_back_is_a_problem() -> None:
    _, (problem,) = audit(status({"cursor_rewound": 2}), ledger(), found())
    assert "cursor_rewound 2" in problem
