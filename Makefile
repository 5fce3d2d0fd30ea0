# Everything starts with a virtual environment in .venv; the stamp says which package list it was made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
LOG := $(VENV)/install.log

.PHONY: setup demo test check docs format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Viva needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	@echo "setting up $(VENV) (about three minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' \
		> $(LOG) 2>&1 & pid=$$!; trap "kill $$pid; exit 130" INT TERM; begun=$$(date +%s); \
	while kill -0 $$pid 2>/dev/null; do \
		if [ -t 1 ]; then printf '\r  %s packages, %s s ' "$$(grep -c '^Collecting' $(LOG))" $$(($$(date +%s) - begun)); fi; \
		sleep 1; \
	done; \
	if [ -t 1 ]; then echo; fi; \
	wait $$pid || { tail -n 20 $(LOG); echo "installation failed; the whole log is $(LOG)"; exit 1; }
	@touch $@

demo: setup
	@$(BIN)/viva demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_imports.py

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup
	@$(BIN)/python -m harness.reference

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
