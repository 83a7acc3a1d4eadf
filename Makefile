# make run      start imcore here, on a Postgres of its own        make check   lint, types, imports
# make test     the tests (ARGS="-k name" goes to pytest)          make bench   the benchmark
# make env      only the environment in .venv                      make lock    choose the versions anew
# make powercut cut the power under it 60 times (CUTS=60), as root
# make chaos    real processes under every fault (SECONDS=300)     make soak    the same for hours: does anything grow? (SECONDS=3600)

PYTHON ?= python3
DATA_DIR ?= imcore-data
ARGS ?=
CUTS ?= 60

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help env run test check format bench chaos soak powercut lock clean missing

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

env: $(INSTALLED)

# Every package is checked against its hash in requirements.lock; the build of imcore itself fetches nothing.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "imcore needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make env PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv || { \
		echo "The environment could not be made. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "installing what requirements.lock names into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

run: env
	@echo "The data is kept in $(DATA_DIR). The address of the page is printed below; Ctrl-C stops."
	@exec $(BIN)/imcore serve --data $(DATA_DIR) $(ARGS)

# All of them in two processes beside each other; with ARGS in one, whose output comes as it happens.
test: env missing
	@$(BIN)/python $(if $(strip $(ARGS)),-m pytest $(ARGS),scripts/run-tests)

# Not every machine has a browser or a compiler: the tests that need one skip themselves, and this says so first.
missing:
	@absent=; for program in chromium gcc strace faketime; do \
		command -v $$program >/dev/null 2>&1 || absent="$$absent $$program"; done; \
	if [ -n "$$absent" ]; then \
		echo "Not on this machine:$$absent. The tests that need it will be skipped."; \
		echo "To have it (Debian, as root): scripts/install-test-services"; fi

check: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: env
	@$(BIN)/imcore bench $(ARGS)

# As many cuts of each kind: with flushes, and two controls without, in which the rig must lose what was acknowledged.
powercut: env
	@PYTHONPATH=tests $(BIN)/python -m rigs.powercut --cuts $(CUTS) $(ARGS)

# Everything that a run makes is kept in a folder of chaos-reports/; the last lines say how to play it again (SEED=…).
# An empty SEED is chosen and printed. Exit code 1: a promise was broken, or the run proves nothing.
chaos soak: env
	@$(BIN)/python -m imcore.testkit $@ $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# Keeps the versions that still fit; ARGS=--upgrade takes the newest.
lock:
	@uv=$(BIN)/uv; [ -x $$uv ] || uv=uv; \
	$$uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--extra server --extra embedded --extra s3 --extra test --group build --custom-compile-command "make lock" \
		--output-file requirements.lock $(ARGS)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
