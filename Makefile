# make help
#
# Everything is made in .venv (a real install of this tree, never an editable one) and in build/.
# Stamps in .venv say what is up to date, so that a second call is quick.

PYTHON ?= python3
CC ?= cc
VENV ?= .venv
NATIVE ?= build/native
# More arguments: make run BENCH="--count 10000", make test PYTEST="-k fifo -x". Without any, the set-up
# and the measuring of a first `make run` end within two minutes.
BENCH ?=
PYTEST ?=
# Tests wait more than they compute: one more process than there are CPUs.
WORKERS ?= $(shell expr $$(nproc) + 1)
FUZZ_S ?= 60

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet install
SOURCES := meson.build meson.options pyproject.toml LICENSE README.md benchmarks/floor/meson.build \
  $(shell find src native -type f -not -name '*.so' -not -name '*.pyc' -not -path 'native/tests/*' \
    -not -path 'native/models/*')

.DEFAULT_GOAL := help
.PHONY: help run test test-native test-sanitizers lint format bench profile soak fuzz docs develop clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/installed ## set up, and measure every transport side by side: naru bench
	$(BIN)/naru bench $(or $(BENCH),--budget 30)

test: test-native test-sanitizers $(VENV)/installed $(VENV)/extras ## every test: C, sanitizers, Python
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

test-native: $(NATIVE)/build.ninja ## the C tests, and the model of the ring when spin is installed
	$(BIN)/meson test -C $(NATIVE) --suite native --print-errorlogs

test-sanitizers: ## the C tests under ASan, UBSan and TSan
	native/tests/sanitize.sh $(CC)

lint: $(VENV)/installed $(VENV)/extras ## ruff and mypy
	$(BIN)/ruff check --output-format concise .
	$(BIN)/mypy

format: $(VENV)/extras ## ruff format
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/installed $(VENV)/peers ## naru, the C floor and the peers in one run; a free machine
	$(BIN)/python benchmarks/import_time.py --json benchmarks/results/import-time.json
	$(BIN)/python benchmarks/messages.py $(BENCH)
	$(BIN)/python benchmarks/choice.py

profile: $(VENV)/installed ## the profile that is shipped, and its chart; a free machine
	$(BIN)/naru probe --file src/naru/choosing/shipped.json
	sed -i 's/"shipped": false/"shipped": true/' src/naru/choosing/shipped.json
	$(BIN)/naru probe --show --file src/naru/choosing/shipped.json --plot docs/choosing.svg

soak: $(VENV)/installed $(VENV)/extras ## the long tests: half an hour
	native/tests/soak.sh
	NARU_SOAK_EXAMPLES=2500 $(BIN)/python -m pytest tests/processes/test_proxy.py -k every_byte
	NARU_SOAK=1 NARU_SOAK_COMMANDS=100000 NARU_SOAK_STREAMS=20000 $(BIN)/python -m pytest \
	  $(wildcard tests/faults/test_5*_cache*.py) tests/faults/test_60_linearizability.py \
	  $(addprefix tests/processes/test_cache_,kill_rounds.py server_crowds.py server_like_redis.py server_mutated.py)

fuzz: $(VENV)/installed ## libFuzzer (clang) and atheris on what reads untrusted bytes, FUZZ_S seconds each
	native/tests/fuzz.sh $(FUZZ_S)
	$(BIN)/python tests/fuzz/fuzz_resp.py $(FUZZ_S) || [ $$? -eq 77 ]

docs: $(VENV)/installed ## the tables of README.md and docs/ anew, from the code and the results
	$(BIN)/python docs/tables.py

develop: $(VENV)-dev/installed ## an editable install in .venv-dev: import rebuilds what changed

clean: ## remove all that make made
	rm -rf $(VENV) $(VENV)-dev build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f src/naru/_native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- stamps ----

%/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'naru needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $* || { \
	  echo 'cannot make a virtual environment: apt-get install python3-venv' >&2; exit 1; }
	@touch $@

$(VENV)/installed: $(VENV)/made $(SOURCES)
	$(PIP) .
	@touch $@

# The requirements of an extra alone: `pip install .[test]` would build naru once more.
$(VENV)/extras: $(VENV)/made pyproject.toml
	@$(BIN)/python -c 'import tomllib; \
	  extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	  print("\n".join(extras["test"] + extras["lint"] + extras["build"]))' > $@.txt
	$(PIP) -r $@.txt
	@touch $@

# One by one: a peer that cannot be had is reported as missing by the benchmark, the others run.
$(VENV)/peers: $(VENV)/made benchmarks/requirements.txt
	@grep -v '^#' benchmarks/requirements.txt | while read -r peer; do \
	  $(PIP) "$$peer" || echo "not installed: $$peer" >&2; done
	@touch $@

$(VENV)-dev/installed: $(VENV)-dev/made pyproject.toml
	$(VENV)-dev/bin/pip --disable-pip-version-check --quiet install meson-python 'cython>=3.1,<4' ninja
	$(VENV)-dev/bin/pip --disable-pip-version-check --quiet install --no-build-isolation -e '.[test,lint]'
	@touch $@

$(NATIVE)/build.ninja: $(VENV)/extras
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/meson setup $(if $(wildcard $(NATIVE)/build.ninja),--reconfigure) -Dtests=true $(NATIVE)
