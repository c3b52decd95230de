# `make run` and `make test` need Python 3.11 (or newer) and nothing else; every target sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export FLWR_TELEMETRY_ENABLED = 0
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo-deployment setup run test test-fast test-gpu coverage mutants check package bench newcomer soak docs docs-site quality clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[flower,dev,docs,package]'
	touch $(READY)

run: $(READY)
	$(BIN)/recsys-fed simulate --output runs/latest

# A server and three silos as real processes on loopback, as docs/deployment.md has it.
demo-deployment: $(READY)
	$(BIN)/python -m recsys_fed.deployment.demo runs/deployment-$$(date +%Y%m%dT%H%M%S)

# One worker more than processors, as some tests wait for processes and clocks; at most 5, for the memory.
WORKERS = $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 5 ))
TESTS = $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

test: $(READY)
	$(TESTS) -m 'not soak'

# A part that touches every package in under 90 seconds on two idle processors.
test-fast: $(READY)
	$(TESTS) -m 'not soak and not slow'

# On a machine with a GPU: its tests, and a page of figures in bench-results/gpu.md, in under ten minutes.
test-gpu: $(READY)
	$(BIN)/pytest tests/gpu
	$(BIN)/python -m simulations.benchmarks.on_gpu

# The same tests as `make test`, with the coverage of branches; `fail_under` in pyproject.toml is its floor, once it is measured.
coverage: $(READY)
	$(TESTS) -m 'not soak' --cov --cov-report=term

# Mutants of privacy/ and ledger/, tried against their own tests: hours for all, `SHARE=0.2` for a sample. Goes on where
# it stopped; see docs/mutants.md.
SHARE = 1
mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation_score.py --share $(SHARE) --jobs $$(nproc)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house_rules.py

# What is handed out, in dist/: wheel and sdist, checked; and for each extra the versions of constraints.txt with the
# hashes of their files (pip install --require-hashes -r dist/requirements-serving.txt), and what they are as CycloneDX.
package: $(READY)
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	for extra in serving train; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --constraint constraints.txt --extra $$extra pyproject.toml --output-file dist/requirements-$$extra.txt && \
	  $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/sbom-$$extra.json dist/requirements-$$extra.txt || exit 1; done

bench: $(READY)
	$(BIN)/python -m simulations.benchmarks

soak: $(READY)
	$(BIN)/pytest -m soak

# The ten minutes of a newcomer: the commands of docs/learn/own-data.md in an empty folder, timed; needs the package index.
newcomer: $(READY)
	$(BIN)/python tests/newcomer.py

docs: $(READY)
	$(BIN)/python -m simulations.results

# The documentation as a site, with the reference made from docstrings, built without network; every link is checked.
docs-site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tests/check_site.py site

# Everything of docs/quality.md: more than an hour on two idle processors; it goes on where it stopped.
quality: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[text]'
	$(BIN)/python -m simulations.quality

clean:
	rm -rf $(VENV) dist build runs site
