# `make demo` installs what a run needs into $(VENV), which may be an environment of yours (VENV="$$CONDA_PREFIX");
# `make test`, `check` and the other targets of development add what they need.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Whether the packages for NVIDIA GPUs are installed too. auto: with a driver; 1: they must be; 0: they are not.
# The tests import them without a GPU, so that development has them on Linux unless it is 0. What was last asked for is
# remembered in $(VENV).
GPU ?= $(or $(shell cat $(VENV)/.gpu 2>/dev/null),auto)
READY := $(VENV)/.ready-$(GPU)
TOOLS := $(VENV)/.tools-$(GPU)
SITE := $(VENV)/.site-$(GPU)
# uv takes the torch that fits the machine, pip the one of the index; what cannot be had by uv is had by pip.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --no-compile $(shell test -t 2 || echo --quiet) \
  -c constraints.txt
# pip compiles on one core; what is of no Python 3 fails.
COMPILE = $(BIN)/python -m compileall -qq -j 0 `$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'` || true
WITHOUT = the GPU packages could not be installed (see above); going on without them. To try again: make setup GPU=1
UV = uv pip install --python $(BIN)/python --torch-backend=auto -c constraints.txt

# What gpupeak is measured beside has an environment of its own, which shows it all of $(VENV) as well.
PEERS := .venv-peers
# torchcodec comes without FFmpeg's shared libraries and PyAV with them, under names of its own: links in there
# give them back theirs. Where there are none, torchcodec is measured if the machine has FFmpeg, else left out.
SUITE = LD_LIBRARY_PATH="$(CURDIR)/$(PEERS)/ffmpeg$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" \
  $(PEERS)/bin/python bench/suite.py $(if $(PROFILE),--profile)

PYTEST = OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-browser check faults compat docs bench bench-quick clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Install gpupeak into .venv (PYTHON=python3.12, GPU=0 without GPU packages, GPU=1 with, VENV=DIR elsewhere)

demo: setup ## Extract features from a small corpus made on the spot, and show what came out
	@$(BIN)/gpupeak demo --out demo

test: $(TOOLS) ## Run the tests that take minutes in all, in three processes
	@$(PYTEST) -m 'not slow and not gpu'

test-all: $(TOOLS) $(SITE) ## Run the slow ones, too: Ray, stores, fuzzing, faults in small
	@$(PYTEST) -m 'not gpu'

test-browser: $(TOOLS) ## Try the report in a headless Chromium, which has to be there (apt-get install chromium)
	@$(BIN)/python -m pytest tests/browser/check_report.py

check: $(TOOLS) ## Check formatting (ruff format), style (ruff), layers (import-linter) and types (mypy)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache > /dev/null || $(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

faults: $(TOOLS) ## Cause faults, hours of them, and count what is lost: tests/faults/run.py
	@$(BIN)/python tests/faults/run.py

compat: $(TOOLS) ## Try the lowest and the newest supported versions, in fresh environments
	@$(BIN)/python tests/compat.py --out bench/results/compat.json

docs: $(SITE) ## Build the documents and the Python reference as a site, in both languages: build/site/index.html
	@$(BIN)/python docs/build_site.py
	@echo "Open it: build/site/index.html"

bench: $(PEERS)/.ready ## Measure gpupeak beside what its users would run instead, in 15 minutes (PROFILE=1: with a trace)
	@$(SUITE)

bench-quick: $(PEERS)/.ready ## The same in small, in 3 minutes
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
	@rm -f $(VENV)/.ready-* $(VENV)/.tools-* $(VENV)/.site-*
	@packages=report; \
	driver() { $(PYTHON) -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2> /dev/null || test -e /proc/driver/nvidia; }; \
	if test '$(GPU)' = 1 || { test '$(GPU)' = auto && driver; }; then packages=gpu,report; fi; \
	echo "Installing gpupeak[$$packages] into $(VENV): on Linux up to 3 GB to fetch and 6 GB on disk, nearly all of it torch."; \
	echo "It runs on Linux. On macOS all but a GPU's line should; Windows needs WSL."; \
	{ command -v uv > /dev/null && $(UV) -e ".[$$packages]"; } || $(PIP) -e ".[$$packages]" || { \
	  test "$$packages" != report -a '$(GPU)' != 1 && echo "make: $(WITHOUT)" >&2 && $(PIP) -e '.[report]'; }
	@$(COMPILE)
	@echo '$(GPU)' > $(VENV)/.gpu
	@touch $@

$(TOOLS): $(READY)
	@packages=dev; case "$(GPU) `uname -s`" in 1\ *|auto\ Linux) packages=dev,gpu ;; esac; \
	echo "Adding what development needs, gpupeak[$$packages]: up to 2 GB more on disk."; \
	$(PIP) -e ".[$$packages]" || { \
	  test "$$packages" != dev -a '$(GPU)' != 1 && echo "make: $(WITHOUT)" >&2 && $(PIP) -e '.[dev]'; }
	@$(COMPILE)
	@touch $@

$(SITE): $(READY)
	@echo "Adding what the site is made with, gpupeak[docs]: about 160 MB on disk."
	@$(PIP) -e '.[docs]'
	@touch $@

$(PEERS)/.ready: bench/peers/requirements.txt constraints.txt $(TOOLS)
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
