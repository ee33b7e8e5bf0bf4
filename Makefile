# Everything runs in an environment of its own, .venv, which the first target that needs it makes. `make` alone tells what there is.

SHELL := /bin/sh
VENV  := .venv
BIN   := $(VENV)/bin
# Stamps: what is installed, as of which pyproject.toml and constraints.txt.
DEMO  := $(VENV)/.installed-demo
DEV   := $(VENV)/.installed-dev
FRAMEWORKS := $(VENV)/.installed-frameworks
PIP   := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test frameworks check bench bench-full policies adapters scale model chaos soak compose-test reference clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO) ## see it work: a server, a worker, a model, and what the cache does
	@$(BIN)/foreseen demo $(ARGS)

test: $(DEV) ## run the tests, three files at a time; ARGS="-k name" passes options to pytest
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

frameworks: $(FRAMEWORKS) ## install what the adapters' tests need beside: PyTorch, scikit-learn, Transformers, MLServer

check: $(DEV) ## lint, formatting, types, and who may import whom
	@status=0; \
	for tool in 'ruff check .' 'ruff format --check .' mypy pyright lint-imports; do \
	    echo "== $$tool"; $(BIN)/$$tool || status=1; \
	done; \
	exit $$status # after all five, so that one run tells everything

bench: $(DEV) ## measure it against bare Celery and raw Redis, in a few minutes; ARGS="--only hit --check"
	@$(BIN)/python -m benchmarks $(ARGS)

bench-full: $(DEV) ## the same with a million entries and more rounds; renews docs/performance.md, its JSON and its pictures
	@$(BIN)/python -m benchmarks --size full --docs $(ARGS)

policies: $(DEV) ## what cache policies and eviction come to, in eight minutes; renews docs/policies.md; ARGS="--check"
	@$(BIN)/python -m benchmarks.policies --docs $(ARGS)

adapters: $(FRAMEWORKS) ## the adapters' examples by batch size; renews docs/adapters.md
	@$(BIN)/python -m benchmarks.adapters --docs $(ARGS)

scale: $(DEV) ## what a load needs, and what a large deployment does, in seven minutes; renews docs/scaling.md
	@$(BIN)/python -m benchmarks.scale --docs $(ARGS)

model: ## check the protocol's model with spin; needs spin and gcc
	@tests/model/check $(ARGS)

chaos: $(DEV) ## kill, stop, cut and restart everything under traffic; ARGS="--seconds 300 --seed 2"
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m chaos $(ARGS)

soak: $(DEV) ## a steady load for 15 minutes: does anything grow? draws docs/soak.png; ARGS="--seconds 60 --picture soak.png"
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m soak $(ARGS)

compose-test: $(DEV) ## run docker-compose.yml for real, scaled and killed under traffic, in ten minutes; needs an engine
	@$(BIN)/python tests/compose/run.py $(ARGS)

reference: $(DEV) ## renew what docs/reference shows of the code
	@$(BIN)/python docs/generate.py

clean: ## remove the environment and everything the tools left
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first python3 of at least 3.11 that runs. A half-made environment is taken away again, so that the next try starts anew.
$(BIN)/python:
	@for python in python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Making $(VENV) with $$($$python --version)"; \
	        $$python -m venv $(VENV) && exit 0; \
	        rm -rf $(VENV); \
	        echo "error: $$python could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	    fi; \
	done; \
	echo "error: foreseen needs Python 3.11 or later; python3 here is $$(python3 --version 2>&1 | head -n 1)." >&2; \
	echo "       Install one so that python3 or python3.11 to python3.13 is on the PATH, then run make again." >&2; exit 1

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing foreseen and what its demo needs into $(VENV) (once; a minute or two)"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

# Dependency groups need pip 25.1.
$(DEV): $(DEMO)
	@echo "Installing what the tests, checks and benchmarks need into $(VENV) (once)"
	@$(PIP) install --quiet 'pip>=25.1'
	@$(PIP) install --quiet --constraint constraints.txt --group dev
	@touch $@

# MLServer's requirements and ours do not go together, so it has an environment of its own.
$(FRAMEWORKS): $(DEV) tests/mlserver/requirements.txt
	@echo "Installing the adapters' frameworks into $(VENV), and MLServer into $(VENV)/mlserver (once; a few minutes)"
	@$(PIP) install --quiet --constraint constraints.txt --group frameworks
	@$(BIN)/python -m venv $(VENV)/mlserver
	@$(VENV)/mlserver/bin/python -m pip --disable-pip-version-check install --quiet -r tests/mlserver/requirements.txt
	@touch $@
