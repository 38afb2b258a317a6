# Everything a newcomer needs is `make demo` and `make test`; Python 3.11 or newer is all that must be there.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PINS := .ci/constraints.txt

.PHONY: help demo test check fmt bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: .venv/.run  ## watch the due-diligence pipeline run on the simulator, ten times as fast as real
	@$(BIN)/agentdag run pipelines/due_diligence.yaml --simulate --time-scale 0.1

test: .venv/.dev  ## run the tests
	@$(BIN)/python -m pytest -n 2

check: .venv/.dev  ## format, lint, types, import layers, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/agentdag validate --strict pipelines
	$(BIN)/python -m pytest -n 2

fmt: .venv/.dev  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format .

bench: .venv/.dev  ## measure: forecasts, overhead, saturation, limits, start-up, each against its own baseline
	$(BIN)/python -m tests.bench

clean:  ## remove the environment and all caches
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "agentdag needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install -c $(PINS) -U pip

.venv/.run: .venv/bin/python pyproject.toml $(PINS)
	@echo "installing agentdag into .venv ..."
	@$(PIP) install -c $(PINS) --build-constraint $(PINS) -e .
	@touch $@

.venv/.dev: .venv/.run
	@echo "installing the development tools into .venv ..."
	@$(PIP) install -c $(PINS) --group dev
	@touch $@
