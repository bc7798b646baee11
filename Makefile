# One rule: every target does its own set-up, is safe to repeat, and survives a kill.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# found before the virtual environment comes first on PATH: set-up may have to remove that one
PYTHON := $(or $(PYTHON),$(shell command -v python3))
RUN := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/node_modules/@foundry-rs/anvil-linux-amd64/bin:$(CURDIR)/node_modules/@foundry-rs/forge-linux-amd64/bin:$(CURDIR)/tools:$(PATH)
NAME ?=
# files of a group share processes, and the longest groups come first in the alphabet
WORKERS ?= -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder
CHECK ?=

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F':.*?## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: setup-run setup-dev setup-security
setup-run: # what running needs: packages, anvil, the model pack
	@$(PYTHON) tools/setup.py run
setup-dev: # what building and testing needs besides
	@$(PYTHON) tools/setup.py dev
setup-security: # slither and halmos besides, in a virtual environment of their own
	@$(PYTHON) tools/setup.py security

.PHONY: demo
demo: setup-run ## a whole job on a local chain with three providers, then one with a liar
	@$(RUN) -m assay demo

.PHONY: test
test: setup-dev ## all default tests, one per core; WORKERS= for one at a time
	@$(RUN) -m pytest $(WORKERS)

.PHONY: test-slow
test-slow: setup-dev ## long sweeps: deep state machine, big vectors: an hour on two cores; ASSAY_DEPTH=4 goes deeper
	@$(RUN) -m pytest $(WORKERS) -m slow

.PHONY: test-security
test-security: setup-security ## slither, halmos, branch coverage and mutants of the contracts: an hour
	@$(RUN) -m tools.security $(CHECK)

.PHONY: test-readme
test-readme: setup-dev ## the whole README in a fresh clone
	@$(RUN) -m pytest -m readme

.PHONY: lint
lint: setup-dev ## ruff, mypy strict, forge fmt, generated files up to date
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@forge fmt --check contracts
	@$(RUN) -m tools.build_contracts --check

.PHONY: format
format: setup-dev ## format Python and Solidity
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .
	@forge fmt contracts

.PHONY: contracts
contracts: setup-dev ## compile the contracts and rewrite market/abi
	@$(RUN) -m tools.build_contracts

.PHONY: bench
bench: setup-dev ## measure everything, or one table: make bench NAME=gas
	@$(RUN) -m bench $(NAME)

.PHONY: clean
clean: ## stop the local network and remove all that make made
	@if [ -x .venv/bin/assay ]; then .venv/bin/assay down || true; fi
	@rm -rf .venv .venv-security .venv-bench node_modules build .solcx out cache .build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
