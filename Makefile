# make solve  a first solution, with what it needs installed on the way;  make help  all targets

PYTHON ?= python3
CASE ?= allen_cahn
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup solve test lint clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(READY) ## make .venv with everything in it

# Torch comes first and pinned: left to the resolver, it may bring gigabytes that are not needed.
# The link lets the type checker and editors, which do not run import hooks, find the package.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	PIP_CONSTRAINT=constraints.txt $(PIP) install --quiet -e '.[test,dev]'
	mkdir -p $(VENV)/link && ln -sfn ../.. $(VENV)/link/residua
	touch $@

solve: setup ## solve CASE (a problem's name or a YAML file; default allen_cahn) with ARGS
	$(BIN)/residua solve $(CASE) $(ARGS)

test: lint ## lint, then the tests
	$(BIN)/python -m pytest $(ARGS)

lint: setup ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
