# make demo, make test, make check, make studies (hours): everything runs in .venv, made on first use with pinned versions.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's settings for local wheels by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: demo test check studies clean

demo: $(VENV)/.ready
	$(BIN)/unseen run experiment=demo

test: $(VENV)/.ready
	$(BIN)/pytest -q

studies: $(VENV)/.ready
	$(BIN)/python -m experiments.studies

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unseen-diffusion needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then \
	  uv pip install --python $(BIN)/python -q -c constraints.txt -e '.[dev]'; \
	else \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
