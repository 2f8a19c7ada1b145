# `make demo` trains a small model in about three minutes; `make test` runs every check and test.
# Both need only python3 and make: they set up .venv by themselves, once.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
GPU    := $(shell nvidia-smi -L 2>/dev/null | head -n 1)
STACK  := $(if $(GPU),gpu,cpu)

# One test worker more than there are cores, since some tests wait for processes that they start.
# Each has one thread: the tensors in tests are small.
JOBS   ?= $(shell $(PYTHON) -c 'import os; print(min(8, 1 + (os.cpu_count() or 1)))')
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.PHONY: help setup demo test check lint format types layers unit triton golden proofs clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo     train a small model with GRPO, about three minutes on a CPU'
	@echo 'make test     lint, format, types, layers and all tests'
	@echo 'make check    the same without the tests'
	@echo 'make golden   accept what golden tests print now; read the diff before you commit it'
	@echo 'make proofs   compute 20 000 random objectives in every way; takes hours, and goes on where it ended'
	@echo 'make setup    only the environment (.venv)'
	@echo 'make clean    remove .venv, build/ and caches'

# --- the environment -----------------------------------------------------------------------------

setup: $(VENV)/dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	    f"objdsl needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo 'python3 could not make a virtual environment; Debian and Ubuntu: apt install python3-venv'; exit 1; }

# Most of what the lock files bring is never imported: --no-compile leaves byte code to first use.
# Where the environment forbids Python to write it, every process would compile torch again.
LOCKED := install --no-deps --no-compile -r
unexport PYTHONDONTWRITEBYTECODE

# vLLM for the GPU brings its own torch; the CPU takes exactly what the lock file says.
$(VENV)/gpu: pyproject.toml | $(BIN)/python
	@echo 'Setting up $(VENV) for: $(GPU)'
	@$(PIP) install --upgrade 'setuptools>=77'
	@$(PIP) install -e '.[vllm]'
	@touch $@

$(VENV)/cpu: requirements/cpu.lock pyproject.toml | $(BIN)/python
	@echo 'Setting up $(VENV), once: about 2 GB, two minutes'
	@$(PIP) $(LOCKED) requirements/cpu.lock || { \
	    echo 'If torch was not found: name the PyTorch CPU wheel index in PIP_EXTRA_INDEX_URL.'; exit 1; }
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements/dev.lock requirements/peers.lock $(VENV)/$(STACK)
	@echo 'Adding the tools that test and check'
	@$(PIP) $(LOCKED) requirements/dev.lock
	@$(if $(GPU),,$(PIP) $(LOCKED) requirements/peers.lock)
	@touch $@

# Triton for its interpreter, in a folder of its own: vLLM for the CPU does not bear it beside it.
# With a GPU, torch brings Triton, and its tests run with all others; it knows Linux alone.
INTERPRETER := $(if $(GPU),,$(if $(filter Linux,$(shell uname)),$(VENV)/triton))

$(VENV)/triton: requirements/triton.lock $(VENV)/dev
	@$(PIP) install --no-deps --no-compile --upgrade --target $@ -r requirements/triton.lock
	@touch $@

# --- what people type ----------------------------------------------------------------------------

demo: $(VENV)/$(STACK)
	@$(BIN)/objdsl train

# Types and layers would keep one core busy and the others idle: the tests begin beside them.
test: lint format
	@$(MAKE) --no-print-directory -j 2 types-and-layers tests

check: lint format types layers

lint: $(VENV)/dev
	@$(BIN)/ruff check .

format: $(VENV)/dev
	@$(BIN)/ruff format --check .

types: build/check
	@cd build/check && ../../$(BIN)/mypy --config-file ../../pyproject.toml \
	    --cache-dir ../../.mypy_cache -p objdsl

layers: build/check
	@cd build/check && ../../$(BIN)/lint-imports --no-logo --config ../../pyproject.toml --no-cache

unit: $(VENV)/dev
	@$(PYTEST) -q -n $(JOBS) --dist loadgroup

triton: $(INTERPRETER)
	@$(if $(INTERPRETER),PYTHONPATH=$(INTERPRETER) TRITON_INTERPRET=1 \
	    $(PYTEST) -q -n $(JOBS) tests/fused/triton)

.PHONY: types-and-layers tests
types-and-layers: types layers
tests: $(VENV)/dev
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory triton

golden: $(VENV)/dev
	@$(PYTEST) -q -n $(JOBS) --dist loadgroup --update-golden

proofs: $(VENV)/dev
	@$(PYTEST) -q -n $(JOBS) --proofs -m proof
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py emitted --many 20000
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py partial --many 5000
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py compiled --many 500
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py ranks --many 200
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py trl --many 300
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py verl --many 300
	@OMP_NUM_THREADS=1 $(BIN)/python tests/proofs.py dpo --many 300

# An installed copy, where objdsl.runtime, objdsl.grammars and objdsl.objectives lie under objdsl.
.PHONY: build/check
build/check: $(VENV)/dev
	@rm -rf build/check build/lib build/bdist.*
	@$(PIP) install --no-deps --no-build-isolation --target build/check .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
