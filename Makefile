# Everything runs in .venv, which is built once, and again when the package's metadata change.
# Variables: PYTHON (3.10 or newer), EXTRAS (what is installed beside the package),
# TORCH (the PyTorch that the tests use; the figures do without),
# OLDEST and NEWEST (the Pythons that the package is held to, beside the one that runs all tests),
# ARGS (passed on to the tool that the target runs).

PYTHON ?= python3
EXTRAS ?= dev,docs,notebooks,figures,peers,interop,parallel,sparse,dask,onnx,images,tables,hdf5
TORCH ?= torch==2.13.0
OLDEST ?= python3.10
NEWEST ?= python3.13
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
.PHONY: help env figures test test-slow test-long test-kernels test-oldest test-newest fuzz coverage mutation lint format types docs \
	notebooks wheel wheel-test bench bench-degeneracy bench-networks clean

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

test: $(TEST_STAMP)  ## run the tests and doctests, but for the slow ones (under three minutes on two cores)
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

test-slow: $(TEST_STAMP)  ## run the slow tests: whole notebooks, benchmarks, kills, long fits
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

test-long: $(TEST_STAMP)  ## run all tests, on all combinations of their parameters and not on a part of them
	@TENSORCHAIN_LONG=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-kernels: $(TEST_STAMP)  ## run the numerical tests on the BLAS and NumPy kernels of older processors
	@$(BIN)/python -m tests.processors -n 2 $(ARGS)

test-oldest:  ## run the numerical tests on the oldest versions that are admitted (OLDEST=python3.10)
	@$(PYTHON) -m tests.versions oldest --python $(OLDEST) -n 2 $(ARGS)

test-newest:  ## run the numerical tests on the newest Python at hand and the newest versions (NEWEST=python3.13)
	@$(PYTHON) -m tests.versions newest --python $(NEWEST) -n 2 $(ARGS)

fuzz: $(TEST_STAMP)  ## thousands of random fits, damaged files and kills (ARGS="fits 1 --first 123" for one)
	@$(BIN)/python -m tests.fuzz $(if $(ARGS),$(ARGS),all 10000)

coverage: $(TEST_STAMP)  ## measure what the tests reach
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(ARGS)

mutation: $(TEST_STAMP)  ## put small errors into the code and see which no test notices (ARGS="stability --count 40")
	@$(BIN)/python -m tests.mutations $(ARGS)

lint: $(STAMP)  ## check style, format and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

format: $(STAMP)  ## format the code in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## check the types, strictly
	$(BIN)/mypy $(ARGS)

docs: $(TEST_STAMP)  ## build the documentation in docs/_build/html, warnings as errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --jobs 2 --builder html docs docs/_build/html
	@echo docs/_build/html/index.html

notebooks: $(TEST_STAMP)  ## run the notebooks and draw their pictures (ARGS="02" for one, --full as the text says)
	$(BIN)/python -m notebooks.run --images docs/images $(ARGS)

wheel: $(STAMP)  ## build the wheel and the source archive in dist
	$(BIN)/python -m build --outdir dist $(ARGS)

wheel-test: $(STAMP)  ## build the wheel, install it elsewhere, and test it there
	$(BIN)/python -m tests.wheel

bench: $(STAMP)  ## measure speed and memory beside other packages (ARGS=--quick for less)
	$(BIN)/python -m benchmarks all $(ARGS)

bench-degeneracy: $(STAMP)  ## compare solvers on tensors that have no best approximation
	$(BIN)/python -m benchmarks.degeneracy $(ARGS)

bench-networks: $(TEST_STAMP)  ## compress a small trained network without training, and time wide kernels (minutes)
	$(BIN)/python -m benchmarks.networks.without_training --plain --methods auto cp3 tucker2 --shares 0.5 0.33 0.2 $(ARGS)
	$(BIN)/python -m benchmarks.networks.wide

clean:  ## remove the environment, caches and build outputs
	rm -rf $(VENV) .venv-oldest .venv-newest build dist docs/_build *.egg-info .coverage .hypothesis \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
