#!/usr/bin/env bash
# The wheel as a stranger gets it: built here, installed with its dependencies into an empty virtual environment,
# run from another folder, without the network (beyond pip) and without the checkout.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset VIRTUAL_ENV PYTHONPATH

say() { printf '== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

say "building the wheel"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/wheel" "$checkout"
wheel=$(find "$work/wheel" -name 'recsys_fed-*.whl')
[ -f "$wheel" ] || fail "no wheel was built"

say "installing $(basename "$wheel") with what trains into an empty virtual environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -c "$checkout/constraints.txt" "${wheel}[train]"
"$work/venv/bin/pip" check || fail "the dependencies do not fit together"

mkdir "$work/elsewhere"
cd "$work/elsewhere"
export RECSYS_FED_OFFLINE=1 FLWR_TELEMETRY_ENABLED=0

say "looking where the package comes from"
"$work/venv/bin/python" - "$work/venv" <<'PYTHON' || fail "the package does not come from the wheel alone"
import importlib.util, pathlib, sys
import recsys_fed
home = pathlib.Path(sys.argv[1]).resolve()
assert pathlib.Path(recsys_fed.__file__).resolve().is_relative_to(home), recsys_fed.__file__
for name in ("server", "client", "tests", "simulations"):
    assert importlib.util.find_spec(name) is None, f"the wheel brings a top-level module called {name}"
PYTHON

say "running a simulation"
"$work/venv/bin/recsys-fed" simulate --data generated:users=150,items=40 --silos 3 --output run --json > record.json
"$work/venv/bin/python" - <<'PYTHON' || fail "the record is not what was promised"
import json, pathlib
record = json.loads(pathlib.Path("record.json").read_text())
assert record["n_users"] == 150 and record["refused"] == [], record
assert all(0 < spent <= 8 for spent in record["epsilon_spent"].values()), record["epsilon_spent"]
assert record["versions"]["recsys-fed"] != "not installed", record["versions"]
assert pathlib.Path("run/item_embeddings.safetensors").is_file()
PYTHON

say "running a scenario by its name"
"$work/venv/bin/recsys-fed" simulate quickstart --json > scenario.json || fail "the scenario quickstart did not run"

say "asking for recommendations"
"$work/venv/bin/recsys-fed" recommend --run run --history 1,2 -k 3 > list.txt || fail "recommend did not run"
[ -s list.txt ] || fail "recommend printed nothing"

say "asking for data that is not there"
if "$work/venv/bin/recsys-fed" simulate --data nowhere.csv 2> error.txt; then fail "missing data was accepted"; fi
grep -q DataNotFoundError error.txt || fail "missing data was not named: $(cat error.txt)"

say "installing it with what serves, and nothing else, into another one"
"$python" -m venv "$work/light"
"$work/light/bin/pip" install --quiet --disable-pip-version-check -c "$checkout/constraints.txt" "${wheel}[serving]"
"$work/light/bin/pip" check || fail "the dependencies do not fit together"
megabytes=$(du -sm "$work/light" | cut -f1)
say "a service's environment takes $megabytes MB"
[ "$megabytes" -lt 400 ] || fail "a service's environment takes 400 MB or more"
"$work/light/bin/python" "$checkout/tests/integration/light_service.py" "$work/light/bin/recsys-fed" run \
  || fail "the service did not answer from an environment of its own"
if "$work/light/bin/recsys-fed" simulate 2> error.txt; then fail "a training ran without torch"; fi
grep -q 'pip install "recsys-fed\[train\]"' error.txt || fail "it was not said what to install: $(cat error.txt)"
say "the wheel works in an empty environment"
