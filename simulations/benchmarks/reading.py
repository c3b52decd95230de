"""Reading a table of MovieLens-20M's size from Parquet and from CSV, each in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from simulations.benchmarks.line import Line

TIMEOUT = 600.0

# CSV over Parquet.
MOST_RATIO = 3.0
# In a process of its own: the memory of whoever starts a process counts towards its peak.
_WRITE = """\
import sys
from pathlib import Path
import pyarrow.csv
import pyarrow.parquet as pq
from simulations.benchmarks.federation_run import MOVIELENS_20M
from simulations.benchmarks.spectral_scale import write_parquet
path = write_parquet(MOVIELENS_20M, Path(sys.argv[1]))
pyarrow.csv.write_csv(pq.read_table(path), path.with_suffix(".csv"))
"""
_READ = """\
import json, resource, sys, time
from recsys_fed.data.locate import open_dataset
start = time.perf_counter()
n = len(open_dataset(sys.argv[1]).interactions)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.perf_counter() - start, "gigabytes": peak / 1e6, "interactions": n}))
"""


def reading_lines() -> list[Line]:
    """Seconds and peak memory of both, and the ratio of the seconds."""
    with tempfile.TemporaryDirectory(prefix="recsys-fed-bench-") as folder:
        parquet = Path(folder) / "interactions.parquet"
        _run(_WRITE, parquet)
        found = {path.suffix: json.loads(_run(_READ, path)) for path in (parquet, parquet.with_suffix(".csv"))}
    millions = found[".csv"]["interactions"] / 1e6
    lines = []
    for suffix, figures in found.items():
        what = f"reading {millions:.1f} million rows of {suffix}"
        lines.append(Line(name=what, value=figures["seconds"], unit="s"))
        lines.append(Line(name=f"{what}: peak memory", value=figures["gigabytes"], unit="GB"))
    ratio = found[".csv"]["seconds"] / found[".parquet"]["seconds"]
    return [*lines, Line(name="reading CSV over Parquet", value=ratio, unit="times", bar=MOST_RATIO)]


def _run(script: str, path: Path) -> str:
    """The last line that a process prints."""
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    return done.stdout.splitlines()[-1] if done.stdout else ""
