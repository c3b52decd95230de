"""Flower's command-line tools: where they are, and what environment they run in."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from recsys_fed.errors import EngineError

# Flower asks for work this often (seconds); its own default is 1.
TASK_POLL = "0.1"


def environment(home: Path, *, first_on_path: Path | None = None) -> Mapping[str, str]:
    """The environment of a Flower process: no telemetry, no look for updates and no installation at run time."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    if first_on_path is not None:
        folders.insert(0, str(first_on_path))
    return {
        **os.environ,
        "PATH": os.pathsep.join(folders),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", TASK_POLL),
    }


def tool(name: str) -> str:
    """The command beside this interpreter, else on the PATH; raises EngineError."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise EngineError(f"Expected the command {name}, it is not installed: pip install flwr.")
    return found
