# `make demo` and `make test` do everything themselves: the first one of them sets up $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Whether the packages for NVIDIA GPUs are installed too. auto: where they can be, spoken if not;
# 1: they must be; 0: they are not. What was last asked for is remembered in $(VENV).
GPU ?= $(or $(shell cat $(VENV)/.gpu 2>/dev/null),auto)
READY := $(VENV)/.ready-$(GPU)

# What gpupeak is measured beside has an environment of its own, which shows it all of $(VENV) as well.
PEERS := .venv-peers
# torchcodec comes without FFmpeg's shared libraries and PyAV with them, under names of its own: links in there
# give them back theirs. Where there are none, torchcodec is measured if the machine has FFmpeg, else left out.
SUITE = LD_LIBRARY_PATH="$(CURDIR)/$(PEERS)/ffmpeg$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" \
  $(PEERS)/bin/python bench/suite.py $(if $(PROFILE),--profile)

PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-browser check faults compat bench bench-quick clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv and install gpupeak into it (PYTHON=python3.12, GPU=0 without GPU packages, GPU=1 with)

demo: setup ## Extract features from a small corpus made on the spot, and show what came out
	@$(BIN)/gpupeak demo --out demo

test: setup ## Run the tests that take minutes in all, in three processes
	@$(PYTEST) -m 'not slow and not gpu'

test-all: setup ## Run the slow ones, too: Ray, stores, fuzzing, faults in small
	@$(PYTEST) -m 'not gpu'

test-browser: setup ## Try the report in a headless Chromium, which has to be there (apt-get install chromium)
	@$(BIN)/python -m pytest tests/browser/check_report.py

check: setup ## Check formatting (ruff format), style (ruff), layers (import-linter) and types (mypy)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

faults: setup ## Cause faults, hours of them, and count what is lost: tests/faults/run.py
	@$(BIN)/python tests/faults/run.py

compat: setup ## Try the lowest and the newest supported versions, in fresh environments
	@$(BIN)/python tests/compat.py --out bench/results/compat.json

bench: setup $(PEERS)/.ready ## Measure gpupeak beside what its users would run instead, in 15 minutes (PROFILE=1: with a trace)
	@$(SUITE)

bench-quick: setup $(PEERS)/.ready ## The same in small, in 3 minutes
	@$(SUITE) --quick

clean: ## Remove what the other targets leave behind, all but .venv and .venv-peers
	rm -rf build dist demo ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find bench gpupeak kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@case '$(GPU)' in auto|0|1) ;; *) echo "make: GPU is '$(GPU)', expected auto, 0 or 1" >&2; exit 2 ;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "make: gpupeak needs Python 3.10 or newer, $(PYTHON) is: `$(PYTHON) --version 2>&1 | head -n 1`." \
	    "Name another: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.ready-*
	@install() { \
	  echo "Installing gpupeak $$1 into $(VENV): $$2, some minutes the first time."; \
	  $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c constraints.txt -e ".[$$3]"; \
	}; \
	with() { install 'with the GPU packages' 'about 7 GB' gpu,dev; }; \
	without() { install 'without the GPU packages' 'about 6 GB on Linux' dev; }; \
	case "$(GPU) `uname -s -m`" in \
	  1\ *) with ;; \
	  0\ *) without ;; \
	  auto\ Linux\ x86_64|auto\ Linux\ aarch64) with || { \
	    echo "make: the GPU packages could not be installed (see above); going on without them, on the CPU only." \
	      "To try again: make setup GPU=1" >&2; without; } ;; \
	  *) echo "make: no GPU packages exist for `uname -s -m`; going on without them, on the CPU only."; without ;; \
	esac
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip does it on one core; what is of no Python 3 fails
	@echo '$(GPU)' > $(VENV)/.gpu
	@touch $@

$(PEERS)/.ready: bench/peers/requirements.txt constraints.txt $(READY)
	@echo "Installing what gpupeak is measured beside into $(PEERS): about 250 MB."
	@rm -rf $(PEERS)
	@$(BIN)/python -m venv $(PEERS)
	@packages() { "$$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }; \
	ours=`packages $(BIN)/python`; \
	echo "import site; site.addsitedir('$$ours')" > "`packages $(PEERS)/bin/python`/gpupeak-venv.pth"; \
	mkdir $(PEERS)/ffmpeg; \
	for library in "$$ours"/av.libs/libav*.so.* "$$ours"/av.libs/libsw*.so.*; do \
	  test -e "$$library" || continue; \
	  name=`basename "$$library"`; version=$${name#*.so.}; \
	  ln -s "$$library" "$(PEERS)/ffmpeg/$${name%%-*}.so.$${version%%.*}"; \
	done
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -r bench/peers/requirements.txt
	@touch $@
