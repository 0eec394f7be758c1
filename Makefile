# Two commands for a fresh machine with python3 >= 3.11, pip and make:   make demo   and   make test.
# Each makes its own .venv and installs only what it needs. A stamp named after the content of pyproject.toml (and the
# extras below) marks what is installed, so a second call starts at once and a changed dependency is installed by itself.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where the environment switches it off, each of the processes that the tests start would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

# The extras whose code is there and tested; `make demo` needs only [demo].
EXTRAS := sqlite,postgres,mysql,redis,aiohttp,client,fastapi,django,langgraph,serve,terminal,testing,demo
ARGS   ?=
# What else is type-checked and linted, as far as it exists.
CODE   := src tests $(patsubst %/,%,$(sort $(dir $(wildcard benchmarks/*.py examples/*.py))))
# Tests that start no process and no server, a few seconds each.
FAST   := $(addprefix tests/,core tools wire orchestrator/test_loop.py project/test_modules.py project/test_repository.py)
PYTEST ?= $(BIN)/python -m pytest

CONTENT := $(firstword $(shell { cat pyproject.toml; echo $(EXTRAS); } | cksum))
HAVE     = $(VENV)/.have
DEMO    := $(HAVE)/demo-$(CONTENT)
DEV     := $(HAVE)/dev-$(CONTENT)
# All that the demo needs is part of the development environment.
FOR_DEMO = $(if $(wildcard $(DEV)),$(DEV),$(DEMO))

.PHONY: help demo test tests test-all test-failed check-fast fast-types fast-tests lint types imports bench chaos docs fmt clean

help:
	@echo "make demo [ARGS='--port 8123']   the chat page on loopback, no key needed"
	@echo "make test                        every check: ruff, mypy, pyright, import rules, pytest"
	@echo "make test-all                    the long matrices: slow tests, many more hypothesis examples"
	@echo "make check-fast                  what takes less than a minute"
	@echo "make bench [ARGS=...]            the benchmarks, as ratios"
	@echo "make chaos [ARGS='--backend postgres --seconds 600 --kills 1000']   workers killed in mid-answer"
	@echo "make fmt | docs | clean"

# ------------------------------------------------------------------------------------------------------- environments

# `venv` without ensurepip (some distributions split it off) leaves an environment without pip; the machine's pip can
# put one in from outside. pip itself is upgraded because dependency groups need 25.1.
$(HAVE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "streamchat needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@mkdir -p $(HAVE) && touch $@

$(DEMO): | $(HAVE)/venv
	@echo "Installing what the demo needs (once, half a minute)"
	@$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@rm -f $(HAVE)/demo-* $(HAVE)/dev-* && touch $@

$(DEV): | $(HAVE)/venv
	@echo "Installing what the checks need (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]' --group dev
	@rm -f $(HAVE)/demo-* $(HAVE)/dev-* && touch $@

# ------------------------------------------------------------------------------------------------------------- running

demo: $(FOR_DEMO)
	@trap : INT; $(BIN)/streamchat demo $(ARGS) || [ $$? -eq 130 ]

bench: $(DEV)
	@exec $(BIN)/python -m benchmarks $(ARGS)

chaos: $(DEV)
	@exec $(BIN)/python -m tests.chaos $(ARGS)

# -------------------------------------------------------------------------------------------------------------- checks

lint: $(DEV)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(DEV)
	$(BIN)/mypy $(CODE)
	$(BIN)/pyright --pythonpath $(BIN)/python

imports: $(DEV)
	$(BIN)/lint-imports --no-logo --no-cache

# Types beside the tests: neither mypy nor pyright takes more than one core. Who has nothing left to do takes tests of others,
# for a worker with all the long ones would end minutes after them.
test: lint imports
	@$(MAKE) --no-print-directory -j2 types tests

tests: $(DEV)
	$(PYTEST) -n 4 --dist worksteal -m "not slow" $(ARGS)

# Two workers here, where processes are killed and frozen by the dozen; four above, where most of the time is waiting.
test-all: $(DEV)
	HYPOTHESIS_PROFILE=long $(PYTEST) -n 2 --dist worksteal -m "slow or hypothesis" --timeout 900 $(ARGS)

# What failed last, once more and alone: processes that are killed and servers that die can starve beside others. A
# defect fails again.
test-failed: $(DEV)
	$(BIN)/python -m pytest -v --lf --lfnf=none --timeout 900 $(ARGS)

# Types and tests at once, a core for each: mypy without its cache takes as long as the tests. Types of the tests, pyright,
# and tests with many examples, servers or processes are left to `make test`.
check-fast: $(DEV)
	$(BIN)/ruff check --quiet $(CODE)
	$(BIN)/ruff format --quiet --check $(CODE)
	$(BIN)/lint-imports --no-logo --no-cache
	@$(MAKE) --no-print-directory -j2 fast-types fast-tests

fast-types: $(DEV)
	$(BIN)/mypy src

fast-tests: $(DEV)
	$(BIN)/python -m pytest -q -m "not slow and not hypothesis" $(FAST) $(ARGS)

fmt: $(DEV)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(DEV)
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
