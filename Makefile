# Everything a fresh machine needs is made once, where a target needs it: `make train`, `make test`.
#
#   NP=4 make train           four ranks on this machine
#   make report               runs/latest/report.html: the last run as a page
#   PYTHON=python3.10 make …  the interpreter that the virtual environment is made from
#   TENSORFLOW=2.15.1 make …  another TensorFlow of locks/matrix.txt, in an environment of its own
#   DEVICE=cpu make …         TensorFlow without CUDA, even where there is a GPU
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

NP ?= 1
# Tests that run at a time. Most of a test is one core's work: starting TensorFlow, tracing a step.
WORKERS ?= 2
DEFAULT := $(shell awk '!/^\#/ && $$NF == "default" {print $$1}' locks/matrix.txt)
TENSORFLOW ?= $(DEFAULT)
VENV ?= $(if $(filter $(DEFAULT),$(TENSORFLOW)),.venv,.venv-tf$(TENSORFLOW))
DATA ?= data/demo
DEMO_DATA := --train_samples 1500000 --test_samples 200000
PY := $(VENV)/bin/python
OPS := ops/libdlrm_ops-tf$(shell echo $(TENSORFLOW) | cut -d. -f1,2).so
SHELL_SCRIPTS = .ci/run $(shell find . \( -name '.venv*' -o -name build -o -name .git \) -prune -o \( -name '*.sh' -o -name '*.sbatch' \) -print)
CXX_SOURCES = $(shell find ops tests -type f \( -name '*.c' -o -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print)
BENCHES := $(or $(BENCH),machine ops data hybrid training)
TORCH_VENV := .venv-torch
OPS_SOURCES := setup.py ops/CMakeLists.txt $(wildcard ops/*.cmake ops/*/*.cc ops/*/*.h ops/*/*.cu ops/*/*.cuh ops/*.h ops/*.cuh)

# How `make train` starts its ranks: one needs no launcher.
LAUNCH := $(if $(filter 1,$(NP)),,TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/horovodrun --gloo -np $(NP)) ./hvd_wrapper.sh $(PY)

.PHONY: help train report test bench sanitize matrix locks lint airgap clean distclean venv ops data

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
	  awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

train: $(OPS) $(DATA)/test/metadata.json ## train the demo DLRM (NP=4 for four ranks)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(LAUNCH) main.py --flagfile=configs/demo.flags --data_dir=$(DATA) $(FLAGS)

report: $(VENV)/.ready ## write a page about runs (RUNS="runs/A runs/B" for some, FLAGS='--png FOLDER' for pictures)
	@$(PY) -m training.report $(or $(RUNS),runs/latest) $(FLAGS)

test: $(OPS) lint ## run the tests (TIER=unit, ranks or e2e for one tier, TESTS=tests/... for some, TESTS='-m slow' for the slow ones, WORKERS=1 one by one)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pytest -n $(WORKERS) --dist loadgroup $(or $(TESTS),-m 'not slow' $(if $(TIER),tests/$(TIER)))

bench: $(OPS) $(if $(filter training,$(BENCHES)),$(TORCH_VENV)/.ready) ## measure machine, ops, data path, hybrid step, training beside its peers (BENCH=ops for one)
	@for name in $(BENCHES); do echo "== benchmarks.$$name"; \
	  PATH="$(abspath $(VENV))/bin:$$PATH" TF_CPP_MIN_LOG_LEVEL=2 $(PY) -m benchmarks.$$name || exit 1; done

sanitize: $(VENV)/.ready ## run the CPU kernels under the address and undefined-behaviour sanitizers
	@export PATH="$(abspath $(VENV))/bin:$$PATH"; \
	  cmake -S tests/native -B build/kernels-sanitized -DDLRM_SANITIZE=address,undefined >/dev/null \
	  && cmake --build build/kernels-sanitized --parallel >/dev/null \
	  && build/kernels-sanitized/kernels_test && build/kernels-sanitized/preprocessing_test

# In a Python that has nothing yet, as each cell makes an environment of its own.
matrix: ## test the oldest and newest TensorFlow and Python, each in a new environment (CELLS="2.15.1:3.11" for some, FLAGS=--all)
	@$(or $(PYTHON),python3) -m deploy.matrix $(CELLS) $(FLAGS)

locks: ## write the pins anew that pyproject.toml's packages resolve to (FLAGS=--upgrade: the newest; needs uv)
	@$(or $(PYTHON),python3) -m deploy.locks $(FLAGS)

lint: $(VENV)/.ready ## check style and types (ruff, shellcheck, clang-format, pyright)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/shellcheck $(SHELL_SCRIPTS) \
	  && $(VENV)/bin/clang-format --dry-run --Werror $(CXX_SOURCES) \
	  && $(VENV)/bin/basedpyright --project . --pythonpath $(PY)

venv: $(VENV)/.ready ## make the virtual environment (pinned dependencies, Horovod)

ops: $(OPS) ## build the native op library

data: $(DATA)/test/metadata.json ## write the demo data

# The lock changes with the packages that pyproject.toml asks for.
$(VENV)/.ready: $(wildcard locks/tensorflow-$(TENSORFLOW).txt) bootstrap.sh $(wildcard deploy/horovod/* deploy/horovod/patches/*)
	@./bootstrap.sh $(VENV) $(TENSORFLOW)
	@touch $@

# Where it cannot be made, the benchmark says so and goes without that peer.
$(TORCH_VENV)/.ready: benchmarks/training/torchrec_constraints.txt
	@benchmarks/training/torchrec_environment.sh $(TORCH_VENV) && touch $@ \
	  || echo "bench: $(TORCH_VENV) was not made: TorchRec is left out" >&2

$(OPS): $(VENV)/.ready $(OPS_SOURCES)
	@echo "building $@"
	@mkdir -p build && PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) setup.py -q build_ext --inplace >build/ops.log 2>&1 \
	  || { tail -n 40 build/ops.log >&2; echo "make: the op library did not build; the whole log is build/ops.log" >&2; exit 1; }
	@touch $@

$(DATA)/raw/generator.json: | $(OPS)
	@$(PY) -m dataset.synthetic --output $(DATA)/raw $(DEMO_DATA)

$(DATA)/train/metadata.json: $(DATA)/raw/generator.json
	@$(PY) split_bin.py $(DATA)/raw/train_data.bin $(DATA)/train

$(DATA)/test/metadata.json: $(DATA)/train/metadata.json
	@$(PY) split_bin.py $(DATA)/raw/test_data.bin $(DATA)/test

airgap: $(VENV)/.ready ## build a bundle for a GPU host without a network (FLAGS='--with test')
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m deploy.airgap.build $(FLAGS)

clean: ## remove what was built, the demo data and the runs (the environments stay)
	rm -rf build data/demo runs ops/*.so
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environments too
	rm -rf .venv .venv-tf* $(TORCH_VENV)
