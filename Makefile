# make demo, make test (9 minutes), make test-slow, make check, make engines (real Ray and Slurm), make studies (hours): everything runs in .venv, made on first use with pinned versions.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's settings for local wheels by itself.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

ENGINES := joblib,ray,slurm,optuna
define install
	@if command -v uv >/dev/null; then \
	  uv pip install --python $(BIN)/python -q -c constraints.txt -e '.[$(1)]'; \
	else \
	  $(BIN)/python -m pip install -q -c constraints.txt -e '.[$(1)]'; \
	fi
endef

.PHONY: bench demo test test-slow engines check mutants studies clean

demo: $(VENV)/.ready
	$(BIN)/unseen run experiment=demo

# One process per core, each with one thread; a process that has finished takes tests from another.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -q -n auto --dist worksteal

test: $(VENV)/.ready
	$(PYTEST)

# What is slow because it is real: the built wheel, every study as a program, wandb.
test-slow: $(VENV)/.ready
	$(PYTEST) -m slow

bench: $(VENV)/.ready
	$(BIN)/python -m pip install -q -c constraints.txt zarr
	$(BIN)/python -m benchmarks --save

studies: $(VENV)/.ready
	$(BIN)/python -m experiments.studies

# Small wrong changes to the source: how many of them the tests notice. About an hour; the result is committed.
mutants: $(VENV)/.ready
	$(BIN)/python -m benchmarks.mutants

# Launchers for real: Ray, joblib, submitit and, where it runs, Slurm. Their packages are in no other target.
engines: $(VENV)/.engines
	$(BIN)/pytest -q -m engine

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unseen-diffusion needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(call install,dev)
	@touch $@

$(VENV)/.engines: $(VENV)/.ready
	$(call install,$(ENGINES))
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
