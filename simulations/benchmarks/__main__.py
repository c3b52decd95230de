"""`python -m simulations.benchmarks [NAME ...]`: all benchmarks, or those named."""

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from recsys_fed.models.device import use_threads
from simulations.benchmarks.line import Line
from simulations.benchmarks.registry import BENCHMARKS

_PACKAGES = ("torch", "numpy", "scipy", "opacus", "flwr", "implicit", "cryptography")
LATEST = Path(__file__).resolve().parents[2] / "bench-results" / "latest.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; the exit code is 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args(arguments).names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"Expected names of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}.")
    use_threads(0)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    before = circumstances()
    lines: list[Line] = []
    seconds: dict[str, float] = {}
    failed: list[str] = []
    console = Console(stderr=True)
    for name in (name for name in BENCHMARKS if name in names):
        start = time.perf_counter()
        try:
            with console.status(name):
                lines += BENCHMARKS[name]()
        except Exception:  # noqa: BLE001  (one that fails must not take the figures of the others with it)
            console.print_exception()
            failed.append(name)
        seconds[name] = round(time.perf_counter() - start, 1)
        # After each: what was measured stays if the next one is interrupted.
        _write({**before, "seconds": seconds, "failed": failed, "lines": [line.to_dict() for line in lines]})
    Console().print(table_of(lines))
    for name in failed:
        console.print(f"{name} failed after {seconds[name]:.0f} s; see above.")
    return int(bool(failed) or any(line.holds is False for line in lines))


def _write(record: dict[str, object]) -> None:
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def circumstances() -> dict[str, object]:
    """Date, machine and versions: without them a figure says little."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load_before": round(os.getloadavg()[0], 2),
            "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
            "system": platform.platform(terse=True),
        },
        "versions": {"python": platform.python_version(), **found},
    }


def _processor() -> str:
    """The model's name where the system tells it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8", errors="replace").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table_of(lines: Sequence[Line]) -> Table:
    """All lines as one table."""
    table = Table(title=f"Benchmarks, {datetime.now(UTC).date().isoformat()}", title_justify="left")
    for heading, justify in (("what", "left"), ("value", "right"), ("unit", "left"), ("bar", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("holds")
    marks = {None: "", True: "yes", False: "NO"}
    for line in lines:
        bar = "" if line.bar is None else f"< {line.bar:g}"
        table.add_row(line.name, f"{line.value:.4g}", line.unit, bar, marks[line.holds])
    return table


if __name__ == "__main__":
    sys.exit(main())
