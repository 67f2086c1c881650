# Every verb works from a bare checkout: each one depends on `setup`, which runs once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := orchestrator storage plugins kernels

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow lint docs bench

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install the project with known-good versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: setup  ## Take one model through its whole life (a few minutes on 2 cores)
	$(BIN)/orchestrate run recipe=quickstart

test: setup  ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: setup  ## Run the slow tests only
	$(BIN)/python -m pytest -m slow --timeout 3600 $(PYTEST_ARGS)

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy $(wildcard $(SOURCES))

docs: setup  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

bench: setup  ## Run the benchmarks and save their raw numbers under .benchmarks/
	$(BIN)/python -m pytest tests/benchmarks -m "" --benchmark-only --benchmark-autosave $(PYTEST_ARGS)
