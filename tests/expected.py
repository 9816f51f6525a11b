"""What Postgres must hold, worked out from what was sent, with nothing of the collector's own."""

import math
from datetime import UTC, datetime
from typing import Any


def moment(text: str) -> datetime:
    """A time as SDKs write it; without a zone it is UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def kept(value: Any) -> Any:
    """
    *value* as jsonb can hold it.

    What is no number is null, half a character is U+FFFD, and NUL is left out.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return whole.replace("\0", "")
    if isinstance(value, dict):
        return {kept(name): kept(item) for name, item in value.items()}
    return [kept(item) for item in value] if isinstance(value, list) else value
