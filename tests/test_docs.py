"""The documentation says what there is: every error code, and only tests that exist."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
WORD = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)`")
RAISED = {"BadRequest", "Busy", "Problem", "Refusal", "_unreadable"}


def codes() -> set[str]:
    """The words that ingest and refine answer with: the first argument of their errors."""
    found = set()
    for folder in ("ingest", "refine", "journal"):
        for path in (REPOSITORY / "collector" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in RAISED
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                    and isinstance(node.args[0].value, str)
                ):
                    found.add(node.args[0].value)
    return found


def test_every_error_code_is_explained() -> None:
    rows = re.findall(r"^\|([^|]+)\|", (DOCS / "errors.md").read_text(), re.M)
    explained = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert len(codes()) > 30
    assert codes() - explained == set()


def defined() -> set[str]:
    """The names of all tests."""
    return {
        name
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("**/*.md")))
def test_a_test_that_is_named_exists(page: str) -> None:
    (path,) = DOCS.glob(f"**/{page}")
    text = path.read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    files = {name.removesuffix(".py") for name in re.findall(r"test_\w+\.py", text)}
    assert named - files - defined() == set()


def test_the_threat_model_names_a_test_for_each_defence() -> None:
    text = (DOCS / "security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 25
    header = {"| what they try | what stands in the way | test |"}
    assert [row for row in rows if row not in header and "`test_" not in row] == []
