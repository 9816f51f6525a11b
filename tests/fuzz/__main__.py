"""
Fuzz: `python -m tests.fuzz [TARGET …]`, each for FUZZ_SECONDS, guided by coverage.

The corpus grows in `.fuzz/<target>`; an input that breaks a promise is written to `.fuzz` as well,
printed in base64, and ends the run. Add it to FOUND in test_targets.py with the fix.

Bounds   10 s an input, 1.5 GB of memory.
"""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

PLACE = Path(".fuzz")
SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
ROUND_SECONDS = 90  # atheris keeps each array that it sees compared, some kB an execution
INPUT_SECONDS = 10
INPUT_BYTES_MAX = 8_192
MEMORY_MB = 1_500


def fuzz(name: str, seconds: str) -> None:
    """Run one target for so long; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["collector"]):
        from tests.fuzz.targets import TARGETS, seeds

    corpus = PLACE / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "timeout": INPUT_SECONDS,
        "rss_limit_mb": MEMORY_MB,
        "max_len": INPUT_BYTES_MAX,
        "artifact_prefix": f"{PLACE}/{name}-",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)],
        TARGETS[name],
    )
    atheris.Fuzz()


def main() -> int:
    """Run the targets one by one, in processes of their own."""
    from tests.fuzz.targets import TARGETS

    failed = False
    for name in sys.argv[1:] or TARGETS:
        executions, coverage, code = 0, "?", 0
        for spent in range(0, SECONDS, ROUND_SECONDS):
            seconds = min(ROUND_SECONDS, SECONDS - spent)
            command = [sys.executable, "-m", "tests.fuzz", "--inside", name, str(seconds)]
            run = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False
            )
            code = run.returncode
            done = re.search(r"number_of_executed_units: (\d+)", run.stderr)
            executions += int(done[1]) if done else 0
            coverage = (re.findall(r"cov: (\d+)", run.stderr) or [coverage])[-1]
            if code:
                print(run.stdout[-4_000:], run.stderr[-4_000:], sep="\n", file=sys.stderr)
                break
        told = "FAILED, see above" if code else "nothing found"
        print(f"{name}: {executions:,} executions, {coverage} edges covered, {told}", flush=True)
        failed = failed or code != 0
    return int(failed)


if sys.argv[1:2] == ["--inside"]:
    fuzz(*sys.argv[2:])
else:
    sys.exit(main())
