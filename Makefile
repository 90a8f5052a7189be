# `make` lists the targets. Every target that needs the environment makes it first, and does so only once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo-output/tiny-hybrid

.DEFAULT_GOAL := help
.PHONY: help setup format check check-format check-lint check-types check-spelling check-sizes \
	test test-isa test-gpu ext-cuda-check triton-check tsan bench bench-start bench-sweeps tasks-check docs docs-check demo clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Create the environment and install everything (quick when it is there)

$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch 'setuptools>=77'
	@$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

format: setup ## Rewrite the sources in the project's format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

check: check-format check-lint check-types check-spelling check-sizes ## Check format, lint, types, spelling, file sizes; edits nothing

check-format: setup
	$(BIN)/ruff format --check .

check-lint: setup
	$(BIN)/ruff check .

check-types: setup
	$(BIN)/mypy

check-spelling: setup
	$(BIN)/codespell

check-sizes: setup
	$(BIN)/python scripts/check_file_sizes.py

test: setup ## Run the tests; needs no GPU and no network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/ops
	$(BIN)/python -m pytest tests/ops

test-isa: setup ## Run the tests of the native operators with the kernels for AVX2 and for any x86 (2 minutes)
	@for isa in avx2 baseline; do \
		echo "HYBRIDGEN_CPU_CAPABILITY=$$isa"; \
		HYBRIDGEN_CPU_CAPABILITY=$$isa $(BIN)/python -m pytest tests/ops/test_native_*.py \
			--deselect tests/ops/test_native_leaks.py -k "not compile" || exit 1; \
	done

tsan: setup ## Look for data races in the CPU operators with the thread sanitizer (Linux; some minutes)
	bash scripts/tsan_check.sh

test-gpu: ## Run the GPU tests and time the operations, on a machine with CUDA
	bash scripts/gpu_check.sh

ext-cuda-check: setup ## Compile the CUDA sources for all architectures and fail on register spills; needs nvcc, no GPU
	$(BIN)/python scripts/check_cuda_build.py

triton-check: setup ## Compile every variant of the Triton kernels and fail on register spills; needs no GPU (10 minutes)
	$(BIN)/python scripts/check_triton_build.py

bench: setup ## Measure the operators and whole models against their peers (about an hour; see also bench-start)
	$(BIN)/python scripts/bench_ops.py
	$(BIN)/python scripts/bench_model.py
	$(BIN)/python scripts/bench_selective.py
	$(BIN)/python scripts/bench_vision.py
	$(BIN)/python scripts/bench_linear_cross_entropy.py

bench-start: setup ## Measure the cold start, and building, saving and loading the 1.6 B Zonos hybrid
	$(BIN)/python scripts/bench_startup.py
	$(BIN)/python scripts/bench_build.py

bench-sweeps: setup ## Measure sweeps: a thousand costs, what a worker adds to a job, and Hydra's launchers beside ours
	$(BIN)/python scripts/bench_sweeps.py

tasks-check: setup ## Train models on every synthetic task: one that should solve it, and the MLP control (10 minutes)
	$(BIN)/python scripts/check_tasks.py

docs: setup ## Write the generated files (JSON Schema, pages of reference), and build the site of docs/ into site/
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python scripts/make_site.py

docs-check: setup ## Build the site and keep nothing: a broken link, a page without a place or any warning fails
	$(BIN)/python scripts/make_site.py --check

demo: setup ## Build a shipped configuration, save it, load it again and generate from it
	$(BIN)/hybridgen check configs/model/tiny-hybrid.yaml
	$(BIN)/hybridgen build configs/model/tiny-hybrid.yaml -o $(DEMO)
	$(BIN)/hybridgen show $(DEMO)/config.yaml
	$(BIN)/hybridgen generate $(DEMO) --prompt-ids "1 2 3" --max-new-tokens 16 --seed 0
	@echo && echo "The saved model lies in $(DEMO):" && ls -lh $(DEMO)

clean: ## Remove the environment and everything else that these targets made
	rm -rf $(VENV) demo-output site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
