"""
Config: every setting of the collector, from a TOML file and the environment.

    --config FILE, else $COLLECTOR_CONFIG, else ./config/collector.toml if there, else the defaults

`COLLECTOR_<SECTION>_<KEY>` overrides a setting, `COLLECTOR_<SECTION>_<KEY>_FILE` does so with
what stands in a file, which is how secrets should come. For a destination the section is its name:
`COLLECTOR_DESTINATIONS_<NAME>_<KEY>`, with _ for what a variable's name cannot hold.

Each room declares its own settings; here they are only put together, in the order in which an event
meets them.

Errors   ConfigError naming file or variable, setting and reason, before anything listens.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Meta

from collector.admin import AdminSettings, is_loopback
from collector.destinations import AnyDestination
from collector.errors import ConfigError
from collector.ingest import IngestSettings, LimitSettings, RedirectSettings, SourceSettings
from collector.journal import JournalSettings
from collector.logs import LogSettings
from collector.settings import Section, is_list, is_table, kinds
from collector.store import StoreSettings

PREFIX = "COLLECTOR_"
DEFAULT_FILE = Path("config/collector.toml")
DEMO_KEY = "demo"
# What Kubernetes sets for a service whose name begins as ours does.
KUBERNETES = re.compile(r"(_SERVICE_(HOST|PORT)\w*|_PORT(_\d+_(TCP|UDP)\w*)?)$")


class Config(Section, frozen=True, kw_only=True):
    """Every setting."""

    data_dir: Annotated[str, Meta(min_length=1)] = "data"  # journal, dedupe, embedded Postgres
    ingest: IngestSettings = IngestSettings()
    redirect: RedirectSettings = RedirectSettings()
    limits: LimitSettings = LimitSettings()
    journal: JournalSettings = JournalSettings()
    store: StoreSettings = StoreSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
    sources: list[SourceSettings] = msgspec.field(
        # For trying out, from wherever.
        default_factory=lambda: [SourceSettings(name="default", write_key=DEMO_KEY, mixed=True)]
    )
    destinations: list[AnyDestination] = []


def find(path: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file that counts, or None for the defaults."""
    if path or (path := environ.get("COLLECTOR_CONFIG")):
        return Path(path)
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The settings in *path*, overridden by *environ*."""
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(
                f"{path} cannot be read ({exc.strerror}): name another file with --config"
            ) from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path} is no TOML: {exc}") from exc
    name = str(path) if path is not None else "the environment"
    _override(raw, Config, PREFIX, environ)
    for section, kind, prefix in _destinations(raw):
        _override(section, kind, prefix, environ)
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{name}: {_explain(str(exc))}") from exc
    _check(config, name)
    return config


def _explain(message: str) -> str:
    """msgspec's words with the setting in front: `ingest.port: expected int, got str`."""
    reason, _, where = message.partition(" - at `$")
    setting = where.rstrip("`").lstrip(".")
    return f"{setting}: {reason}" if setting else reason


def _override(
    raw: dict[str, Any], section: type[Section], prefix: str, environ: Mapping[str, str]
) -> None:
    """Put what *environ* says about *section* into *raw*."""
    for setting, kind in kinds(section).items():
        variable = prefix + setting.upper()
        if is_table(kind):
            table = raw.setdefault(setting, {})
            if isinstance(table, dict):
                _override(table, kind, f"{variable}_", environ)
            continue
        value = _value(variable, environ)
        if value is None:
            continue
        given: Any = value
        if is_list(kind):
            given = _list(variable, value)
        elif get_origin(kind) is dict:
            given = _json(variable, value)
        try:
            raw[setting] = msgspec.to_builtins(msgspec.convert(given, kind, strict=False))
        except msgspec.ValidationError as exc:
            raise ConfigError(f"{variable}: {exc}") from exc


def _destinations(raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], type[Section], str]]:
    """Each destination in *raw* that has a known type, with what its variables begin with."""
    kinds_ = {kind.__struct_config__.tag: kind for kind in get_args(AnyDestination)}
    tables = raw.get("destinations")
    for table in tables if isinstance(tables, list) else []:
        if isinstance(table, dict) and table.get("type") in kinds_ and "name" in table:
            yield table, kinds_[table["type"]], _prefix(str(table["name"]))


