"""Peak memory of a piece of work above what its process held before, in a process of its own."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHILD_TIMEOUT = 600.0
_ROOT = Path(__file__).resolve().parents[2]


def peak_megabytes(module: str, argument: str) -> float:
    """What `python -m MODULE ARGUMENT` prints: it calls `print_peak`."""
    command = [sys.executable, "-m", module, argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_TIMEOUT, check=True, cwd=_ROOT)
    return float(done.stdout)


def print_peak(work: Callable[[], object], *, warm: Callable[[], object]) -> None:
    """Do the work after a small piece of the same, and print its resident peak above what was held before, MB."""
    # Imports, tables of a sampler and threads belong to the process, not to the work.
    warm()
    # What was freed while the data was made must not serve the work for nothing.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _high_water()
    work()
    sys.stdout.write(f"{(_high_water() - before) / 1e3}\n")


def _high_water() -> float:
    """Peak resident memory since it was last cleared, kB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
