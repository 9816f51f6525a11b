"""analytics.js as the collector serves it: which file, how packed, for how long, and when not."""

import gzip
import json
from pathlib import Path

import pytest

from collector.ingest import SourceSettings
from tests.edge import Edge, MakeEdge

CORE = b"/* neutral */"
USUAL = "/analytics.js/v1/demo/analytics"
FLOATING = "public, max-age=300"
FOREVER = "public, max-age=31536000, immutable"


def write_build(folder: Path, version: str, script: bytes = b"/* usual */") -> None:
    """A build as `make sdk` leaves it, with small files."""
    files = {
        "dist/umd/standalone.js": script,
        "dist/umd/queryString.bundle.0f.js": b"/* part */",
        "dist/neutral/core.js": CORE,
        "dist/neutral/538.0f.js": b"/* part */",
    }
    for name, body in files.items():
        path = folder / version / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(body))
        path.with_name(f"{path.name}.br").write_bytes(b"br:" + body)  # nobody unpacks it here
    (folder / version / "package.json").write_text(json.dumps({"version": version}))


@pytest.fixture
async def served(make_edge: MakeEdge, tmp_path: Path) -> Edge:
    """A port with two builds, and with files beside them."""
    for version in ("1.9.0", "1.10.0"):
        write_build(tmp_path / "sdk", version, f"/* {version} */".encode())
    (tmp_path / "sdk" / "secret.js").write_text("secret")
    (tmp_path / "sdk" / "1.9.0" / "dist" / "umd" / "secret.js").write_text("secret")
    (tmp_path / "sdk" / "broken").mkdir()
    (tmp_path / "sdk" / "broken" / "package.json").write_text("[]")
    return await make_edge(sdk_dir=str(tmp_path / "sdk"))


@pytest.mark.parametrize("base", ["", "/x"])
@pytest.mark.parametrize(
    ("path", "body", "lifetime"),
    [
        (f"{USUAL}.min.js", b"/* 1.10.0 */", FLOATING),
        (f"{USUAL}-1.10.0.min.js", b"/* 1.10.0 */", FOREVER),
        (f"{USUAL}-1.9.0.min.js", b"/* 1.9.0 */", FOREVER),
        ("/analytics-next/bundles/queryString.bundle.0f.js", b"/* part */", FOREVER),
        ("/lib/demo/core.js", CORE, FLOATING),
        ("/lib/demo/core-1.9.0.js", CORE, FOREVER),
        ("/lib/538.0f.js", b"/* part */", FOREVER),
    ],
)
async def test_each_address_has_its_script(
    served: Edge, base: str, path: str, body: bytes, lifetime: str
) -> None:
    answer = await served.get(base + path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.header("Content-Type") == "text/javascript; charset=utf-8"
    assert answer.header("Cache-Control") == lifetime
    assert answer.header("Vary") == "Accept-Encoding"
    # A page may check its hash (crossorigin), and may isolate itself.
    assert answer.header("Access-Control-Allow-Origin") == "*"
    assert answer.header("Cross-Origin-Resource-Policy") == "cross-origin"
    head = await served.get(base + path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.header("Content-Length") == str(len(body))
    assert head.header("ETag") == answer.header("ETag")
    assert (await served.results()) == []


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("br;q=0, gzip;q=1.0", "gzip"),
        ("br; q=0.000, gzip;q=0", None),
        ("identity", None),
        ("brotli", None),
        ("", None),
    ],
)
async def test_it_comes_packed_as_the_browser_takes_it(
    served: Edge, accepted: str, encoding: str | None
) -> None:
    answer = await served.get("/lib/demo/core.js", {"Accept-Encoding": accepted})
    assert answer.header("Content-Encoding") == encoding
    plain = {"br": b"br:" + CORE, "gzip": None, None: CORE}[encoding]
    assert (plain or gzip.compress(CORE, mtime=0))[-8:] == answer.body[-8:]


