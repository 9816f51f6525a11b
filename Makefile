# Few verbs. Each makes what it needs, in .venv, from a lock file with hashes; Python 3.11 to 3.14 is
# all there has to be. `make run PYTHON=python3.13` picks another Python, `make test ARGS=…` tests.

.PHONY: help run sdk test check bench faults fuzz lock clean

# Programs that some tests want, and the Debian packages that bring them. Root gets them installed,
# others see their tests skip and say why.
PROGRAMS = psql:postgresql-client systemd-analyze:systemd faketime:faketime chromium:chromium
export PYTHON

help:
	@echo 'make run     start the collector, with a Postgres of its own unless told otherwise'
	@echo 'make sdk     fetch analytics.js, for pages to load it from the collector (needs npm)'
	@echo 'make test    run all tests                            (ARGS="-k name" for some)'
	@echo 'make check   format, lint, types, layers'
	@echo 'make bench   measure, each figure beside its bare limit'
	@echo 'make faults  kill, cut, fill and damage all there is, for an hour or two (ARGS="--rounds 3")'
	@echo 'make fuzz    look for inputs that break promises    (FUZZ_SECONDS=600, ARGS="json zip")'
	@echo 'make lock    pin dependencies anew                    (ARGS=--upgrade for newer ones)'
	@echo 'make clean   remove what the others made; never the data'

run:
	@sh scripts/venv run
	@.venv/bin/python scripts/welcome.py
	@exec .venv/bin/collector run

sdk:
	@sh scripts/venv run
	@sh scripts/sdk

# Node and npm are those of .venv, and believe whom the system believes.
test:
	@sh scripts/venv dev
	@sh scripts/debian $(PROGRAMS) || true
	@PATH="$$PWD/.venv/bin:$$PATH" NODE_USE_SYSTEM_CA=1 .venv/bin/python -m pytest -rs --session-timeout=1140 $(ARGS)

check:
	@sh scripts/venv dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy --strict
	.venv/bin/lint-imports --no-logo

bench:
	@sh scripts/venv dev
	@exec .venv/bin/python -m benchmarks $(ARGS)

# Each target for FUZZ_SECONDS; what is found stays in .fuzz and wants to become a test.
fuzz:
	@sh scripts/venv dev
	@sh scripts/fuzz
	@.venv/bin/python -m tests.fuzz $(ARGS)

# The long form of tests/faults and the table of docs/reliability.md; `make test` has the short form.
faults:
	@sh scripts/venv dev
	@sh scripts/debian $(PROGRAMS) || true
	@PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/python -m pytest tests/faults --long -rs $(ARGS)

# For all Pythons and machines at once, with the hashes of all files; no address gets into them.
COMPILE = .venv/bin/uv pip compile --quiet --system-certs pyproject.toml --group build --universal \
	--fork-strategy fewest --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links $(ARGS)

lock:
	@sh scripts/venv lock
	$(COMPILE) -o requirements.lock
	$(COMPILE) -o requirements-dev.lock --extra dev --constraint requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache \
		.hypothesis .fuzz
	find . -name __pycache__ -not -path './data/*' -prune -exec rm -rf {} +
