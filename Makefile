# A fresh clone needs Python 3.11 (or newer) and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is installed: what the service needs, and what its tests and tools need too.
SERVICE := $(VENV)/.service
STAMP := $(VENV)/.installed

.PHONY: run test lint lint-web format clean interleavings chaos coverage versions celery-suite pictures

# Everything on embedded defaults, with a sample scan to look at; Ctrl-C ends it.
run: $(SERVICE)
	@$(BIN)/python -m tasks up --sample

# Most of the suite's time is waiting, so more run at once than there are cores. In the order of the folders: the unit
# tests, which are short, come last, and no core waits for a long file at the end.
test: lint
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# Every pair of writes from every state, the threes, and every process that stops: an hour or more on 2 cores.
interleavings: $(STAMP)
	$(BIN)/python -m pytest tests/interleavings --interleavings -n 2 --dist load

# Longer chaos, with seeds of one's own: make chaos SEEDS="11 12" SECONDS=60
SEEDS ?= 1
SECONDS ?= 60
chaos: $(STAMP)
	$(BIN)/python -m pytest tests/faults/test_chaos.py $(SEEDS:%=--chaos-seed %) --chaos-seconds $(SECONDS)

# Lines and branches that the tests run, those of workers and other processes too. It takes twice as long as `make test`.
TESTS ?= tests
coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile --timeout 300 $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Each supported release of Celery, redis-py, SQLAlchemy and Python, an environment each: 20 minutes and more a cell.
# make versions CELLS="celery5.4 python3.13" TESTS=tests/faults/test_celery_cases.py; CELLS are parts of names.
CELLS ?=
versions: $(STAMP)
	$(BIN)/python tests/versions.py $(CELLS:%=--cell %) $(filter-out tests,$(TESTS))

# Those of the README: a run in a terminal whose worker is killed, and the page as the acceptance test sees it.
pictures: $(STAMP)
	PYTHONPATH=. $(BIN)/python docs/make_picture.py
	$(BIN)/python -m pytest tests/acceptance/test_page.py --screenshots docs

# Celery's own canvas suite, without and with the extension, on the Celery that is named: 20 minutes or more each.
CELERY ?= 5.7 5.6
celery-suite: $(STAMP)
	for minor in $(CELERY); do \
	    $(BIN)/python -m uv run --isolated --no-project --with-editable ".[dev,celery-suite]" --with pip \
	        --with "celery==$$minor.*" python -m bench.celery_canvas $(if $(ONLY),--only "$(ONLY)") || exit 1; \
	done

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The browser's code: TypeScript's checker over its JSDoc types, and ESLint. Needs Node with npm.
lint-web:
	cd web && npm install --silent --no-package-lock --no-audit --no-fund
	cd web && npm run --silent lint

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Installs again only when pyproject.toml changes.
$(SERVICE): pyproject.toml | $(BIN)/python
	@echo "Installing the service into $(VENV): about 370 MB, once"
	@$(BIN)/python .ci/install.py run
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "Installing its tests and tools into $(VENV): about 800 MB, once"
	@$(BIN)/python .ci/install.py dev
	@touch $(SERVICE) $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "Making an environment for Python in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info web/node_modules .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis var
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
