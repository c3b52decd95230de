"""A whole run of the spectral trainer on generated data of MovieLens-1M's size, in a process of its own."""

import json
import os
import subprocess
import sys
from typing import Any

from simulations.benchmarks.line import Line

DATA = "generated:users=6040,items=3706,interactions=165"
TIMEOUT = 120.0
_COMMAND = "from recsys_fed.cli import main; main()"


def whole_run_lines() -> list[Line]:
    """Seconds of each phase and peak memory, as the run itself records them."""
    record = run()
    lines = [
        Line(name=f"spectral, 10 silos, MovieLens-1M's size: {phase}", value=seconds, unit="s")
        for phase, seconds in record["seconds"].items()
    ]
    return [*lines, Line(name="the same: peak memory", value=record["peak_rss_mb"], unit="MB")]


def run(data: str = DATA) -> dict[str, Any]:
    """The metrics record of `recsys-fed simulate --json` on `data`."""
    arguments = [sys.executable, "-c", _COMMAND, "simulate", "--data", data, "--json"]
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=TIMEOUT, check=True, env={**os.environ, "COLUMNS": "200"}
    )
    record: dict[str, Any] = json.loads(done.stdout)
    return record
