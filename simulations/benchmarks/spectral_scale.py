"""From a Parquet file of MovieLens-20M's size to metrics of 10,000 users, in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_fed.data.generate import generate
from simulations.benchmarks.federation_run import MOVIELENS_20M, Federation
from simulations.benchmarks.line import Line

EVALUATED = 10_000
TIMEOUT = 600.0
# Seconds, and gigabytes, on two cores.
MOST_SECONDS, MOST_GIGABYTES = 45.0, 5.0
_RUN = """\
import json, sys
from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.simulation.runner import Simulation, simulate
keys = json.loads(sys.argv[1])
simulation = Simulation(
    federation=parse(FederationConfig, keys), data=parse(SimulationConfig, keys), evaluate_users=int(sys.argv[2])
)
print(json.dumps(simulate(simulation)))
"""


def spectral_scale_lines() -> list[Line]:
    """Seconds of each phase, all of them together, and the peak of memory, as the run itself records them."""
    with tempfile.TemporaryDirectory(prefix="recsys-fed-bench-") as folder:
        path = write_parquet(MOVIELENS_20M, Path(folder) / "interactions.parquet")
        record = run(path, MOVIELENS_20M, evaluated=EVALUATED)
    what = f"spectral, MovieLens-20M's size from Parquet, {EVALUATED:,} users evaluated"
    seconds: dict[str, float] = record["seconds"]
    return [
        *(Line(name=f"{what}: {phase}", value=took, unit="s") for phase, took in seconds.items()),
        Line(name="the same: everything", value=sum(seconds.values()), unit="s", bar=MOST_SECONDS),
        Line(name="the same: peak memory", value=record["peak_rss_mb"] / 1e3, unit="GB", bar=MOST_GIGABYTES),
    ]


def write_parquet(federation: Federation, path: Path) -> Path:
    """Generated interactions as a table with usual column names."""
    made = generate(
        n_users=federation.n_users,
        n_items=federation.n_items,
        mean_interactions=federation.mean_interactions,
    ).interactions
    pq.write_table(pa.table({"user_id": made.user, "item_id": made.item, "timestamp": made.time}), path)
    return path


def run(path: Path, federation: Federation, *, evaluated: int) -> dict[str, Any]:
    """The metrics record of a simulation of the file in a new process."""
    keys = {"data": str(path), "silos": federation.silos, "rounds": federation.rounds}
    command = [sys.executable, "-c", _RUN, json.dumps(keys), str(evaluated)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record
