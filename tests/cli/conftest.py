"""The commands as a person runs them, on a database of their own."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from collector.__main__ import main
from collector.store.postgres import Connection


class Ended:
    """How a command ended, and what it said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def rows(self) -> list[list[str]]:
        """The cells of a table: columns are two spaces apart."""
        lines = self.out.split("\n\n")[0].splitlines()
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


class Shell:
    """Runs commands with a configuration of its own."""

    def __init__(self, place: Path, dsn: str) -> None:
        self.dsn = dsn
        self.config = place / "collector.toml"
        self.configure("")

    def configure(self, text: str, dsn: str | None = None) -> None:
        """Have *text* beside the address of Postgres in the file."""
        self.config.write_text(f'[store]\ndsn = "{self.dsn if dsn is None else dsn}"\n{text}')

    def __call__(self, *words: str, answer: str | None = None) -> Ended:
        result = CliRunner().invoke(
            main, list(words), input=answer, env={"COLLECTOR_CONFIG": str(self.config)}
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    def sql(self, *jobs: Callable[[Connection], Awaitable[object]] | str) -> Any:
        """Do *jobs* on a connection, and return what the last one gave."""

        async def work() -> Any:
            connection = await asyncpg.connect(self.dsn)
            found: Any = None
            try:
                for job in jobs:
                    if isinstance(job, str):
                        found = await connection.fetchval(job)
                    else:
                        found = await job(connection)
            finally:
                await connection.close()
            return found

        return asyncio.run(work())


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, dsn)
