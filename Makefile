# Needs make, git and Python >= 3.11; everything else is installed into .venv, at the versions in constraints.txt.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint constraints clean

demo: $(INSTALLED)  ## the whole way on a tiny model and a generated pool, offline
	$(BIN)/curate run pipelines/demo.yaml

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(JOBS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "curate needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

constraints: pins.in pyproject.toml  ## the newest versions that resolve together on every platform (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		-c pins.in --upgrade -q -o constraints.txt

clean:  ## everything that make has made; the store stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
