# Everything runs in .venv, which is built once, and again when the package's metadata change.
# Variables: PYTHON (3.10 or newer), EXTRAS (what is installed beside the package),
# TORCH (the PyTorch that the tests use; the figures do without),
# ARGS (passed on to the tool that the target runs).

PYTHON ?= python3
EXTRAS ?= dev,figures,peers,parallel,sparse,dask,onnx,images
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_STAMP := $(VENV)/.installed-for-tests

# One BLAS thread a process: the matrices are small, and the tests run one process a core.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help env figures test coverage lint format types bench bench-degeneracy clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

$(TEST_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	@touch $@

env: $(STAMP)  ## build the environment in .venv

figures: $(STAMP)  ## draw the figures again (a few minutes)
	$(BIN)/python -m paper_figures --quick $(ARGS)
	@find paper_figures docs -name '*.png' -newer $(STAMP) 2>/dev/null | sort

test: $(TEST_STAMP)  ## run every test and doctest
	@$(BIN)/python -m pytest -n 2 $(ARGS)

coverage: $(TEST_STAMP)  ## measure what the tests reach
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

lint: $(STAMP)  ## check style, format and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP)  ## format the code in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## check the types, strictly
	$(BIN)/mypy $(ARGS)

bench: $(STAMP)  ## measure random starts beside other packages (ARGS=--quick for less)
	$(BIN)/python -m benchmarks starts $(ARGS)

bench-degeneracy: $(STAMP)  ## compare solvers on tensors that have no best approximation
	$(BIN)/python -m benchmarks.degeneracy $(ARGS)

clean:  ## remove the environment, caches and build outputs
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
