# Every target makes only what it needs: a virtual environment in .venv with the package in it.
# `make` alone lists the targets.

PYTHON ?= $(shell command -v python3 || command -v python)
VENV := .venv
BIN := $(VENV)/bin
NOTORCH := .venv-notorch
INTEROP := .venv-interop
PIP := -m pip --disable-pip-version-check --quiet

# Tests with real scans and recorded results look for them beside the checkout, and skip where there
# are none.
ifneq ($(wildcard ../shared/.),)
export PTYCHO_TORCH_DATA ?= $(abspath ../shared)
endif

# Pins start at Python 3.11; Python 3.10 gets the newest versions that still support it.
PINS = $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

# What the package needs without torch and its family, and the test tools.
NOTORCH_DEPENDENCIES := numpy scipy pyyaml h5py filelock tqdm matplotlib pytest hypothesis

DEMO_SCAN := datasets/demo.npz
REAL_SCAN := datasets/siemens_star.npz

# judge FOLDER, FIGURE, RELATION, BOUND: fail when a figure of the fit's metrics.json is out of bounds.
# A flat object scores 0 in the demo's, 0.25 in the star's.
judge = $(BIN)/python -c 'import json, sys; value = json.load(open("$(1)/metrics.json"))["$(2)"]; \
	sys.exit(None if value $(3) $(4) else f"$(1): $(2) is {value:.4f}; expected $(3) $(4)")'

# What comes before the command ptycho-torch in a shell.
activate = echo 'next: . $(BIN)/activate && ptycho-torch --help'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo real test test-fast test-notorch interop lint types stairs check dist bench campaign docs clean

help:
	@echo 'make install       the package and its tools, in .venv'
	@echo 'make demo          simulate a scan, reconstruct it: outputs/demo/reconstruction.png'
	@echo 'make real          download a measured scan (Siemens star), reconstruct it: outputs/siemens_star/'
	@echo 'make test          every test'
	@echo 'make test-fast     the tests not marked slow: under a minute on two cores'
	@echo 'make test-notorch  the tests that need no torch, in an environment without torch (.venv-notorch)'
	@echo 'make interop       Ptychodus, in an environment of its own (.venv-interop), trains and reconstructs'
	@echo 'make check         formatting, lint, types, import stairs, make test, make test-notorch'
	@echo 'make dist          wheel and source distribution in dist/, installed and used in fresh environments'
	@echo 'make bench         benchmarks'
	@echo 'make campaign      faults on purpose: kills, races, damage, hostile files; about half an hour'
	@echo 'make docs          the documentation: docs/_build/html/index.html'
	@echo 'make clean         remove environments, outputs, simulated and downloaded scans'

# The stamp comes last, so that make takes up an interrupted installation again.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt ptycho_torch/__init__.py
	@test -n '$(PYTHON)' || { echo 'no python3 on PATH; name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo '$(PYTHON) is older than 3.10; name another: make PYTHON=/path/to/python3' >&2; exit 1; }
	@echo 'installing into $(VENV) (torch is large: minutes on a first run)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install $(PINS) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python $(PIP) install $(PINS) -e '.[docs]'
	@touch $@

$(NOTORCH)/.installed: setup.cfg pyproject.toml constraints.txt ptycho_torch/__init__.py
	$(PYTHON) -m venv $(NOTORCH)
	$(NOTORCH)/bin/python $(PIP) install $(PINS) $(NOTORCH_DEPENDENCIES)
	$(NOTORCH)/bin/python $(PIP) install --no-deps -e .
	@! $(NOTORCH)/bin/python -c 'import torch' 2>/dev/null \
		|| { echo '$(NOTORCH) can import torch: remove it and try again' >&2; exit 1; }
	@touch $@

# Without the pins: Ptychodus brings versions of its own.
$(INTEROP)/.installed: setup.cfg pyproject.toml ptycho_torch/__init__.py
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python $(PIP) install -e . pytest ptychodus==1.7.0
	@touch $@

install: $(VENV)/.installed
	@$(if $(filter install,$(MAKECMDGOALS)),$(activate),:)

demo: install
	@test -f $(DEMO_SCAN) || $(BIN)/ptycho-torch simulate $(DEMO_SCAN) --frames 1156 --size 64 \
		--pattern jittered_raster --photons 1e5 --seed 0
	$(BIN)/ptycho-torch prepare $(DEMO_SCAN)
	$(BIN)/ptycho-torch fit --config configs/demo.yaml
	@$(call judge,outputs/demo,centred_correlation,>=,0.98)
	@$(activate)

real: install
	$(BIN)/python datasets/fetch_siemens_star.py $(REAL_SCAN)
	$(BIN)/ptycho-torch fit --config configs/siemens_star.yaml
	@$(call judge,outputs/siemens_star,fourier_error,<=,0.115)

test: install
	$(BIN)/python -m pytest

test-fast: install
	$(BIN)/python -m pytest -m 'not slow'

test-notorch: $(NOTORCH)/.installed
	$(NOTORCH)/bin/python -m pytest -p no:cacheprovider

interop: $(INTEROP)/.installed
	$(INTEROP)/bin/python -m pytest -rPs -p no:cacheprovider tests/interop

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

stairs: install
	$(BIN)/lint-imports

check: lint types stairs test test-notorch

dist:
	$(PYTHON) tests/release/check_dist.py --out dist

bench: install
	$(BIN)/python -m benchmarks

campaign: install
	$(BIN)/python -m tests.torch.campaign

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/contract_page.py
	$(BIN)/python docs/architecture.py
	$(BIN)/python docs/convention_drawings.py
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

clean:
	rm -rf $(VENV) $(NOTORCH) $(INTEROP) outputs lightning_logs docs/_build build dist ptycho_torch.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache datasets/download
	rm -f datasets/*.npz datasets/*.lock
	find ptycho_torch tests benchmarks datasets docs -name __pycache__ -type d -prune -exec rm -rf {} +
