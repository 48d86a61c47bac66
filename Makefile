# Each target first makes what it needs: environment, op library, demo data.
#
#   NP=4 make train           train with four ranks on this machine
#   MODEL=dcnv2 make train    train DCNv2 with multi-hot features on other demo data
#   make report               write runs/latest/report.html
#   PYTHON=python3.10 make …  interpreter for a new environment
#   TENSORFLOW=2.15.1 make …  another TensorFlow of locks/matrix.txt, in a separate environment
#   DEVICE=cpu make …         TensorFlow without CUDA, even on a machine with a GPU
#   DLRM_NVCC=pip make …      nvcc of pip's packages for the CUDA kernels, or the path of another
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

NP ?= 1
# Parallel tests. Starting TensorFlow and tracing, most of a test, use one core.
WORKERS ?= 2
DEFAULT := $(shell awk '!/^\#/ && $$NF == "default" {print $$1}' locks/matrix.txt)
TENSORFLOW ?= $(DEFAULT)
VENV ?= $(if $(filter $(DEFAULT),$(TENSORFLOW)),.venv,.venv-tf$(TENSORFLOW))
MODEL ?= dlrm
ifeq ($(filter dlrm dcnv2,$(MODEL)),)
$(error MODEL: expected dlrm or dcnv2, found "$(MODEL)")
endif
DEMO := $(if $(filter dcnv2,$(MODEL)),demo-dcnv2,demo)
DATA ?= data/$(DEMO)
DEMO_DATA := --train_samples 1500000 --test_samples 200000$(if $(filter dcnv2,$(MODEL)), --labels crossed)
PY := $(VENV)/bin/python
# Not empty if the environment is for another device than DEVICE, which bootstrap.sh reports.
OTHER_DEVICE := $(if $(DEVICE),$(filter-out $(DEVICE),$(shell cat $(VENV)/.device 2>/dev/null)))
OPS := ops/libdlrm_ops-tf$(shell echo $(TENSORFLOW) | cut -d. -f1,2).so
SHELL_SCRIPTS = .ci/run deploy/airgap/prepare $(shell find . \( -name '.venv*' -o -name build -o -name .git \) -prune -o \( -name '*.sh' -o -name '*.sbatch' \) -print)
CXX_SOURCES = $(shell find ops tests -type f \( -name '*.c' -o -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \) -print)
BENCHES := $(or $(BENCH),machine ops data hybrid training)
TORCH_VENV := .venv-torch
OPS_SOURCES := setup.py ops/CMakeLists.txt $(wildcard ops/*.cmake ops/*/*.cc ops/*/*.h ops/*/*.cu ops/*/*.cuh ops/*.h ops/*.cuh)

# How `make train` starts its ranks: one rank needs no launcher.
LAUNCH := $(if $(filter 1,$(NP)),,TF_CPP_MIN_LOG_LEVEL=2 $(VENV)/bin/horovodrun --gloo -np $(NP)) ./hvd_wrapper.sh $(PY)

.PHONY: help train report test bench sanitize matrix locks lint airgap clean distclean venv ops data force

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | \
	  awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

train: $(OPS) $(DATA)/test/metadata.json ## train the demo model (NP=4: four ranks; MODEL=dcnv2: DCNv2 with multi-hot features)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(LAUNCH) main.py --flagfile=configs/$(DEMO).flags --data_dir=$(DATA) $(FLAGS)

report: $(VENV)/.ready ## write an HTML report (RUNS="runs/A runs/B": of these runs; FLAGS='--png FOLDER': also pictures)
	@$(PY) -m training.report $(or $(RUNS),runs/latest) $(FLAGS)

test: $(OPS) lint ## run the tests (TIER=unit, ranks or e2e: one tier; TESTS=tests/...: some; TESTS='-m slow': the slow ones; WORKERS=1: serially)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m pytest -n $(WORKERS) $(or $(TESTS),-m 'not slow' $(if $(TIER),tests/$(TIER)))

bench: $(OPS) $(if $(filter training,$(BENCHES)),$(TORCH_VENV)/.ready) ## measure machine, ops, data, hybrid step, and training against other programs (BENCH=ops: one)
	@for name in $(BENCHES); do echo "== benchmarks.$$name"; \
	  PATH="$(abspath $(VENV))/bin:$$PATH" TF_CPP_MIN_LOG_LEVEL=2 $(PY) -m benchmarks.$$name || exit 1; done

sanitize: $(VENV)/.ready ## run the CPU kernels under the address and undefined-behaviour sanitizers
	@export PATH="$(abspath $(VENV))/bin:$$PATH"; \
	  cmake -S tests/native -B build/kernels-sanitized -DDLRM_SANITIZE=address,undefined >/dev/null \
	  && cmake --build build/kernels-sanitized --parallel >/dev/null \
	  && build/kernels-sanitized/kernels_test && build/kernels-sanitized/preprocessing_test

# Runs outside the environment, because each cell creates its own.
matrix: ## test the oldest and newest TensorFlow and Python in new environments (CELLS="2.15.1:3.11": these; FLAGS=--all: all)
	@$(or $(PYTHON),python3) -m deploy.matrix $(CELLS) $(FLAGS)

locks: ## resolve pyproject.toml's packages and write locks/ (FLAGS=--upgrade: newest versions; needs uv)
	@$(or $(PYTHON),python3) -m deploy.locks $(FLAGS)

lint: $(VENV)/.ready ## check style and types (ruff, shellcheck, clang-format, pyright)
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/shellcheck $(SHELL_SCRIPTS) \
	  && $(VENV)/bin/clang-format --dry-run --Werror $(CXX_SOURCES) \
	  && $(VENV)/bin/basedpyright --project . --pythonpath $(PY)

force:

venv: $(VENV)/.ready ## create the virtual environment (pinned packages, Horovod)

ops: $(OPS) ## build the native op library

data: $(DATA)/test/metadata.json ## write the demo data (MODEL=dcnv2: of DCNv2)

# pyproject.toml is no prerequisite: its packages change the lock.
$(VENV)/.ready: $(wildcard locks/tensorflow-$(TENSORFLOW).txt) bootstrap.sh $(wildcard deploy/horovod/*.* deploy/horovod/patches/*) $(if $(OTHER_DEVICE),force)
	@./bootstrap.sh $(VENV) $(TENSORFLOW)
	@touch $@

# Without this environment the benchmark omits TorchRec.
$(TORCH_VENV)/.ready: benchmarks/training/torchrec_constraints.txt
	@benchmarks/training/torchrec_environment.sh $(TORCH_VENV) && touch $@ \
	  || echo "bench: cannot create $(TORCH_VENV): TorchRec is omitted" >&2

$(OPS): $(VENV)/.ready $(OPS_SOURCES)
	@echo "building $@"
	@mkdir -p build && PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) setup.py -q build_ext --inplace >build/ops.log 2>&1 \
	  || { tail -n 40 build/ops.log >&2; echo "make: the op library did not build; see build/ops.log" >&2; exit 1; }
	@sed -n '/^ops: /p' build/ops.log
	@touch $@

$(DATA)/raw/generator.json: | $(OPS)
	@$(PY) -m dataset.synthetic --output $(DATA)/raw $(DEMO_DATA)

$(DATA)/train/metadata.json: $(DATA)/raw/generator.json
	@$(PY) split_bin.py $(DATA)/raw/train_data.bin $(DATA)/train

$(DATA)/test/metadata.json: $(DATA)/train/metadata.json
	@$(PY) split_bin.py $(DATA)/raw/test_data.bin $(DATA)/test

airgap: $(VENV)/.ready ## build a bundle for a GPU host without a network (FLAGS='--with test': with the tests' packages)
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m deploy.airgap.build $(FLAGS)

clean: ## remove builds, demo data and runs, but not the environments
	rm -rf build data/demo data/demo-dcnv2 runs ops/*.so
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## also remove the virtual environments
	rm -rf .venv .venv-tf* $(TORCH_VENV)
