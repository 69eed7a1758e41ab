# make demo   everything from raw media to an emotion report, in minutes
# make test   the tests, two files at a time (FAST=1: the quick ones; JOBS=4: four at a time;
#             PYTEST='-k masks': a few)
# make lint   ruff and mypy
# make lowest the quick demo and tests with the oldest libraries that are allowed (.venv-lowest)
# make ci     what continuous integration runs: tests, then lint
# make clean  remove the virtual environment and caches (never demo/ or runs/)
#
# Each does its own set-up in .venv. Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
# Processes that run tests, each a file at a time. Many tests start processes of their own: on two
# cores and beside other work three took 31 minutes, and a cluster's deadline passed, two 23; since
# they fork what they start, two take 13 to 19 on quiet cores, and FAST=1 under three.
JOBS ?= 2
VENV := .venv
READY := $(VENV)/.ready-for-pyproject

.PHONY: demo test lint lowest ci clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(READY)
	$(VENV)/bin/hicmae demo $(DEMO)

test: $(READY)
	@# Once for all processes, also where Python is told not to keep what it has compiled.
	@$(VENV)/bin/python -m compileall -q hicmae shards pretrain finetune tests || true
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python -m pytest -n $(JOBS) \
		--dist loadfile --no-loadscope-reorder \
		$(if $(FAST),-m 'not slow') $(PYTEST)

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/python -m uv pip install --quiet --python .venv-lowest/bin/python \
		--resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/hicmae demo --quick --overwrite --out .venv-lowest/demo
	.venv-lowest/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m 'not slow' $(PYTEST)

ci:
	.ci/run

clean:
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or newer, or give PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1), 3.11 or newer is needed; give PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	@# pip compiles its 17,600 files on one core; what no Python 3 can compile, nobody imports.
	@$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@
