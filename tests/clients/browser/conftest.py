"""
One Chromium, one collector and the packages from npm for all tests with a browser.

Each test sends with a write key of its own, and so finds what is its own in Postgres. Nothing is
intercepted: pages and collector are on different origins, and the browser decides what it allows.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Error, async_playwright

from tests.clients.browser.shop import WWW, Shop
from tests.clients.npm import installed, run
from tests.conftest import PostgresServer
from tests.process import CollectorProcess, free_port

SOURCE = Path(__file__).with_name("node")
SDK = Path(__file__).parents[3] / "scripts" / "sdk.mjs"
ARGUMENTS = """
--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync
"""
# The keys of the tests, which are also the names of their sources.
KEYS = """
calls single burst batches trouble batches-trouble kill offline links buttons closed snippet segment
parts batched-links cut strict frame blocked credentials plain rudder rudder-batch jitsu
pixels consent bundle
"""


@pytest.fixture(scope="session")
def program() -> str:
    """Chromium, without which nothing else is wanted."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not there: it is wanted for SDKs in a browser")
    return found


@pytest.fixture(scope="session")
def packages(program: str, pytestconfig: pytest.Config) -> Path:
    """The packages, and in js/ the bundles that a shop would make of them."""
    directory = installed(pytestconfig, SOURCE, "browser-clients")
    if not (directory / "js").exists():
        entries = [path.name for path in directory.glob("*.js")]
        options = ["--bundle", "--minify", "--format=iife", "--outdir=js.new", "--log-level=error"]
        command = [str(directory / "node_modules" / ".bin" / "esbuild"), *entries, *options]
        subprocess.run(command, cwd=directory, check=True, timeout=60)
        (directory / "js.new").rename(directory / "js")
    return directory


@pytest.fixture(scope="session")
def sdk_dir(pytestconfig: pytest.Config, packages: Path) -> Path:
    """What `make sdk` fetches."""
    directory = packages / "sdk"
    if not directory.exists():
        faults = ("has the hash", "in this build", "does not load", "SyntaxError")
        run(["node", str(SDK), str(directory)], packages, *faults)
    return directory


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(packages: Path) -> AsyncIterator[Shop]:
    """The shop, with its bundles."""
    shop = Shop(packages / "js", free_port())
    await shop.start()
    yield shop
    await shop.stop()


@pytest.fixture(scope="session")
def collector(
    postgres: PostgresServer, sdk_dir: Path, shop: Shop, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CollectorProcess]:
    """The real process with a source for each test."""
    asyncio.run(postgres.execute("create database browser template template owner collector"))
    config = "[ingest]\ntrusted_proxies = ['127.0.0.1']\n"
    for key in KEYS.split():
        config += f"[[sources]]\nname = '{key}'\nwrite_key = '{key}'\n"
    # Browsers keep a cookie that wants https only for localhost, where it comes without.
    for key, host, cookie in (("listed", WWW, ""), ("visitor", "localhost", "sid")):
        config += f"[[sources]]\nname = '{key}'\nwrite_key = '{key}'\n"
        config += f"origins = ['{shop.url('', host)}']\ncookie_name = '{cookie}'\n"
    process = CollectorProcess(
        tmp_path_factory.mktemp("browser") / "data",
        postgres.dsn("browser"),
        config,
        INGEST_SDK_DIR=str(sdk_dir),
    )
    process.start()
    yield process
    process.kill()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium(program: str) -> AsyncIterator[Browser]:
    """A headless Chromium, started once."""
    async with async_playwright() as playwright:
        try:
            browser = await playwright.chromium.launch(
                executable_path=program,
                args=["--host-resolver-rules=MAP *.test 127.0.0.1", *ARGUMENTS.split()],
            )
        except Error as exc:
            pytest.skip(f"Chromium does not start here: {exc.message.splitlines()[0]}")
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A browser's profile with nothing in it."""
    context = await chromium.new_context()
    yield context
    await context.close()
