"""
Script: analytics.js itself, from memory, so that a page needs nothing from anybody else.

    GET /analytics.js/v1/<write key>/analytics.min.js             the newest build there is
    GET /analytics.js/v1/<write key>/analytics-<version>.min.js   that build, for ever
    GET /analytics-next/bundles/<part>                            what it loads when it needs it
    GET /lib/<write key>/core.js, core-<version>.js, /lib/<part>  the same by other names

Shapes   a directory that `make sdk` fills, with a folder for each version; or an npm package as it
         was installed. Read once, at the start: what is not among it is no path, whatever it says.
Units    bytes, seconds.
Errors   `no_sdk` 503, `unknown_write_key` and `not_found` 404: as comments, for people.
Source   @segment/analytics-next, packages/browser/src/browser/standalone.ts and lib/parse-cdn.ts
"""

import hashlib
import logging
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from collector import metrics
from collector.errors import BadRequest
from collector.ingest.intake import Intake
from collector.ingest.protocol import Reply, Request
from collector.ingest.senders.base import Methods, Sender

log = logging.getLogger(__name__)

BUILDS_MAX = 8  # the newest; each takes half a megabyte
FILES_MAX = 100
FILE_BYTES_MAX = 1_000_000
FLOATING_SECONDS = 300
FOREVER_SECONDS = 31_536_000

JAVASCRIPT = "text/javascript; charset=utf-8"
ENCODINGS = {"br": ".br", "gzip": ".gz"}  # the first that a client takes is what it gets
# Pages of all origins may use it, also those that allow nothing without (COEP).
SHARED = [("Cross-Origin-Resource-Policy", "cross-origin"), ("X-Content-Type-Options", "nosniff")]

USUAL, NEUTRAL = "/analytics.js/v1/", "/lib/"
PARTS = "/analytics-next/bundles/"
_ASKED = re.compile(r"(/analytics\.js/v1/|/lib/)([^/]+)/([^/]+)")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,39}")

NO_SDK = (
    "analytics.js is not installed: run `make sdk`, or name its directory as ingest.sdk_dir, and "
    "start the collector again"
)


class File:
    """One script as replies, in every encoding there is of it."""

    def __init__(self, bodies: dict[str, bytes], seconds: int) -> None:
        self._replies = {name: _replies(name, body, seconds) for name, body in bodies.items()}

    async def get(self, request: Request) -> Reply:
        """The script, or 304 to whom has it."""
        accepted = request.header("Accept-Encoding") or ""
        name = next((name for name in self._replies if not name or accepts(accepted, name)), "")
        etag, whole, unchanged = self._replies[name]
        known = request.header("If-None-Match") or ""
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        return unchanged if etag in tags or known.strip() == "*" else whole


def _replies(encoding: str, body: bytes, seconds: int) -> tuple[str, Reply, Reply]:
    """Entity tag, 200 and 304 of *body*, which is in *encoding*."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    lifetime = f"public, max-age={seconds}" + ", immutable" * (seconds == FOREVER_SECONDS)
    both = [("ETag", etag), ("Cache-Control", lifetime), ("Vary", "Accept-Encoding"), *SHARED]
    headers = [*both, ("Content-Encoding", encoding)] if encoding else both
    return etag, Reply(200, body, JAVASCRIPT, headers), Reply(304, b"", None, both)


def accepts(header: str, encoding: str) -> bool:
    """Whether an Accept-Encoding *header* names *encoding*, and not to refuse it."""
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() == encoding:
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality) is None
    return False


class Build(NamedTuple):
    """One version: its script and its parts by name, each in its encodings."""

    version: str
    usual: dict[str, dict[str, bytes]]
    neutral: dict[str, dict[str, bytes]]


def read_builds(directory: Path) -> list[Build]:
    """The builds in *directory*, the newest first; what is none is passed over."""
    found = []
    for folder in (directory, *(directory.iterdir() if directory.is_dir() else ())):
        try:
            version = msgspec.json.decode((folder / "package.json").read_bytes())["version"]
            usual = _scripts(folder / "dist" / "umd", "standalone.js", "*.bundle.*.js")
            if not _VERSION.fullmatch(version) or "standalone.js" not in usual:
                continue
            neutral = _scripts(folder / "dist" / "neutral", "core.js", "[0-9]*.*.js")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            if not isinstance(exc, FileNotFoundError | NotADirectoryError):
                log.warning("A build of analytics.js cannot be read: %s", exc)
            continue
        found.append(Build(version, usual, neutral))
    found.sort(key=lambda build: [int(n) for n in re.findall(r"\d+", build.version)], reverse=True)
    return found[:BUILDS_MAX]


def _scripts(folder: Path, *patterns: str) -> dict[str, dict[str, bytes]]:
    """The files in *folder* that are asked for, by name and encoding."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))[:FILES_MAX]
    found = {}
    for path in paths:
        if path.stat().st_size > FILE_BYTES_MAX:
            continue
        body = path.read_bytes()
        bodies = {}
        for name, suffix in ENCODINGS.items():
            packed = path.with_name(path.name + suffix)
            if packed.is_file() and packed.stat().st_size <= FILE_BYTES_MAX:
                bodies[name] = packed.read_bytes()
        found[path.name] = bodies | {"": body}
    return found


