# Two commands on a fresh machine: `make up` shows a page through the tunnel, `make test` proves the rest.
# Everything they install lives in .venv and native/target.

PYTHON ?= python3
BIN := .venv/bin
DATA_DIR ?= .drtp
CARGO := cargo
CARGO_FLAGS := --manifest-path native/Cargo.toml --locked
RUST_SOURCES := $(shell find native -name '*.rs' -not -path '*/target/*' -not -path '*/fuzz/*' 2>/dev/null) native/Cargo.toml native/Cargo.lock \
  $(wildcard native/*/Cargo.toml)
export CARGO_TARGET_DIR := $(CURDIR)/native/target

# What rustc's stable compiler has of libFuzzer's instruments; for the host's own crates, not for build scripts.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
DRTP_FUZZ_SECONDS ?= 60
DRTP_EXPLORE_CASES ?= 20000
FUZZ_FOUND := .cache/fuzz

# Most of a test is waiting. Those that hold the product to seconds run one after the other, when nothing else does.
UNITS_AT_ONCE ?= 4
SCENARIOS_AT_ONCE ?= 2

.PHONY: up test check bench explore fuzz format lock clean install

up: install
	@$(BIN)/drtp up --data-dir $(DATA_DIR)

test: install
	$(CARGO) test $(CARGO_FLAGS) -p drtp-core
	PYTHON=$(CURDIR)/$(BIN)/python $(CARGO) test $(CARGO_FLAGS) -p drtp-fuzz
	@failed=0; \
	$(BIN)/pytest -n $(UNITS_AT_ONCE) tests/unit tests/contract || failed=1; \
	$(BIN)/pytest -n $(SCENARIOS_AT_ONCE) --dist worksteal -m "not alone" tests/scenario || failed=1; \
	$(BIN)/pytest -m alone tests/scenario || failed=1; \
	exit $$failed

check: install
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(CARGO) fmt --manifest-path native/Cargo.toml --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --all-targets -- -D warnings

bench: install
	$(BIN)/python -m bench
	$(BIN)/python -m bench.tunnel

# Two tenants send what the API's OpenAPI documents allow, and what they do not.
explore: install
	DRTP_EXPLORE_CASES=$(DRTP_EXPLORE_CASES) $(BIN)/pytest -s tests/unit/apiserver/test_exploration.py

# Each target for DRTP_FUZZ_SECONDS, guided by coverage; what it finds new stays in .cache/fuzz, a failing input beside it.
# Then the PROXY parser of Python judges all that was found of PROXY headers.
fuzz:
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build $(CARGO_FLAGS) --profile fuzz --target $(HOST) \
	  -p drtp-fuzz --features libfuzzer --bin drtp-fuzz
	@set -e; for target in frames proxy session snapshots talks; do \
	  mkdir -p $(FUZZ_FOUND)/$$target; \
	  echo "fuzzing $$target for $(DRTP_FUZZ_SECONDS) s" >&2; \
	  DRTP_FUZZ_TARGET=$$target $(CARGO_TARGET_DIR)/$(HOST)/fuzz/drtp-fuzz -max_total_time=$(DRTP_FUZZ_SECONDS) \
	    -print_final_stats=1 -verbosity=0 -artifact_prefix=$(FUZZ_FOUND)/failing-$$target- \
	    $(FUZZ_FOUND)/$$target native/fuzz/corpus/$$target; \
	done
	DRTP_FUZZ_FOUND=$(CURDIR)/$(FUZZ_FOUND)/proxy $(CARGO) test $(CARGO_FLAGS) -p drtp-fuzz --test differential

format:
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench
	$(CARGO) fmt --manifest-path native/Cargo.toml --all

# The lock names packages and hashes only: no registry host, so that any mirror serves.
lock: .venv/.requirements
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras \
	  --no-emit-index-url --no-emit-find-links --output-file requirements/all.txt requirements/all.in

clean:
	rm -rf .venv native/target build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

install: .venv/.installed

.venv/.requirements: requirements/all.txt tools/preflight
	@PYTHON=$(PYTHON) tools/preflight
	@echo "1 of 3: installing the locked requirements into .venv" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@tools/stage $(BIN)/pip install --disable-pip-version-check --require-hashes --progress-bar off -r requirements/all.txt
	@touch $@

.venv/.installed: .venv/.requirements pyproject.toml $(RUST_SOURCES)
	@echo "2 of 3: compiling the native core (up to 20 minutes the first time on a small machine)" >&2
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/stage $(BIN)/pip install --verbose --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@echo "3 of 3: compiling the Python modules" >&2
	@$(BIN)/python -m compileall -q src
	@touch $@
