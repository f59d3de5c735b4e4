# A fresh clone needs Python 3.11 (or newer) and make, nothing else.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: run test lint format clean interleavings chaos

# Everything on embedded defaults, with a sample scan to look at; Ctrl-C ends it.
run: $(STAMP)
	@$(BIN)/python -m tasks up --sample

# Most of the suite's time is waiting, so more run at once than there are cores.
test: lint
	$(BIN)/python -m pytest -n 3 --dist loadfile

# Every pair of writes from every state, the threes, and every process that stops: an hour or more on 2 cores.
interleavings: $(STAMP)
	$(BIN)/python -m pytest tests/interleavings --interleavings -n 2 --dist load

# Longer chaos, with seeds of one's own: make chaos SEEDS="11 12" SECONDS=60
SEEDS ?= 1
SECONDS ?= 60
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/faults/test_chaos.py $(SEEDS:%=--chaos-seed %) --chaos-seconds $(SECONDS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installs again only when pyproject.toml changes.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis var
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
