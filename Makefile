PYTHON ?= python3
, := ,
BIN := .venv/bin
QUESTION := "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. How many apples does Mia have?"

# PyPI's torch for Linux brings gigabytes of CUDA. Without an NVIDIA GPU the index of CPU builds is asked too, whose 2.13.0+cpu
# counts as newer than PyPI's 2.13.0. TORCH_INDEX=URL asks another one, TORCH_INDEX= PyPI alone.
CPU_INDEX := https://download.pytorch.org/whl/cpu
NO_GPU := $(if $(filter Linux,$(shell uname -s)),$(shell nvidia-smi -L >/dev/null 2>&1 || echo yes))
TORCH_INDEX ?= $(if $(NO_GPU),$(CPU_INDEX))
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test browser lint check bench gpu-hour bench-gpu sanitize-gpu speed load refresh redundancy slow clean

# Environments are made once, and again when pyproject.toml or constraints.txt changes: what `unmask` itself needs (1.2 GB, a
# minute or two), and all extras with the tools of development (3.5 GB, some minutes more).
.venv/demo: pyproject.toml constraints.txt
	@echo "making .venv: 1.2 GB, a minute or two"
	@echo "torch: $(if $(TORCH_INDEX),$(if $(NO_GPU),no NVIDIA GPU here$(,) so )PyPI and $(TORCH_INDEX),from PyPI)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --retries 2 )torch
	$(PIP) --editable .
	touch $@

.venv/installed: .venv/demo
	@echo "installing all extras: 2.3 GB more, some minutes"
	$(PIP) --editable '.[dev,train,gym,eval,serve,scale,quant]'
	touch $@

demo: .venv/demo
	$(BIN)/unmask compare $(QUESTION)
	$(BIN)/unmask compare $(QUESTION) --model unmask-tiny-block

test: .venv/installed browser
	$(BIN)/python -m pytest

# The pages of `unmask view` and `unmask serve` are tested in a real browser. If it is missing and cannot be installed,
# those tests fail and say so; `.venv/bin/python -m pytest -m 'not slow and not browser'` leaves them out.
browser:
	@command -v chromedriver >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing chromium for the tests of the pages"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium chromium-driver >/dev/null; \
	fi || true

slow: .venv/installed
	$(BIN)/python -m pytest -m slow

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

# Everything that `unmask bench` measures, saved under today's date: a few minutes on an idle machine.
bench: .venv/installed
	$(BIN)/unmask bench --device cpu -o benchmarks/results/$$(date +%F)-bench-cpu.json

# The first hour on a rented GPU, without a .venv and without a network: torch, transformers and triton are enough, what needs
# more is skipped by name. Parts of at most ten minutes each, one document under benchmarks/results.
gpu-hour:
	$(PYTHON) -m benchmarks.gpu_hour

# Its parts: everything that `unmask bench` measures; and our kernels under NVIDIA's checkers: memory out of bounds, races, and
# reads of uninitialised memory.
bench-gpu:
	$(PYTHON) -m benchmarks.gpu_hour bench -o benchmarks/results/$$(date +%F)-gpu-bench.json

sanitize-gpu:
	$(PYTHON) -m benchmarks.gpu_hour sanitize -o benchmarks/results/$$(date +%F)-gpu-sanitize.json

# docs/speed.md and its picture, from the dated documents.
speed: .venv/installed
	$(BIN)/unmask bench --compare benchmarks/results -o docs/speed.md

# `unmask serve` under 64 clients for two minutes, against one client; every answer is checked.
load: .venv/installed
	$(BIN)/python benchmarks/load.py --clients 64 --seconds 120 -o benchmarks/results/$$(date +%F)-serve-cpu.json

# What cheaper refreshes save, and what they cost in accuracy.
refresh: .venv/installed
	$(BIN)/python benchmarks/refresh.py

# Collect, tune four ways, measure: an hour or two on two cores; the same command resumes a stopped run.
redundancy: .venv/installed
	$(BIN)/python benchmarks/redundancy.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