class Script(Sender):
    """The script's addresses."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        named = intake.settings.sdk_dir
        builds = read_builds(Path(named or Path(sys.prefix, "share", "collector", "sdk")))
        self.versions = [build.version for build in builds]
        self._parts: dict[str, File] = {}
        self._files: dict[str, File] = {}
        for place, build in enumerate(builds):
            core = build.neutral.pop("core.js", build.usual["standalone.js"])
            usual = build.usual.pop("standalone.js")
            for before, bodies, name, end in (
                (USUAL, usual, "analytics", ".min.js"),
                (NEUTRAL, core, "core", ".js"),
            ):
                if place == 0:
                    self._files[before + name + end] = File(bodies, FLOATING_SECONDS)
                self._files[f"{before}{name}-{build.version}{end}"] = File(bodies, FOREVER_SECONDS)
            for before, parts in ((PARTS, build.usual), (NEUTRAL, build.neutral)):
                for name, bodies in parts.items():
                    self._parts[before + name] = File(bodies, FOREVER_SECONDS)

    def find(self, base: str, path: str) -> Methods | None:
        """Parts by their names; the script by its name, for whom its key is known."""
        if part := self._parts.get(path):
            return {"GET": part.get, "HEAD": part.get}
        if asked := _ASKED.fullmatch(path):
            before, key, name = asked.groups()
            handler = partial(self._get, name=before + name, key=unquote(key))
        elif path.startswith((PARTS, USUAL, NEUTRAL)):
            handler = partial(self._get, name="", key="")
        else:
            return None
        return {"GET": handler, "HEAD": handler}

    async def _get(self, request: Request, *, name: str, key: str) -> Reply:
        if not self._files:
            return _sorry(503, "no_sdk", NO_SDK)
        if name:
            try:
                self._intake.source(request, key)
            except BadRequest as exc:
                self._intake.keep(request, exc)
                status = 404 if exc.status == 401 else exc.status
                return _sorry(status, exc.code, exc.detail)
        if file := self._files.get(name):
            return await file.get(request)
        return _sorry(
            404,
            "not_found",
            "no script has this name. There are analytics.min.js and core.js, and "
            f"{' and '.join(_names(self.versions))} for ever: `make sdk` brings what it brings",
        )


def _names(versions: list[str]) -> Iterator[str]:
    for version in versions:
        yield f"analytics-{version}.min.js, core-{version}.js"


def _sorry(status: int, code: str, detail: str) -> Reply:
    """An answer that is a script all the same, so that a browser shows it as text."""
    metrics.refused.labels(code).inc()
    text = f"/* {code}: {detail}. */\n".encode()
    return Reply(status, text, JAVASCRIPT, [("Cache-Control", "no-store"), *SHARED])