async def test_who_has_it_is_told_so(served: Edge) -> None:
    path = f"{USUAL}.min.js"
    etag = (await served.get(path)).header("ETag") or ""
    packed = (await served.get(path, {"Accept-Encoding": "gzip"})).header("ETag")
    assert etag.startswith('"')
    assert packed != etag
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = await served.get(path, {"If-None-Match": known})
        assert (answer.status, answer.body) == (304, b""), known
        assert answer.header("ETag") == etag
        assert answer.header("Cache-Control") == FLOATING
        assert answer.header("Content-Length") is None
    for known in ('"other"', packed or "", etag.strip('"')):
        assert (await served.get(path, {"If-None-Match": known})).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/analytics.js/v1/demo/../../secret.js",
        "/analytics.js/v1/demo/secret.js",
        "/analytics.js/v1/demo/standalone.js",
        "/analytics.js/v1/demo/..%2F..%2Fsecret.js",
        "/analytics-next/bundles/secret.js",
        "/analytics-next/bundles/standalone.js",
        "/analytics-next/bundles/../secret.js",
        "/analytics-next/bundles/%2e%2e/secret.js",
        "/analytics-next/bundles//etc/passwd",
        "/lib/demo/../secret.js",
        "/lib/demo/core.js.gz",
        "/lib/demo/core-1.9.js",
        "/lib/",
        "/lib//core.js",
        "/lib/a/b/c",
    ],
)
async def test_nothing_but_the_builds_can_be_had(served: Edge, path: str) -> None:
    answer = await served.get(path)
    assert answer.status == 404
    assert b"secret" not in answer.body
    if path.startswith(("/analytics", "/lib")):
        assert answer.header("Content-Type") == "text/javascript; charset=utf-8"
        assert answer.body.startswith(b"/* not_found: ")


async def test_an_unknown_key_is_told_so_and_leaves_a_row(served: Edge) -> None:
    for path in ("/analytics.js/v1/typo/analytics.min.js", "/x/lib/typo/core.js"):
        answer = await served.get(path)
        assert answer.status == 404
        assert answer.body.startswith(b"/* unknown_write_key: no source has this write key")
        assert b"typo" not in answer.body
        assert answer.header("Cache-Control") == "no-store"
        (rejection,) = await served.rejections()
        assert rejection.code == "unknown_write_key"


async def test_a_key_may_hold_what_an_address_must_escape(
    make_edge: MakeEdge, tmp_path: Path
) -> None:
    write_build(tmp_path, "1.9.0")
    odd = SourceSettings(name="odd", write_key="a/b?c:d")
    edge = await make_edge([odd], sdk_dir=str(tmp_path))
    assert (await edge.get("/lib/a%2Fb%3Fc%3Ad/core.js")).status == 200


async def test_without_a_build_the_answer_says_what_to_do(
    make_edge: MakeEdge, tmp_path: Path
) -> None:
    edge = await make_edge(sdk_dir=str(tmp_path / "nothing"))
    for path in (f"{USUAL}.min.js", "/x/lib/demo/core.js", "/x/lib/538.0f.js"):
        answer = await edge.get(path)
        assert answer.status == 503
        assert b"`make sdk`" in answer.body
        assert b"ingest.sdk_dir" in answer.body


async def test_a_package_as_npm_leaves_it_is_a_build(make_edge: MakeEdge, tmp_path: Path) -> None:
    write_build(tmp_path, "1.9.0")
    for path in (tmp_path / "1.9.0" / "dist" / "neutral").iterdir():
        path.unlink()
    edge = await make_edge(sdk_dir=str(tmp_path / "1.9.0"))
    for path in (f"{USUAL}.min.js", "/lib/demo/core.js"):
        assert (await edge.get(path)).body == b"/* usual */"


async def test_other_methods_are_refused_and_preflights_answered(served: Edge) -> None:
    answer = await served.post("/lib/demo/core.js", {})
    assert answer.status == 405
    assert answer.header("Allow") == "GET, HEAD"
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    assert (await served.get("/lib/demo/core.js", asked, "OPTIONS")).status == 204


async def test_a_source_with_listed_origins_keeps_its_script_to_them(
    make_edge: MakeEdge, tmp_path: Path
) -> None:
    write_build(tmp_path, "1.9.0")
    shop = SourceSettings(name="shop", write_key="demo", origins=["https://shop.example"])
    edge = await make_edge([shop], sdk_dir=str(tmp_path))
    # A script tag without crossorigin names no origin.
    assert (await edge.get("/lib/demo/core.js")).status == 200
    listed = await edge.get("/lib/demo/core.js", {"Origin": "https://shop.example"})
    assert listed.header("Access-Control-Allow-Origin") == "https://shop.example"
    assert [v for n, v in listed.headers if n == "Vary"] == ["Accept-Encoding", "Origin"]
    other = await edge.get("/lib/demo/core.js", {"Origin": "https://other.example"})
    assert (other.status, other.body[:23]) == (403, b"/* origin_not_allowed: ")


async def test_the_image_of_the_neutral_name_is_the_pixel(served: Edge) -> None:
    answer = await served.get("/x/lib/line.gif?wk=demo&e=Seen&aid=a&p.n=1")
    assert (answer.status, answer.header("Content-Type")) == (200, "image/gif")
    assert answer.header("X-Collector") == "stored"
    event = await served.event()
    assert (event.event, event.anonymous_id) == ("Seen", "a")
    assert (await served.get("/x/lib/line.gif?wk=typo")).header(
        "X-Collector"
    ) == "unknown_write_key"
