# Everything that a bare machine needs: Python >= 3.11 with pip and venv, make, and apt on Debian.
# PYTHON chooses another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help lab chromium compiler test test-deep test-pythons lint bench clean

help:
	@echo "make lab    JupyterLab on the first tutorial"
	@echo "make test   everything that CI runs"
	@echo "make lint   ruff and mypy"
	@echo "make bench  the figures, beside the standard library's"

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onix_nb needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[lab,tutorials,test]'
	touch $@

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/01_first_flow.ipynb $(LAB_OPTIONS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The browser of tests/browser, from apt where there is none; without it there is no test run.
chromium:
	command -v chromium || { $(SUDO) apt-get update --quiet=2 && \
		$(SUDO) apt-get install --quiet=2 --yes --no-install-recommends chromium; }

# For the disk of tests/journal, which is a C library; without it those tests are skipped.
compiler:
	command -v cc || { $(SUDO) apt-get update --quiet=2 && \
		$(SUDO) apt-get install --quiet=2 --yes --no-install-recommends gcc libc6-dev; }

test: chromium compiler lint test-pythons
	$(BIN)/python -m pytest -m 'not deep' tests/benchmarks tests/browser

test-deep: chromium compiler $(STAMP)
	$(BIN)/python -m pytest

# All tests but those that measure or look at pages, and on the other Pythons that are installed those of behaviour.
test-pythons: $(STAMP)
	$(BIN)/python tests/pythons.py

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
