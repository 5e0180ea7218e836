# `make search` and `make test` set up what they need; `make check` is what CI holds the code to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= 200
# Tests that run at once; each may start processes of its own.
TESTS ?= 2

search: $(VENV)/ready
	$(BIN)/python -m nas.search --budget $(BUDGET)

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(TESTS) --dist loadfile

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow --numprocesses $(TESTS)

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The page's chart library, bundled anew; users need no Node.
charts:
	npm ci --prefix web
	npm run build --prefix web

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: search test slow check charts
