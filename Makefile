# Two commands do everything on a fresh Debian 12: `make run` and `make test`. Both first do `make build`.

PYTHON ?= python3
VENV := .venv
# Two processes share the tests, file by file, the long ones first, which come first by name too. The many Python processes that
# tests start are to find compiled files, even where the environment says that none are written.
TESTS := PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.built
SOURCES := pyproject.toml setup.py .ci/constraints.txt $(wildcard fastpath/*.pyx fastpath/*.pxd responder/*/*.pyx)

.PHONY: build run test test-sanitized lint docs bench clean

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
	$(TESTS)

lint: build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The extensions under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy, over vectors, corpus and mutations.
test-sanitized: build
	rm -rf build/sanitized && mkdir -p build/sanitized
	cp -r setup.py pyproject.toml README.md fastpath responder loaders tests docs build/sanitized/
	rm -f build/sanitized/fastpath/*.so build/sanitized/responder/*/*.so
	cd build/sanitized && REVOCAST_SANITIZE=1 ../../$(VENV)/bin/python setup.py -q build_ext --inplace
	cd build/sanitized && LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		../../$(VENV)/bin/python -m pytest -q -p no:cacheprovider tests/fuzz tests/unit/test_ocsp_request.py \
		tests/unit/test_http_target.py tests/unit/test_ocsp_response.py tests/unit/test_request_differential.py \
		tests/unit/test_answer_table.py tests/unit/test_express.py tests/unit/test_express_sockets.py \
		tests/unit/test_crl_entries.py tests/unit/test_crl_reader.py

docs: build
	$(VENV)/bin/python docs/generate.py
	$(VENV)/bin/python -m bench.serve.report

# Half an hour on two quiet cores; nothing else may run meanwhile. Writes bench/results/ and docs/performance.md.
bench: build
	@.ci/need bench
	$(VENV)/bin/python -m bench.serve
	$(VENV)/bin/python -m bench.answer_table --json bench/results/answer_table.json
	$(VENV)/bin/python -m bench.revocation_lag --json bench/results/revocation_lag.json
	$(VENV)/bin/python -m bench.hsm --million --json bench/results/hsm.json
	$(VENV)/bin/python -m bench.audit --json bench/results/audit.json
	$(VENV)/bin/python -m bench.crl --json bench/results/crl.json
	$(VENV)/bin/python -m bench.crl --entries 10000000 --rounds 5 --alone --beside 1000000 --json bench/results/crl.json
	$(VENV)/bin/python -m bench.isolation --json bench/results/isolation.json
	$(VENV)/bin/python -m bench.load --json bench/results/load.json
	$(VENV)/bin/python -m bench.loaders --large 10000000 --json bench/results/loaders.json
	$(VENV)/bin/python -m bench.crl_load --json bench/results/crl_load.json
	$(VENV)/bin/python -m bench.crl_serve
	$(VENV)/bin/python -m bench.serve.report

clean:
	rm -rf build $(VENV) quickstart fastpath/*.so responder/*/*.so
