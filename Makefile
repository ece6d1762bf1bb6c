PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test browser lint check bench redundancy slow clean

# The environment is made once, and again when what it is made from changes.
.venv/installed: pyproject.toml constraints.txt
	@echo "making .venv: a minute or two"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,train,gym,eval,serve,scale]'
	touch $@

demo: .venv/installed
	$(BIN)/unmask compare "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. How many apples does Mia have?"

test: .venv/installed browser
	$(BIN)/python -m pytest

# The pages of `unmask view` and `unmask serve` are tested in a real browser. Where it is missing and cannot be installed,
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

bench: .venv/installed
	$(BIN)/unmask bench decode

# Collect, tune five ways, measure: an hour or two on two cores; goes on where it was stopped.
redundancy: .venv/installed
	$(BIN)/python benchmarks/redundancy.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