def _prefix(name: str) -> str:
    """What the variables of the destination *name* begin with."""
    name = re.sub(r"\W", "_", name).upper()
    return f"{PREFIX}DESTINATIONS_{name}_"


def _value(variable: str, environ: Mapping[str, str]) -> str | None:
    if variable in environ and not _of_kubernetes(variable, environ[variable]):
        return environ[variable]
    file = environ.get(f"{variable}_FILE")
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{variable}_FILE: {file} cannot be read: {exc}") from exc


def _of_kubernetes(variable: str, value: str) -> bool:
    found = KUBERNETES.search(variable)
    if found is None:
        return False
    return found[0] != "_PORT" or value.startswith(("tcp://", "udp://"))


def _list(variable: str, value: str) -> Any:
    """A list in a variable: JSON, or words with commas or line ends between them."""
    if value.lstrip().startswith("["):
        return _json(variable, value)
    return [word.strip() for word in re.split(r"[,\n]", value) if word.strip()]


def _json(variable: str, value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"{variable}: {exc}; write a JSON list or object") from exc


def unknown(environ: Mapping[str, str] = os.environ, config: Config | None = None) -> list[str]:
    """Variables that look like ours and are no setting; *config* tells of its destinations."""
    known = set(_variables(Config, PREFIX))
    for destination in config.destinations if config is not None else ():
        known.update(_variables(type(destination), _prefix(destination.name)))
    return sorted(
        name
        for name in environ
        if name.startswith(PREFIX)
        and name.removesuffix("_FILE") not in known
        and name != "COLLECTOR_CONFIG"
        and not _of_kubernetes(name, environ[name])
    )


def _variables(section: type[Section], prefix: str) -> list[str]:
    found = []
    for setting, kind in kinds(section).items():
        if is_table(kind):
            found += _variables(kind, f"{prefix}{setting.upper()}_")
        else:
            found.append(prefix + setting.upper())
    return found


def _check(config: Config, name: str) -> None:
    """What no single setting can tell."""
    if not config.sources:
        raise ConfigError(f"{name}: sources: there is none; add a [[sources]] table")
    for what in ("name", "write_key"):
        values = [getattr(source, what) for source in config.sources]
        for index, value in enumerate(values):
            if value in values[:index]:
                shown = value if what == "name" else "the same key"
                raise ConfigError(
                    f"{name}: sources[{index}].{what}: {shown} is used twice; make it unique"
                )
    for index, source in enumerate(config.sources):
        if source.cookie_name.startswith("__Host-") and source.cookie_domain:
            raise ConfigError(
                f"{name}: sources[{index}].cookie_domain: a cookie __Host-… has none; "
                "take it away, or choose another cookie_name"
            )
        for origin in source.origins:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigError(
                    f"{name}: sources[{index}].origins: {origin} is no web origin; "
                    "write it as https://shop.example, without a path"
                )
        for app_id in source.snowplow_app_ids:
            if any(app_id in other.snowplow_app_ids for other in config.sources[:index]):
                raise ConfigError(
                    f"{name}: sources[{index}].snowplow_app_ids: {app_id} belongs to another "
                    "source already; make it unique"
                )
    names = [destination.name for destination in config.destinations]
    for index, value in enumerate(names):
        if value in names[:index]:
            raise ConfigError(
                f"{name}: destinations[{index}].name: {value} is used twice; make it unique, "
                "because it names the destination's cursor"
            )
    if not is_loopback(config.admin.host) and not config.admin.token:
        raise ConfigError(
            f"{name}: admin.token: it is needed because admin.host is not loopback; "
            "set COLLECTOR_ADMIN_TOKEN_FILE"
        )
    if config.store.dsn and not config.store.dsn.startswith(("postgresql://", "postgres://")):
        raise ConfigError(
            f"{name}: store.dsn: write it as postgresql://user@host/database, or leave it empty"
        )
