"""
Config: what the file and the environment say is what counts, and what they say wrong is named.

A load that fails names the file or the variable, the setting and the reason, and nothing of ours
has listened or written by then.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from collector.config import Config, find, load, unknown
from collector.destinations import AnyDestination
from collector.destinations.webhook import WebhookSettings
from collector.errors import ConfigError
from collector.settings import Section, is_table, kinds

REPOSITORY = Path(__file__).parents[1]
SHIPPED = REPOSITORY / "config" / "collector.toml"
SETTING = re.compile(r"^#(?=[a-z_]+ = |\[\[)", re.MULTILINE)  # `# words` are only words
# Values other than the default, where one that is a little larger will not do.
OTHERS: dict[str, Any] = {
    "store.refine_processes": 0,
    "data_dir": "elsewhere",
    "ingest.host": "127.0.0.2",
    "ingest.path_prefix": "/events",
    "ingest.neutral_path_prefix": "",
    "ingest.trusted_proxies": ["10.0.0.0/8", "::1"],
    "ingest.sdk_dir": "elsewhere",
    "ingest.snowplow_paths": ["/com.acme/track", "/a/b"],
    "ingest.sdk_metrics_sample_rate": 0.5,
    "redirect.secrets": ["sixteen characters", "and the one before"],
    "redirect.base_url": "https://shop.example/x",
    "limits.unlimited": ["10.0.0.0/8"],
    "journal.disk_share_max": 0.25,
    "store.dsn": "postgresql://me@there/events?sslmode=require",
    "store.embedded.user": "nobody",
    "admin.host": "::1",
    "admin.allowed_hosts": ["metrics.example"],
    "admin.token": "12345",
    "log.level": "debug",
    "log.format": "json",
}


def settings_of(section: type[Section], prefix: str = "") -> list[str]:
    """Every setting but sources and destinations, in the order of the code: `store.dsn`."""
    found = []
    for name, kind in kinds(section).items():
        if is_table(kind):
            found += settings_of(kind, f"{prefix}{name}.")
        elif name not in {"sources", "destinations"}:
            found.append(prefix + name)
    return found


SETTINGS = settings_of(Config)


def value_of(config: Config, setting: str) -> Any:
    value: Any = config
    for name in setting.split("."):
        value = getattr(value, name)
    return value


def other(setting: str) -> Any:
    """A value that is allowed and is not the default."""
    default = value_of(Config(), setting)
    return OTHERS[setting] if setting in OTHERS else default + 1


def variable(setting: str) -> str:
    return f"COLLECTOR_{setting.replace('.', '_').upper()}"


def text(value: Any) -> str:
    """*value* as one writes it into a variable."""
    return ",".join(value) if isinstance(value, list) else str(value)


def changed(config: Config) -> dict[str, Any]:
    """What differs from the defaults."""
    default = Config()
    return {
        setting: value_of(config, setting)
        for setting in [*SETTINGS, "sources"]
        if value_of(config, setting) != value_of(default, setting)
    }


def refusal(path: Path | None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return caught.value.detail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "collector.toml"


# --- The file that we ship ---------------------------------------------------------------------


def test_the_shipped_file_changes_nothing() -> None:
    assert load(SHIPPED, {}) == Config()


def test_each_line_of_the_shipped_file_uncommented_is_a_default(file: Path) -> None:
    file.write_text(SETTING.sub("", SHIPPED.read_text()))
    assert load(file, {}) == Config()


def test_the_shipped_file_has_every_setting_once_and_in_the_order_of_the_code() -> None:
    raw = tomllib.loads(SETTING.sub("", SHIPPED.read_text()))

    def names(table: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for name, value in table.items():
            if isinstance(value, dict):
                found += names(value, f"{prefix}{name}.")
            elif name not in {"sources", "destinations"}:
                found.append(prefix + name)
        return found

    # TOML itself refuses a name that is there twice.
    assert names(raw) == SETTINGS
    assert [list(source) for source in raw["sources"]] == [
        [field.name for field in msgspec.structs.fields(type(Config().sources[0]))]
    ]


def test_each_destination_of_the_shipped_file_can_be_used(file: Path) -> None:
    _, marker, examples = SHIPPED.read_text().partition("\n# [[destinations]]\n")
    file.write_text(f"{marker}{examples}".replace("\n# ", "\n"))
    loaded = load(file, {}).destinations
    assert {type(one) for one in loaded} == set(get_args(AnyDestination))


@pytest.mark.parametrize("setting", SETTINGS)
def test_one_line_of_the_shipped_file_can_be_changed_alone(setting: str, file: Path) -> None:
    table, _, name = setting.rpartition(".")
    before, header, after = (
        SHIPPED.read_text().partition(f"\n[{table}]") if table else ("", "", SHIPPED.read_text())
    )
    line = re.compile(rf"^#{name} = [^#]*", re.MULTILINE)
    # json writes strings, numbers and lists as TOML does.
    file.write_text(
        before + header + line.sub(f"{name} = {json.dumps(other(setting))}  ", after, count=1)
    )
    environ = {"COLLECTOR_ADMIN_TOKEN": "t"} if setting == "admin.host" else {}
    assert changed(load(file, environ)) == {setting: other(setting)} | (
        {"admin.token": "t"} if environ else {}
    )


def test_the_shipped_file_explains_every_line() -> None:
    bare = [
        line
        for line in SHIPPED.read_text().splitlines()
        if line.strip() and "#[[" not in line and not re.search(r"# [^#]*\w", line[1:])
    ]
    assert [line for line in bare if not line.startswith("# ")] == []


# --- Which file --------------------------------------------------------------------------------


def test_the_file_is_the_one_named_then_the_variables_then_the_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find(None, {}) is None
    Path("config").mkdir()
    Path("config/collector.toml").touch()
    assert find(None, {}) == Path("config/collector.toml")
    assert find(None, {"COLLECTOR_CONFIG": "b.toml"}) == Path("b.toml")
    assert find("a.toml", {"COLLECTOR_CONFIG": "b.toml"}) == Path("a.toml")


def test_a_checkout_loads_its_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = find(None, {})
    assert found is not None
    assert load(found, {}) == Config()


def test_without_a_file_there_is_one_source_for_trying_out() -> None:
    (source,) = load(None, {}).sources
    assert (source.name, source.write_key, source.kind) == ("default", "demo", "browser")


# --- What is wrong with a file -----------------------------------------------------------------

ONE = '[[sources]]\nname = "a"\nwrite_key = "one"\n'


@pytest.mark.parametrize(
    ("toml", "setting", "reason"),
    [
        ("prot = 1", "prot", "unknown field"),
        ("[ingest]\nprot = 1", "ingest", "unknown field `prot`"),
        ("[store.dedupe]\ndays = 1", "store.dedupe", "unknown field `days`"),
        ("[ingests]\nport = 1", "ingests", "unknown field"),
        ('[ingest]\nport = "8080"', "ingest.port", "got `str`"),
        ("[ingest]\nport = true", "ingest.port", "got `bool`"),
        ("[ingest]\nport = 8080.0", "ingest.port", "got `float`"),
        ("[ingest]\ntrusted_proxies = [1]", "ingest.trusted_proxies[0]", "got `int`"),
        ("ingest = 1", "ingest", "got `int`"),
        ("data_dir = 1", "data_dir", "got `int`"),
        ("[ingest]\nport = 65536", "ingest.port", "<= 65535"),
        ("[ingest]\nport = -1", "ingest.port", ">= 0"),
        ("[journal]\nfile_bytes = 0", "journal.file_bytes", ">= 1"),
        ("[journal]\ndisk_share_max = 1.5", "journal.disk_share_max", "<= 1.0"),
        ("[journal]\nkeep_seconds = nan", "journal.keep_seconds", ">= 0.0"),
        ("[store.embedded]\nconnections_max = 9", "store.embedded.connections_max", ">= 10"),
        ('[log]\nlevel = "loud"', "log.level", "'loud'"),
        ('[ingest]\npath_prefix = "events/"', "ingest.path_prefix", "regex"),
        ('[store]\ndsn = "host=there"', "store.dsn", "postgresql://"),
        ('[admin]\nhost = "0.0.0.0"', "admin.token", "COLLECTOR_ADMIN_TOKEN_FILE"),
        ("sources = []", "sources", "[[sources]]"),
        ('[sources]\nname = "a"', "sources", "Expected `array`"),
        ('[[sources]]\nname = "a"', "sources[0]", "`write_key`"),
        ('[[sources]]\nname = "a b"\nwrite_key = "k"', "sources[0].name", "regex"),
        ('[[sources]]\nname = "a"\nwrite_key = ""', "sources[0].write_key", "regex"),
        (ONE + 'kind = "phone"', "sources[0].kind", "'phone'"),
        (ONE + 'origins = ["shop.example"]', "sources[0].origins", "https://shop.example"),
        (ONE + 'origins = ["https://shop.example/"]', "sources[0].origins", "without a path"),
        (ONE + ONE.replace("one", "two"), "sources[1].name", "a is used twice"),
        (
            ONE + 'snowplow_app_ids = ["x"]\n[[sources]]\nname = "b"\nwrite_key = "k2"\n'
            'snowplow_app_ids = ["y", "x"]',
            "sources[1].snowplow_app_ids",
            "x belongs to another",
        ),
        (ONE + ONE.replace('"a"', '"b"'), "sources[1].write_key", "used twice"),
    ],
)
def test_what_cannot_be_used_is_told_with_file_setting_and_reason(
    file: Path, toml: str, setting: str, reason: str
) -> None:
    file.write_text(toml)
    detail = refusal(file)
    assert detail.startswith(f"{file}: ")
    assert setting in detail
    assert reason in detail


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[ingest", "']'"),
        (b"data_dir = 'a'\ndata_dir = 'b'", "Cannot overwrite"),
        (b"[log]\n[log]", "Cannot declare"),
        (b"data_dir = '\xff'", "utf-8"),
        (b"data_dir = nothing", "line 1, column 12"),
    ],
)
def test_a_file_that_is_no_toml_is_told_with_the_place(
    file: Path, content: bytes, reason: str
) -> None:
    file.write_bytes(content)
    detail = refusal(file)
    assert detail.startswith(f"{file} is no TOML: ")
    assert reason in detail


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path, file: Path) -> None:
    assert refusal(file).startswith(f"{file} cannot be read (No such file")
    assert refusal(tmp_path).startswith(f"{tmp_path} cannot be read (Is a directory)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_told(file: Path) -> None:
    file.write_text("")
    file.chmod(0)
    assert refusal(file).startswith(f"{file} cannot be read (Permission denied)")


def test_no_refusal_shows_a_secret(file: Path, tmp_path: Path) -> None:
    file.write_text(
        ONE.replace("one", "geheim") + ONE.replace("one", "geheim").replace('"a"', '"b"')
    )
    assert "geheim" not in refusal(file)
    for name in ("STORE_DSN", "SOURCES"):
        assert "geheim" not in refusal(None, {f"COLLECTOR_{name}": "geheim"})
    secret = tmp_path / "secret"
    secret.write_text("host=there password=geheim")
    assert "geheim" not in refusal(None, {"COLLECTOR_STORE_DSN_FILE": str(secret)})


# --- The environment ---------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_can_be_overridden_by_a_variable(setting: str, file: Path) -> None:
    environ = {variable(setting): text(other(setting))}
    assert changed(load(None, environ)) == {setting: other(setting)}
    # Also where the file says something.
    file.write_text(SETTING.sub("", SHIPPED.read_text()))
    assert changed(load(file, environ)) == {setting: other(setting)}
    assert unknown(environ) == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_can_be_overridden_by_what_stands_in_a_file(
    setting: str, tmp_path: Path
) -> None:
    value = tmp_path / "value"
    value.write_text(text(other(setting)) + "\n")
    environ = {f"{variable(setting)}_FILE": str(value)}
    assert changed(load(None, environ)) == {setting: other(setting)}
    assert unknown(environ) == []


def test_the_names_of_variables_stay_as_they_are() -> None:
    environ = {
        "COLLECTOR_DATA_DIR": "d",
        "COLLECTOR_INGEST_HOST": "h",
        "COLLECTOR_INGEST_PORT": "1",
        "COLLECTOR_ADMIN_PORT": "2",
        "COLLECTOR_STORE_DSN": "postgresql://h/d",
        "COLLECTOR_STORE_DEDUPE_WINDOW_DAYS": "3",
    }
    assert changed(load(None, environ)) == {
        "data_dir": "d",
        "ingest.host": "h",
        "ingest.port": 1,
        "admin.port": 2,
        "store.dsn": "postgresql://h/d",
        "store.dedupe.window_days": 3,
    }


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", []),
        ("10.0.0.1", ["10.0.0.1"]),
        (" 10.0.0.1 , ::1,", ["10.0.0.1", "::1"]),
        ('["10.0.0.1", "::1"]', ["10.0.0.1", "::1"]),
        ("[]", []),
    ],
)
def test_a_list_is_words_with_commas_or_json(written: str, read: list[str]) -> None:
    config = load(None, {"COLLECTOR_INGEST_TRUSTED_PROXIES": written})
    assert config.ingest.trusted_proxies == read


def test_sources_come_from_a_variable_as_json() -> None:
    sources = [{"name": "shop", "write_key": "k1"}, {"name": "mail", "write_key": "k2"}]
    config = load(None, {"COLLECTOR_SOURCES": json.dumps(sources)})
    assert [(source.name, source.write_key) for source in config.sources] == [
        ("shop", "k1"),
        ("mail", "k2"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("COLLECTOR_INGEST_PORT", "http", "got `str`"),
        ("COLLECTOR_INGEST_PORT", "", "got `str`"),
        ("COLLECTOR_STORE_LINGER_SECONDS", "soon", "got `str`"),
        ("COLLECTOR_LOG_FORMAT", "xml", "'xml'"),
        ("COLLECTOR_INGEST_TRUSTED_PROXIES", '["10.0.0.1"', "JSON list"),
        ("COLLECTOR_ADMIN_TOKEN_FILE", "/nowhere/token", "/nowhere/token cannot be read"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named_with_the_reason(
    name: str, value: str, reason: str
) -> None:
    detail = refusal(SHIPPED, {name: value})
    assert detail.startswith(f"{name}: ")
    assert reason in detail


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COLLECTOR_INGEST_PORT", "65536"),
        ("COLLECTOR_JOURNAL_DISK_SHARE_MAX", "0"),
        ("COLLECTOR_INGEST_PATH_PREFIX", "events"),
        ("COLLECTOR_INGEST_TRUSTED_PROXIES", "[1]"),
    ],
)
def test_a_variable_out_of_bounds_is_named_and_not_the_file(name: str, value: str) -> None:
    assert refusal(SHIPPED, {name: value}).startswith(f"{name}: ")


def test_variables_that_are_no_settings_are_reported() -> None:
    environ = {
        "COLLECTOR_INGEST_PROT": "1",
        "COLLECTOR_INGEST": "1",
        "COLLECTOR_STORE_DEDUPE_DAYS_FILE": "1",
        "PATH": "/bin",
        "MY_COLLECTOR_PORT": "1",
    }
    assert unknown(environ) == [
        "COLLECTOR_INGEST",
        "COLLECTOR_INGEST_PROT",
        "COLLECTOR_STORE_DEDUPE_DAYS_FILE",
    ]


def test_what_kubernetes_sets_for_a_service_of_our_name_is_ignored() -> None:
    environ = {
        "COLLECTOR_SERVICE_HOST": "10.96.0.7",
        "COLLECTOR_SERVICE_PORT": "8080",
        "COLLECTOR_SERVICE_PORT_HTTP": "8080",
        "COLLECTOR_PORT": "tcp://10.96.0.7:8080",
        "COLLECTOR_PORT_8080_TCP": "tcp://10.96.0.7:8080",
        "COLLECTOR_PORT_8080_TCP_ADDR": "10.96.0.7",
        "COLLECTOR_PORT_8080_TCP_PORT": "8080",
        "COLLECTOR_PORT_8080_TCP_PROTO": "tcp",
        "COLLECTOR_CONFIG": "collector.toml",
    }
    assert unknown(environ) == []
    assert load(None, environ) == Config()


# --- As a process ------------------------------------------------------------------------------


def command(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`collector *words*` in a directory of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR_")}
    return subprocess.run(
        [sys.executable, "-m", "collector", *words],
        env=clean | environ,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("verb", ["check", "run", "dsn", "status"])
def test_settings_that_cannot_be_used_end_it_with_2_and_one_sentence(
    tmp_path: Path, file: Path, verb: str
) -> None:
    file.write_text("[ingest]\nport = 65536\n")
    ended = command(tmp_path, verb, "--config", str(file))
    assert ended.returncode == 2
    assert ended.stderr == f"collector: {file}: ingest.port: Expected `int` <= 65535\n"
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == [file]


def test_check_finds_the_usual_file_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "collector.toml").write_text('[journal]\nfile_bytes = "64 MB"\n')
    ended = command(tmp_path, "check")
    assert ended.returncode == 2
    assert "config/collector.toml: journal.file_bytes: Expected `int`, got `str`" in ended.stderr


def test_check_ends_with_2_for_what_only_the_machine_can_tell(tmp_path: Path, file: Path) -> None:
    file.write_text('[ingest]\ntrusted_proxies = ["proxy.example"]\n')
    ended = command(tmp_path, "check", "--config", str(file))
    assert ended.returncode == 2
    assert "ingest.trusted_proxies" in ended.stdout


def test_check_is_content_with_the_shipped_file_and_writes_nothing(tmp_path: Path) -> None:
    ended = command(tmp_path, "check", "--config", str(SHIPPED))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "error" not in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_check_reports_variables_that_are_no_settings(tmp_path: Path) -> None:
    ended = command(tmp_path, "check", COLLECTOR_INGEST_PROT="1")
    assert ended.returncode == 0
    assert "COLLECTOR_INGEST_PROT is set and is no setting" in ended.stdout


# --- Destinations ------------------------------------------------------------------------------

HOOK = '[[destinations]]\ntype = "webhook"\nname = "my-crm"\nurl = "https://crm.example/"\n'


def test_a_secret_of_a_destination_comes_from_a_file(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    file.write_text(HOOK + 'signature = "v2"\n')
    environ = {
        "COLLECTOR_DESTINATIONS_MY_CRM_SECRET_FILE": str(secret),
        "COLLECTOR_DESTINATIONS_MY_CRM_CONCURRENCY": "7",
    }
    (hook,) = load(file, environ).destinations
    assert isinstance(hook, WebhookSettings)
    assert (hook.secret, hook.concurrency) == ("hush", 7)
    assert unknown(environ, load(file, environ)) == []


def test_a_variable_of_an_unknown_destination_is_told() -> None:
    environ = {"COLLECTOR_DESTINATIONS_NOBODY_SECRET": "x", "COLLECTOR_DESTINATIONS": "[]"}
    assert unknown(environ) == ["COLLECTOR_DESTINATIONS_NOBODY_SECRET"]


def test_destinations_come_from_a_variable_as_json() -> None:
    hooks = [{"type": "webhook", "name": "crm", "url": "https://crm.example/"}]
    environ = {"COLLECTOR_DESTINATIONS": json.dumps(hooks)}
    assert [one.name for one in load(None, environ).destinations] == ["crm"]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        (HOOK + HOOK, "destinations[1].name", "used twice"),
        (HOOK.replace('"webhook"', '"fax"'), "destinations[0].type", "fax"),
        (HOOK + 'colour = "red"', "destinations[0]", "colour"),
        (HOOK.replace("my-crm", "my crm"), "destinations[0].name", "regex"),
        (HOOK + 'start = "soon"', "destinations[0]", "start"),
        (HOOK + 'start = "2999-01-01"', "destinations[0]", "a time to come"),
    ],
)
def test_a_destination_that_cannot_be_is_refused(
    text: str, where: str, what: str, file: Path
) -> None:
    file.write_text(text)
    detail = refusal(file)
    assert where in detail
    assert what in detail
