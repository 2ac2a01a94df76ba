# Needs make, git and Python >= 3.11; everything else is installed into .venv, at the versions in constraints.txt.
# --no-compile: the packages hold 400 MB of source, of which Python compiles what it imports.
PYTHON ?= python3
JOBS ?= 3
BIN := .venv/bin
INSTALLED := .venv/installed
DOCUMENTED := .venv/documented
AUDITOR := .venv/audit/bin/pip-audit
ADVISORIES := $(PYTHON) -c 'import urllib.request as r; r.urlopen("https://pypi.org/pypi/pip/24.0/json", timeout=20)'

.PHONY: demo test lint wheel docs screenshots audit constraints clean

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
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e ".[dev]" -c constraints.txt
	touch $@

wheel: docs  ## dist/*.whl with the documentation, installed and tried with no clone around
	$(BIN)/python -m build --no-isolation --outdir dist
	CURATE_WHEEL="$$(ls -t dist/*.whl | head -1)" $(BIN)/python -m pytest -q tests/project/test_wheel.py

docs: $(DOCUMENTED)  ## the documentation site, built strictly into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

screenshots: $(INSTALLED)  ## docs/assets/screenshots/, from the store of make demo (needs chromium and chromedriver)
	$(BIN)/python docs/screenshots.py

$(DOCUMENTED): $(INSTALLED)
	$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -e ".[docs]" -c constraints.txt
	touch $@

audit:  ## known holes in what constraints.txt names, where the advisories can be reached
	@if $(ADVISORIES) 2> /dev/null; then $(MAKE) -s $(AUDITOR) && \
		$(AUDITOR) -r constraints.txt --strict --no-deps --disable-pip --progress-spinner off; \
	else echo "audit: the advisories at pypi.org cannot be reached from here. Nothing was audited." >&2; fi

$(AUDITOR):
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install -q --disable-pip-version-check pip-audit

constraints: pins.in pyproject.toml  ## the newest versions that resolve together on every platform (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		-c pins.in --upgrade -q -o constraints.txt

clean:  ## everything that make has made; the store stays
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
