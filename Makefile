# Two commands from a fresh clone: `make demo` and `make test`. Needs Python >= 3.11 and make, nothing else.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
OLDEST := .venv-oldest
# Made last of all: an installation that broke off is done again.
INSTALLED := installed.stamp
# Tests use many tiny models: one thread each and two processes beat the reverse.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

.PHONY: .venv help demo test quick lint types pytest test-oldest test-long clean

help:
	@echo "make demo         the whole pipeline on the standard library's source, offline, on CPU"
	@echo "make test         lint, types and all tests"
	@echo "make quick        lint, types and the fast tests, for the inner loop"
	@echo "make test-long    crashes, kills, damage and the like at every place; run again to go on with what is left"
	@echo "make test-oldest  the fast tests on the oldest versions this project claims"

demo: .venv/$(INSTALLED)
	$(BIN)/sad-pipeline demo

test: lint types pytest

quick: lint types
	$(PYTEST) -m "not slow and not browser"

lint: .venv/$(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/$(INSTALLED)
	$(BIN)/mypy

pytest: .venv/$(INSTALLED)
	$(PYTEST)

test-long: .venv/$(INSTALLED)
	RELIABILITY=long $(PYTEST) tests/reliability

test-oldest: $(OLDEST)/$(INSTALLED)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -n 2 -m "not slow and not browser"

.venv: .venv/$(INSTALLED)

.venv/$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found; give it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

# torch, the tools and what they need stay as in constraints.txt; what we claim a floor for goes to that floor.
$(OLDEST)/$(INSTALLED): pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check -c constraints-oldest.txt -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv $(OLDEST) build dist .mypy_cache .ruff_cache .pytest_cache
