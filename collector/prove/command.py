"""
Command: `collector prove`, its options, and what the exit status says.

    0  proved      1  failed      2  wrong use, or settings that cannot be used

Progress goes to standard error, the verdict to standard output.
"""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
import uvloop

from collector.cli.progress import Progress, Silence
from collector.config import find, load
from collector.errors import CollectorError, ConfigError
from collector.prove.faults import FAULTS
from collector.prove.run import Plan, Proof
from collector.prove.verdict import Verdict
from collector.store.cluster import forget
from collector.store.embedded import dsn_of

OWN_POSTGRES = tuple(fault for fault in FAULTS if fault.startswith("postgres-"))


@click.command()
@click.option(
    "--url", metavar="URL", default="", help="Of a running collector; else one is started."
)
@click.option(
    "--write-key",
    "key",
    metavar="KEY",
    default="",
    envvar="PROVE_WRITE_KEY",
    help="Of one of its sources; else $PROVE_WRITE_KEY.",
)
@click.option(
    "--dsn",
    metavar="DSN",
    default="",
    envvar="PROVE_DSN",
    help="Postgres that it stores in; else $PROVE_DSN. With --url otherwise that of --config; "
    "without, an embedded one.",
)
@click.option(
    "--config",
    "path",
    metavar="FILE",
    help="Settings: of the collector that is started, or where to find the DSN of --url.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=60.0,
    show_default=True,
    help="So long events are sent.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=1000.0,
    show_default=True,
    help="Events a second; 0 is as fast as it goes.",
)
@click.option("--connections", type=click.IntRange(1, 1000), default=8, show_default=True)
@click.option(
    "--batch",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Events of a batch request.",
)
@click.option(
    "--resend",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Share of the acknowledged requests that are sent again on purpose.",
)
@click.option(
    "--fault",
    "faults",
    type=click.Choice(FAULTS),
    multiple=True,
    help="What is broken; may be repeated. Default: all of them.",
)
@click.option("--no-faults", is_flag=True, help="Break nothing.")
@click.option(
    "--every",
    type=click.FloatRange(0.5, 86_400),
    default=8.0,
    show_default=True,
    help="Seconds between two faults, on average.",
)
@click.option("--seed", type=int, help="Of all that is random; printed, to be used again.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    default=120.0,
    show_default=True,
    help="Seconds in the end for the last acknowledgements, and again until all is stored.",
)
@click.option("--keep", is_flag=True, help="Keep the directory of the collector that is started.")
@click.option("--yes-really", is_flag=True, help="Use --dsn though there are events in it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and no progress.")
def prove(
    *,
    url: str,
    key: str,
    dsn: str,
    path: str | None,
    seconds: float,
    rate: float,
    connections: int,
    batch: int,
    resend: float,
    faults: tuple[str, ...],
    no_faults: bool,
    every: float,
    seed: int | None,
    wait: float,
    keep: bool,
    yes_really: bool,
    as_json: bool,
) -> None:
    """Prove that nothing is lost and nothing stored twice.

    Without --url it starts a collector of its own, sends it events with known ids, breaks it and
    its Postgres again and again, and compares what was acknowledged with what is stored. With
    --url it sends to a running one and breaks nothing. Ctrl-C ends the sending; what was
    acknowledged is reconciled all the same. Exit status 0: proved, 1: failed, 2: wrong use.
    """
    if no_faults and faults:
        raise click.UsageError("--no-faults and --fault contradict each other: take one away.")
    if url:
        _check_url(url, key, faults, keep=keep, yes_really=yes_really)
    elif key:
        raise click.UsageError("--write-key belongs to --url: a collector of its own makes one.")
    if dsn and not url and (broken := [fault for fault in faults if fault in OWN_POSTGRES]):
        raise click.UsageError(
            f"--fault {broken[0]} is for the Postgres that the collector starts; the one of --dsn "
            "is yours, and is not broken. Take --dsn or the fault away."
        )
    if dsn and not dsn.startswith(("postgresql://", "postgres://")):
        raise click.UsageError("--dsn: write it as postgresql://user@host/database")
    possible = [fault for fault in FAULTS if not (dsn and fault in OWN_POSTGRES)]
    directory: Path | None = None
    try:
        if url and not dsn:
            config = load(find(path))
            dsn = config.store.dsn or dsn_of(Path(config.data_dir).absolute() / "postgres")
        elif path:
            load(Path(path))
        if not url:
            directory = Path(tempfile.mkdtemp(prefix="collector-prove-"))
        plan = Plan(
            run=secrets.token_hex(4),
            url=url,
            key=key,
            dsn=dsn,
            directory=directory,
            config=Path(path) if path else None,
            used_database=yes_really,
            seconds=seconds,
            rate=rate,
            connections=connections,
            batch=batch,
            resend=resend,
            faults=[] if no_faults or url else list(dict.fromkeys(faults)) or possible,
            every_seconds=every,
            wait_seconds=wait,
            seed=secrets.randbelow(1_000_000) if seed is None else seed,
        )
        verdict = uvloop.run(_prove(plan, Silence() if as_json else Progress()))
    except ConfigError as exc:
        _remove(directory)
        click.echo(f"collector: {exc.detail}", err=True)
        sys.exit(2)
    except CollectorError as exc:
        kept = f"; the evidence stands in {directory}" if directory is not None else ""
        click.echo(f"collector: nothing is proved: {exc.detail}{kept}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _remove(directory)
        click.echo("collector: nothing is proved: it was interrupted twice", err=True)
        sys.exit(1)
    if directory is not None and (keep or not verdict.proved):
        verdict.evidence = str(directory)
        (directory / "verdict.json").write_bytes(verdict.json() + b"\n")
    else:
        _remove(directory)
    click.echo(verdict.json() if as_json else verdict.table())
    sys.exit(0 if verdict.proved else 1)


def _check_url(
    url: str, key: str, faults: tuple[str, ...], *, keep: bool, yes_really: bool
) -> None:
    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url: write it as https://events.example.com")
    if not key:
        raise click.UsageError("--url needs the --write-key of one of the collector's sources.")
    if faults:
        raise click.UsageError(
            f"--fault {faults[0]}: a collector that was not started by this command is not broken "
            "by it. Take --url away to break one of its own, or --fault to send to this one."
        )
    for name, given in (("--keep", keep), ("--yes-really", yes_really)):
        if given:
            raise click.UsageError(f"{name} is for a collector that is started: take --url away.")


async def _prove(plan: Plan, progress: Progress) -> Verdict:
    """One proof; the first SIGINT, SIGTERM or SIGHUP ends the sending, the second everything."""
    loop = asyncio.get_running_loop()
    proof = Proof(plan, progress)
    task = asyncio.ensure_future(proof.run())

    def interrupt() -> None:
        if proof.interrupted:
            task.cancel()
        else:
            proof.stop()
            progress.say("Sending ends; what was acknowledged is reconciled. Once more to give up.")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    return await task


def _remove(directory: Path | None) -> None:
    if directory is not None:
        with contextlib.suppress(OSError, ConfigError):
            forget(directory / "data" / "postgres")
        shutil.rmtree(directory, ignore_errors=True)
