"""Requests that real clients sent, as `tests/wire/INDEX.md` describes them, byte for byte."""

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.rawhttp import chunked

DIRECTORY = Path(__file__).parent / "wire"
KEY = "wk_test_1"


class Recorded(NamedTuple):
    """One request of a recording."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes  # as it went over the wire
    text: str  # what the body says, unzipped

    @property
    def bytes(self) -> bytes:
        """The request as it was sent."""
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{n}: {v}" for n, v in self.headers)]
        body = chunked(self.body, 200) if self.header("Transfer-Encoding") else self.body
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body as Python reads it: NaN, Infinity and lone surrogates included."""
        return json.loads(self.text)


def load(name: str) -> list[Recorded]:
    """The requests in `tests/wire/<name>.json`, in order of arrival."""
    found = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return [
        Recorded(
            request["method"],
            request["path"],
            [(name, value) for name, value in request["headers"]],
            base64.b64decode(request["body_b64"])
            if "body_b64" in request
            else request.get("body", "").encode(),
            request.get("body_decoded", request.get("body", "")),
        )
        for request in found["requests"]
    ]


def names(*folders: str) -> list[str]:
    """The recordings in *folders*."""
    return [
        f"{folder}/{path.stem}"
        for folder in folders
        for path in sorted((DIRECTORY / folder).glob("*.json"))
    ]
