"""The documentation says what there is: every error code, and only tests that exist."""

import ast
import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from collector import metrics
from collector.config import Config
from collector.destinations import AnyDestination, DestinationSettings
from collector.destinations.dispatch import Dispatch
from collector.store.postgres import Postgres

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
WORD = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)`")
RAISED = {"BadRequest", "Busy", "Problem", "Refusal", "_unreadable"}


def codes() -> set[str]:
    """The words that ingest and refine answer with: the first argument of their errors."""
    found = set()
    for folder in ("ingest", "refine", "journal"):
        for path in (REPOSITORY / "collector" / folder).rglob("*.py"):
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
    assert named - files - defined() - {"test_event_code"} == set()  # a setting of Meta's


def test_the_threat_model_names_a_test_for_each_defence() -> None:
    text = (DOCS / "security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 25
    header = {"| what they try | what stands in the way | test |"}
    assert [row for row in rows if row not in header and "`test_" not in row] == []


# --- Destinations ------------------------------------------------------------------------------

DESTINATIONS = {kind.__struct_config__.tag: kind for kind in get_args(AnyDestination)}
COMMON = set(DestinationSettings.__struct_fields__)


def settings_in(text: str) -> set[str]:
    """What stands as `code` in the first column of its tables."""
    return set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|([^|]+)\|", text, re.M))))


@pytest.mark.parametrize("type_", DESTINATIONS)
def test_each_destination_has_its_row_and_its_page(type_: str) -> None:
    overview = (DOCS / "destinations.md").read_text()
    (row,) = re.findall(rf"^\|[^|]+\| `{type_}` \|.*$", overview, re.M)
    (page,) = re.findall(r"\((destinations/[\w-]+\.md)\)", row)
    text = (DOCS / page).read_text()
    own = set(DESTINATIONS[type_].__struct_fields__) - COMMON
    assert own - settings_in(text) == set()


def test_each_setting_of_all_destinations_is_explained_with_its_default() -> None:
    text = (DOCS / "destinations.md").read_text()
    assert COMMON - settings_in(text) == set()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", text, re.M)
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(DestinationSettings)
        if isinstance(field.default, int | float | str)
    }
    for names, shown in rows:
        for name, default in zip(re.findall(r"\w+", names), shown.split(", "), strict=False):
            if name in defaults:
                value = defaults[name]
                wanted = f'"{value}"' if isinstance(value, str) else f"{value:g}"
                wanted = str(value).lower() if isinstance(value, bool) else wanted
                assert default.strip().strip("`") in {wanted, str(value)}, name


def test_each_metric_of_destinations_is_explained() -> None:
    accounts = metrics.Accounts()
    Dispatch(Config().destinations, Postgres(""), {}).publish(accounts)
    families = [*accounts.collect(), *metrics.delivery_seconds.collect()]
    names = {
        f"{family.name}_total" if family.type == "counter" else family.name for family in families
    }
    assert len(names) > 8
    assert names - settings_in((DOCS / "destinations.md").read_text()) == set()
