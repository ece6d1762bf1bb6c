PYTHON ?= python3
BIN := .venv/bin
QUESTION := "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. How many apples does Mia have?"

.PHONY: demo test browser lint check bench bench-gpu sanitize-gpu speed load refresh redundancy slow clean

# The environment is made once, and again when pyproject.toml or constraints.txt changes.
.venv/installed: pyproject.toml constraints.txt
	@echo "making .venv: a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train,gym,eval,serve,scale]'
	touch $@

demo: .venv/installed
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

# On a rented GPU without a .venv: needs torch and the dependencies of `import unmask`.
bench-gpu:
	PYTHONPATH=. $(PYTHON) -m unmask bench floors shapes growth profile decode --device cuda \
		-o benchmarks/results/$$(date +%F)-bench-gpu.json

# Our kernels under NVIDIA's checkers: memory out of bounds, races, and reads of uninitialised memory.
sanitize-gpu:
	for tool in memcheck racecheck initcheck; do \
		PYTHONPATH=. compute-sanitizer --tool $$tool --error-exitcode 1 $(PYTHON) -m pytest tests/kernels -k cuda || exit 1; \
	done

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
