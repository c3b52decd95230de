# `make run` and `make test` need Python 3.11 (or newer) and nothing else; every target sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export FLWR_TELEMETRY_ENABLED = 0
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo-deployment setup run test check bench soak docs quality clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[flower,dev]'
	touch $(READY)

run: $(READY)
	$(BIN)/recsys-fed simulate --output runs/latest

# A server and three silos as real processes on loopback, as docs/deployment.md has it.
demo-deployment: $(READY)
	$(BIN)/python -m recsys_fed.deployment.demo runs/deployment-$$(date +%Y%m%dT%H%M%S)

test: $(READY)
	$(BIN)/pytest -m 'not soak' --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house_rules.py

bench: $(READY)
	$(BIN)/python -m simulations.benchmarks

soak: $(READY)
	$(BIN)/pytest -m soak

docs: $(READY)
	$(BIN)/python -m simulations.results

# Everything of docs/quality.md: more than an hour on two idle processors; it goes on where it stopped.
quality: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]'
	$(BIN)/python -m simulations.quality

clean:
	rm -rf $(VENV) dist build runs
