# Everything a fresh machine needs is made here: a virtual environment with the pinned versions, then the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
LOWEST_TESTS := tests/cli/test_help.py tests/core tests/adapters/test_files.py tests/data/test_tables.py tests/guard/test_threads.py \
	tests/jobs/test_harden.py
INPUTS ?= 10000
SEED ?= 0
FOR ?= 3.11
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled
DOCS := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow gpu test-lowest faults fuzz check bench package docs format clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@# torchattacks pins a requests that datasets cannot live with
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-deps torchattacks
	@touch $@

$(COMPILED): $(READY)
	@# tests start a hundred processes, each in half the time; files of others that are no Python of this version are left out
	-@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -q -j 0 -x '/tests?/' $(VENV)/lib
	@touch $@

demo: $(READY) ## Harden a classifier of handwritten digits, offline, and write a report
	$(BIN)/loradar demo --out runs/demo

test: $(COMPILED) ## Run the tests, with coverage
	@# every test computes in one thread; a file's tests stay together, for what they share is made once, and the files of most
	@# tests do not come first: those of few long ones would be left for the end
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(COMPILED) ## Run the tests that compile, or start processes for long
	$(BIN)/python -m pytest -m slow

gpu: $(COMPILED) ## On a machine with a GPU: the tests that need one, and a training step timed beside our peers
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m benchmarks.robust_step --device cuda --batch 512

faults: $(READY) ## Kill saves and commands 200 times, run them again, and count what went wrong
	PYTHONPATH=src:. $(BIN)/python -m tests.faults.kills --kills 200

test-lowest: ## Run a part of the tests with the lowest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	uv venv --quiet --allow-existing --python 3.11 $(LOWEST)
	uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		--editable '.[autoattack,onnx,sign,tensorboard]' 'pytest>=8.2' 'hypothesis>=6.100'
	@# what others deprecate in one another is not ours to mend in old versions
	PYTHONPATH=src:. $(LOWEST)/bin/python -m pytest -o filterwarnings=default $(LOWEST_TESTS)

check: $(READY) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: $(READY) ## Send 10,000 changed and odd inputs through every door. INPUTS=, SEED=
	PYTHONPATH=src:. $(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) --seed $(SEED)

bench: $(READY) ## Time us beside our peers; JSON under benchmarks/results. CRAFTING='--base FOLDER --data SOURCE' for strength
	for claim in pgd roa roa-exhaustive fia; do $(BIN)/python -m benchmarks.crafting $$claim $(CRAFTING) || exit 1; done
	$(BIN)/python -m benchmarks.robust_step
	$(BIN)/python -m benchmarks.switching
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.few_shot

$(DOCS): $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(DOCS) ## Build the documentation into build/docs; a warning is an error
	@# pages that run code compute in one thread
	@started=$$(date +%s); \
		OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env docs build/docs && \
		echo "build/docs/index.html, made in $$(( $$(date +%s) - started )) s"

package: $(READY) ## Build wheel and sdist into dist/, try the wheel in clean environments outside of the checkout. FOR="3.11 3.12"
	$(BIN)/python .ci/package.py $(FOR)

format: $(READY) ## Format and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
