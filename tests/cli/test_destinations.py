"""`collector destinations`: how each stands, and the switch."""

from pathlib import Path

import pytest

from collector.store.postgres import Connection
from tests.cli.conftest import Shell
from tests.process import free_port
from tests.store.desk import add_counts, add_courier, add_event, add_letter, add_waiting

HOOK = '[[destinations]]\ntype = "webhook"\nname = "hook"\nurl = "https://hook.example"\n'


async def fill(connection: Connection) -> None:
    now = await connection.fetchval("select now() - interval '90 s'")
    for seq in range(1, 1_101):
        await add_event(connection, seq, received_at=now)
    await add_courier(
        connection,
        "hook",
        position=50,
        last_error="HTTP 503\x1b[31m busy",
        last_error_at=now,
    )
    await add_waiting(connection, "hook", 51)
    await add_counts(
        connection, "hook", delivered=1_234_567, skipped__consent=1_000, refused__bad=2
    )
    await add_letter(connection, "hook", 1)


def test_a_table_says_how_each_stands(shell: Shell) -> None:
    shell.configure(HOOK)
    shell.sql(fill)
    ended = shell("destinations")
    assert ended.status == 0
    assert ended.rows() == [
        ["destination", "type", "state", "lag", "pending", "waiting", "rate/s", "delivered",
         "skipped", "refused", "dead letters"],
        ["hook", "webhook", "running", ended.rows()[1][3], "1,050", "1", "0.0", "1,234,567",
         "1,000", "2", "1"],
    ]  # fmt: skip
    assert ended.rows()[1][3].startswith("1 min ")
    notes = ended.out.split("\n\n")[1]
    assert "hook: no collector serves it now: start one" in notes
    assert "hook: skipped: 1,000 consent" in notes
    assert "HTTP 503 [31m busy" in notes, "what a terminal would obey is taken out"


def test_json_says_the_same(shell: Shell) -> None:
    shell.configure(HOOK)
    shell.sql(fill)
    (found,) = shell("destinations", "--json").json
    assert (found["name"], found["pending"], found["configured"]) == ("hook", 1_050, True)
    assert found["outcomes"]["skipped"] == {"consent": 1_000}
    assert shell("--help").status == 0


def test_where_there_is_none_it_says_what_to_do(shell: Shell) -> None:
    ended = shell("destinations")
    assert (ended.status, ended.out) == (
        0, "There is no destination: add a [[destinations]] table, and start.\n"
    )  # fmt: skip
    assert shell("destinations", "--json").json == []


def test_settings_and_tables_that_do_not_agree_are_told(shell: Shell) -> None:
    new = HOOK.replace('"hook"', '"new"')
    shell.configure(f"{HOOK}enabled = false\n{new}")

    async def add(connection: Connection) -> None:
        await add_courier(connection, "hook")
        await add_courier(connection, "old")

    shell.sql(add)
    out = shell("destinations").out
    assert "hook: switched off by `enabled`" in out
    assert "new: configured, and has not begun yet: start the collector" in out
    assert "old: not in this configuration" in out
    ended = shell("destinations", "pause", "new")
    assert (ended.status, ended.err) == (
        2, "collector: new is configured and has not begun yet: start the collector\n"
    )  # fmt: skip


def test_a_pause_and_a_resume_say_what_comes_next(shell: Shell) -> None:
    shell.configure(HOOK)
    shell.sql(fill)
    ended = shell("destinations", "pause", "hook", "--because", "it moves")
    assert ended.status == 0
    assert ended.out.startswith("hook is paused: nothing is sent to it within a second or two.")
    assert ended.out.endswith("To go on: collector destinations resume hook\n")
    out = shell("destinations").out
    assert "paused, by_hand" in out
    assert "it moves; to go on: collector destinations resume hook" in out
    assert shell("destinations", "pause", "hook").out == "hook was paused before.\n"
    assert (
        shell("destinations", "resume", "hook").out == "hook goes on, with 1,050 events pending.\n"
    )
    assert shell("destinations", "resume", "hook", "--json").json == {"changed": False}


def test_an_unknown_name_is_told_which_there_are(shell: Shell) -> None:
    shell.sql(fill)
    for verb in ("pause", "resume"):
        ended = shell("destinations", verb, "hok")
        assert (ended.status, ended.out) == (2, "")
        assert ended.err == "collector: there is no destination hok: name one of hook\n"


# --- what may be in the way, for all commands ------------------------------------------------

COMMANDS = [
    ("destinations",),
    ("destinations", "pause", "hook"),
    ("dead-letters", "list"),
    ("dead-letters", "retry", "--all"),
    ("replay", "--destination", "hook"),
    ("replay", "list"),
    ("replay", "cancel", "1"),
    ("trace", "m1"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_postgres_that_is_away_is_told_with_what_to_do(
    shell: Shell, words: tuple[str, ...]
) -> None:
    shell.configure("", dsn=f"postgresql://collector@127.0.0.1:{free_port()}/collector")
    ended = shell(*words)
    assert ended.status == 1
    assert "Postgres cannot be reached" in ended.err
    assert "see whether it runs, and whether store.dsn names it" in ended.err


def test_an_embedded_postgres_that_does_not_run_is_told_with_its_place(
    shell: Shell, tmp_path: Path
) -> None:
    shell.config.write_text(f'data_dir = "{tmp_path}/data"\n')
    ended = shell("destinations")
    assert ended.status == 1
    assert f"{tmp_path}/data runs with the collector: start that" in ended.err


@pytest.mark.parametrize("words", COMMANDS)
def test_a_schema_that_is_too_old_is_told_with_what_to_do(
    shell: Shell, words: tuple[str, ...]
) -> None:
    shell.sql("delete from collector.migrations where version > 1")
    ended = shell(*words)
    assert ended.status == 2
    assert "restart the collector with this release" in ended.err


def test_a_database_without_our_tables_is_told_with_what_to_do(
    tmp_path: Path, empty_dsn: str
) -> None:
    ended = Shell(tmp_path, empty_dsn)("destinations")
    assert ended.status == 2
    assert "start the collector once" in ended.err


def test_settings_that_cannot_be_used_end_it(shell: Shell) -> None:
    shell.config.write_text("nonsense = 1\n")
    ended = shell("destinations")
    assert ended.status == 2
    assert "nonsense" in ended.err


@pytest.mark.parametrize("words", [("destinations",), ("destinations", "resume", "hook")])
def test_the_file_may_be_named_before_or_after_the_verb(
    shell: Shell, tmp_path: Path, words: tuple[str, ...]
) -> None:
    shell.configure(HOOK)
    shell.sql(fill)
    kept = tmp_path / "kept.toml"
    kept.write_text(shell.config.read_text())
    shell.config.write_text("nonsense = 1\n")
    first, *rest = words
    assert shell(first, "--config", str(kept), *rest).status == 0
    assert shell(*words, "--config", str(kept)).status == 0
