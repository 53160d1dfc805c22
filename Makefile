# Sluice: `make campaign` runs the default campaign from nothing, `make test` tests it (`make test-long`: all of it, hours).
# All is installed into .venv; nothing is installed again while requirements.lock stays as it is.

PYTHON ?= python3
CONFIG ?= config/config.yaml
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
TORCH := $(shell grep '^torch==' requirements.lock)
CONFIGS := $(wildcard config/*.yaml config/campaigns/*.yaml)
SOURCES := workflow tests benchmarks docs config
ROOT := $(shell id -u | grep -x 0)

export PATH := $(CURDIR)/$(BIN):$(PATH)
ifeq ($(ROOT),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: campaign install programs slurm test test-cluster test-chaos test-long test-cluster-smoke lint dry-runs docs clean

campaign: install programs
	sluice run $(CONFIG)

install: $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	    { echo "Sluice needs Python 3.11 or 3.12: make PYTHON=python3.11 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3 -m venv failed: apt-get install python3-venv"; exit 1; }

# torch first: it is the largest, and what follows must not choose another one. The lock is complete (`pip check` sees
# to that); bytecode is made on all cores afterwards.
$(VENV)/installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) $(TORCH)
	$(PIP) --no-deps -r requirements.lock
	$(PIP) --no-deps -e .
	$(BIN)/python -m pip check --disable-pip-version-check
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # packages ship templates that are no Python
	@touch $@

# pw.x and its pseudopotentials; without root it says what is missing (so does `sluice doctor`).
programs: install
	@if command -v pw.x >/dev/null && command -v mpirun >/dev/null; then :; \
	elif [ "$(ROOT)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Quantum ESPRESSO"; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y quantum-espresso >/dev/null; \
	else \
	    echo "pw.x is missing: apt-get install quantum-espresso (as root), or conda install -c conda-forge qe"; \
	fi
	@sluice pseudos install

lint: install
	ruff check workflow tests benchmarks
	ruff format --check workflow tests benchmarks
	snakefmt --check Snakefile workflow/rules
	mypy workflow
	codespell $(SOURCES) README.md CHANGELOG.md Makefile Snakefile
	snakemake --lint

dry-runs: install
	@for config in $(CONFIGS); do \
	    echo "dry run of $$config"; \
	    snakemake --dry-run --quiet rules --configfile $$config >/dev/null || exit 1; \
	done

# Two files of tests at a time; PYTEST= for one after the other.
PYTEST ?= -n 2 --dist loadfile --no-loadscope-reorder
test: install programs
	@$(MAKE) --no-print-directory --jobs 2 lint dry-runs
	pytest $(PYTEST)

slurm:
	@export PATH=$$PATH:/usr/sbin; \
	if (command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged) >/dev/null && \
	    ! { command -v apt-get >/dev/null && [ -z "$$(find /usr/lib /usr/local/lib -name libpmix.so -print -quit)" ]; }; then :; \
	elif [ "$(ROOT)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing SLURM"; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	        slurmctld slurmd slurm-client munge libpmix-dev >/dev/null; \
	else \
	    echo "SLURM is missing: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge libpmix-dev"; \
	    exit 1; \
	fi

# A private SLURM under /tmp, the tests that break it, and its end. CLUSTER_TESTS='-m "not slow"' for the short ones.
test-cluster: install programs slurm
	SLUICE_TEST_CLUSTER=1 pytest --durations=0 tests/cluster $(CLUSTER_TESTS)

# The short selection: one test for each kind of fault that needs no time limit to run out.
test-cluster-smoke: install programs slurm
	SLUICE_TEST_CLUSTER=1 pytest --durations=0 tests/cluster -m smoke $(CLUSTER_TESTS)

# Random kills of a small campaign, resumed and compared with an undisturbed one; KILLS=200 takes an hour or more.
# ROUNDS=1 makes the campaign half as long. CHAOS=FOLDER keeps what happened there, and goes on with it if the test was stopped.
KILLS ?= 5
SEED ?= 67
test-chaos: install programs
	@folder=$(CHAOS); [ -n "$$folder" ] || folder=$$(mktemp -d /tmp/sluice-chaos.XXXXXX); \
	python tests/chaos/chaos.py $$folder --kills $(KILLS) --seed $(SEED) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PAGE),--page $(PAGE)) \
	    || { echo "see $$folder"; exit 1; }; \
	[ -n "$(CHAOS)" ] || rm -rf $$folder

# Hours: every test, all faults of the cluster, 200 kills, whose tally is a page of the documentation.
test-long: test
	pytest $(PYTEST) -m long
	$(MAKE) test-cluster
	$(MAKE) test-chaos KILLS=200 SEED=1 PAGE=docs/experiments/chaos.md

docs: install
	python -m sluice.config_docs

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis workflow/*.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -exec rm -rf {} +
