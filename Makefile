# make demo     masks the shipped pictures and says where to look      make test   runs the tests
# Both make their own environment in $(VENV). EXTRAS=dev,engine,... installs more, and more of the tests then run.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
# (TESTS: more arguments for pytest; -n0 gives one process, for a debugger)
TESTS ?=
BIN := $(VENV)/bin
## A file's tests stay in one process, since they share what it set up. A process that dies fails its test and is not
## started again: pytest-xdist then waits for ever.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0
## They start some hundred processes, each of which would compile the sources anew.
unexport PYTHONDONTWRITEBYTECODE
ALL_EXTRAS := dev,engine,dali,heif,rtx,ort,scale,nvrtc,servers

# A program for Node that speaks Azure's protocol; the tests of az:// talk to it.
AZURITE := .azurite/node_modules/.bin/azurite-blob

.PHONY: demo test check check-tests azurite lint types engine bench bench-quick soak kernels gpu-check clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

# A stamp for each set of extras: pip runs again only when pyproject.toml, what is compiled or the set changes.
$(VENV)/.installed-%: pyproject.toml $(wildcard seseg_trt/native/*.cpp seseg_trt/native/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(if $(filter core,$*),,[$*])'
	touch $@

CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-$(EXTRAS)

demo: $(CORE)
	$(BIN)/seseg-trt demo demo-output

test: $(TEST)
	$(PYTEST) -m "not slow and not gpu" $(TESTS) tests

azurite: $(AZURITE)

$(AZURITE):
	npm install --silent --no-fund --no-audit --prefix .azurite azurite@3

# Style, types and the tests that need every extra.
check: lint types check-tests

check-tests: $(VENV)/.installed-$(ALL_EXTRAS) $(if $(shell command -v npm),$(AZURITE))
	$(BIN)/python -m benchmarks table --check
	SESEG_REQUIRE_EXTRAS=1 $(PYTEST) -rsfE -m "not slow and not gpu" $(TESTS) tests

lint: $(VENV)/.installed-$(ALL_EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-$(ALL_EXTRAS)
	$(BIN)/mypy

# make engine CHECKPOINT=checkpoint.hdf5: its graph becomes the cache's default model.
NAME ?= original
engine: $(VENV)/.installed-engine
	@test -n "$(CHECKPOINT)" || { echo "usage: make engine CHECKPOINT=checkpoint.hdf5 [NAME=original]"; exit 1; }
	$(BIN)/python build_engine.py --checkpoint "$(CHECKPOINT)" --out "models/$(NAME)" --store "$(NAME)"

bench: $(VENV)/.installed-$(ALL_EXTRAS)
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.installed-$(ALL_EXTRAS)
	$(BIN)/python -m benchmarks quick

kernels:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m seseg_trt.masks.kernel_binary

soak: $(VENV)/.installed-$(ALL_EXTRAS),mutation
	$(BIN)/python -m pytest -q -m slow tests
	$(BIN)/python -m tests.soak 60
	$(BIN)/python -m tests.soak.mutants 100 1

clean:
	rm -rf .venv .venv-* .azurite demo-output models build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Everything that only a GPU can show; writes gpu-check.json and gpu-check.md into $OUT, or benchmarks/results/gpu-check.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu_check
