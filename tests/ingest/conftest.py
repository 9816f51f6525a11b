"""Ingest ports for the tests of ingest and refine: made on ephemeral ports, ended with the test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from collector.ingest import Ingest, IngestSettings, LimitSettings, RedirectSettings, SourceSettings
from collector.journal import FileJournal, JournalSettings
from tests.edge import BACKEND, SHOP, Edge, MakeEdge


@pytest.fixture
async def make_edge(tmp_path: Path) -> AsyncIterator[MakeEdge]:
    """Make ingest ports with settings of their own; all end with the test."""
    async with AsyncExitStack() as stack:
        made = 0

        async def make(
            sources: Sequence[SourceSettings] = (SHOP, BACKEND),
            journal: JournalSettings | None = None,
            redirect: RedirectSettings | None = None,
            limits: LimitSettings | None = None,
            **settings: Any,
        ) -> Edge:
            nonlocal made
            made += 1
            kept = await FileJournal.open(tmp_path / f"journal{made}", journal or JournalSettings())
            stack.push_async_callback(kept.close)
            ingest = Ingest(
                IngestSettings(**{"host": "127.0.0.1", "port": 0, "stop_seconds": 1} | settings),
                sources,
                kept,
                redirect,
                limits,
            )
            await ingest.start()
            stack.push_async_callback(ingest.stop)
            return Edge(kept, ingest)

        yield make


@pytest.fixture
async def edge(make_edge: MakeEdge) -> Edge:
    """An ingest port as it is by default: one browser source, one server source."""
    return await make_edge()
