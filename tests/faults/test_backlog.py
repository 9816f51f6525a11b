"""Postgres away while bytes pile up: ingest does not notice, memory stays flat, order holds."""

import asyncio
import time

from tests.faults.conftest import MakeProcess, Trials, until
from tests.faults.processes import memory_bytes
from tests.faults.trial import Form
from tests.proxy import Proxy

MEMORY_BYTES_MAX = 250_000_000
SHORT_BYTES, LONG_BYTES = 120_000_000, 3_000_000_000


async def test_a_backlog_is_kept_and_stored_in_order_when_postgres_is_back(
    collectors: MakeProcess, trials: Trials, empty_dsn: str, form: Form
) -> None:
    bytes_min = LONG_BYTES if form.long else SHORT_BYTES
    async with Proxy(empty_dsn) as proxy:
        proxy.refusing = True
        process = collectors(proxy.dsn)
        await asyncio.to_thread(process.start)
        fault = f"Postgres away while {bytes_min / 1e9:g} GB pile up"
        load = {"event_bytes": 20_000, "pause_seconds": 0.0}
        async with trials(fault, process, **load) as trial:

            async def piled_up() -> bool:
                facts = await asyncio.to_thread(process.status)
                taken: int = facts["journal"]["bytes"]
                return taken >= bytes_min

            began = time.monotonic()
            await until(piled_up, 3600)
            took = time.monotonic() - began
            await trial.ledger.finish()
            away = memory_bytes(process.pid, "VmHWM")
            taken = (await asyncio.to_thread(process.status))["journal"]["bytes"]
            assert trial.ledger.refusals == {}
            assert trial.ledger.breaks == 0
            proxy.refusing = False
            since = time.monotonic()
            await asyncio.to_thread(process.wait_until_stored, 3600)
            seconds = time.monotonic() - since
            most = memory_bytes(process.pid, "VmHWM")
            assert max(away, most) < MEMORY_BYTES_MAX, (away, most)
            trial.note = (
                f"taken with {taken / took / 1e6:.0f} MB/s, caught up with "
                f"{taken / seconds / 1e6:.0f} MB/s in {seconds:.0f} s, slowest answer "
                f"{trial.ledger.slowest:.2f} s, at most {most / 1e6:.0f} MB of memory"
            )
