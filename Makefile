# Every target makes its own virtual environment in .venv when there is none or when the requirements changed.
# All paths are relative and every tool runs as `.venv/bin/python -m TOOL`, so the clone's path may hold a space.

SHELL := /bin/sh
PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

PY := .venv/bin/python
READY := .venv/ready
# Small models on few cores: threads inside an operation cost more than they give, and idle ones must not spin.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test speed lint check format hooks clean

help: ## print this list
	@echo "Training Wheels: targets of this Makefile (the first one makes .venv, 1 to 3 minutes)"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'
	@echo "Options: PYTHON=python3.12 (makes .venv)  WORKERS=4 (of the tests)  ARGS='...' (to the script or pytest)"

setup: $(READY) ## only make .venv and install into it

demo: $(READY) ## train a policy on the shipped pair, compare it with the baselines, write table, picture and page
	@$(PY) -m scripts.demo $(ARGS)

test: $(READY) ## the whole test suite
	@$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) $(ARGS)

speed: $(READY) ## measure the step's speed on one thread, write results/speed.json
	@$(ONE_THREAD) $(PY) -m scripts.speed $(ARGS)

lint: $(READY) ## ruff (rules and format) and mypy
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

check: lint test ## lint, then test

format: $(READY) ## let ruff format and mend what it can
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

hooks: $(READY) ## run lint before every commit (pre-commit)
	@$(PY) -m pre_commit install

clean: ## remove .venv, caches and builds; runs/ and results/ stay
	rm -rf .venv build dist training_wheels.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find tw_env agents scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PY) -m pip --version > /dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Expected Python 3.11 or newer as $(PYTHON), got $$($(PYTHON) --version 2>&1)."; \
	    echo "Name another one: make setup PYTHON=python3.12"; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "$(PYTHON) can't make virtual environments: it has no ensurepip."; \
	    echo "On Debian or Ubuntu: apt install python3-venv; or name another one: make setup PYTHON=..."; exit 1; }; \
	  rm -rf .venv && $(PYTHON) -m venv .venv; }
	@echo "Installing about 90 packages into .venv (once, 1 to 3 minutes):"
	@$(PY) .ci/install.py -c constraints.txt -e '.[dev]'
	@touch $(READY)
