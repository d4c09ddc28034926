# `make demo` and `make test` do all the set-up themselves; both are quick to repeat.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test fast check chaos fuzz audit bench gpu-check wheel site clean

demo: $(STAMP)
	$(BIN)/clipsweep run specs/quickstart.yaml
	$(BIN)/clipsweep report runs/quickstart
	$(BIN)/clipsweep plot runs/quickstart smoothness
	$(BIN)/clipsweep plot runs/quickstart loss

test: $(STAMP)
	$(BIN)/python tests/two_processes.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "clipsweep needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[run,images,cluster,dev]'
	touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml -r sweeper trainers estimators benchmarks docs/tutorial

fast: $(STAMP)
	$(BIN)/python -m pytest -q -m "not ray and not slow"

chaos: $(STAMP)
	$(BIN)/python -m pytest -q -m "chaos or slow" tests

# A minute for each reader of files; without atheris, which is made for some Pythons only, with Hypothesis.
SECONDS ?= 60
fuzz: $(STAMP)
	-$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python tests/corpora/fuzz.py --seconds $(SECONDS)

# Asks a service for known vulnerabilities of what is installed, so it works online only.
audit: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[audit]'
	$(BIN)/pip-audit --skip-editable

bench: $(STAMP)
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/efficiency.py
	$(BIN)/python benchmarks/theory.py
	$(BIN)/python benchmarks/estimators.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/monitor.py
	$(BIN)/python benchmarks/page.py

# On a machine with a GPU: does everything run there, and is it what a CPU gives?
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --only A

wheel: $(STAMP)
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

# The manual as a site, in build/site; a link that leads nowhere fails it.
site: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf .venv build dist *.egg-info
