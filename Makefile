# Two commands do everything on a fresh Debian 12: `make run` and `make test`. Both first do `make build`.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.built
SOURCES := pyproject.toml setup.py .ci/constraints.txt $(wildcard fastpath/*.pyx fastpath/*.pxd)

.PHONY: build run test lint bench docs clean

build: $(STAMP)

$(STAMP): $(SOURCES)
	@.ci/need build
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt setuptools cython
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt --no-build-isolation --editable '.[test]'
	@touch $@

run: build
	$(VENV)/bin/revocast quickstart --dir quickstart

test: build
	@.ci/need test
	$(MAKE) --no-print-directory lint
	$(VENV)/bin/python -m pytest

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: build
	$(VENV)/bin/python docs/generate.py

clean:
	rm -rf build $(VENV) quickstart fastpath/*.so
