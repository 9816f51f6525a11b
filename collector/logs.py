"""
Logs: a constant sentence and fields, as lines for people or as JSON for machines.

Nothing personal is ever logged: no event, no address, no key. `extra` of a log call becomes the
fields.

Shapes   JSON lines have `time` (ISO 8601, UTC), `level`, `logger`, `message` and the fields.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from collector.settings import Section


class LogSettings(Section, frozen=True, kw_only=True):
    """What is logged, and how; always to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["plain", "json"] = "plain"


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class Plain(logging.Formatter):
    """`2026-11-22T12:00:00Z info  sentence field=value`"""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{time} {record.levelname.lower():7} {record.getMessage()}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure(settings: LogSettings) -> None:
    """Send all logs to standard error in the form that *settings* ask for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if settings.format == "json" else Plain())
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.captureWarnings(capture=True)
