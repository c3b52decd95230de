"""What a message costs on the in-process engine and on Flower's own, with apps that do nothing."""

import json
import logging
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.settings_file import Value
from recsys_fed.simulation.flower_engine import run_with_flower
from simulations.benchmarks import idle_app
from simulations.benchmarks.line import Line

SILOS, ROUNDS = 10, 20
TABLE_BYTES = 1_000_000
# Flower's rounds take much longer: fewer of them.
FLOWER_ROUNDS = 10
FLOWER_TIMEOUT = 120.0
BAR = 2.0
_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "idle"
version = "0.1.0"
dependencies = []

[tool.flwr.app]
publisher = "recsys-fed"
fab-include = ["idle/*.py"]

[tool.flwr.app.components]
serverapp = "idle.app:server_app"
clientapp = "idle.app:client_app"

[tool.flwr.app.config]
silos = 0
rounds = 0
table-bytes = 0
output = ""
"""


def engine_lines() -> list[Line]:
    """Milliseconds a message on both engines, in one sitting, and their ratio."""
    ours = in_process_ms()
    start = time.perf_counter()
    flowers = flower_ms()
    outside = time.perf_counter() - start - flowers * SILOS * (FLOWER_ROUNDS + 1) / 1e3
    return [
        Line(name="in-process engine, a message with a 1 MB table", value=ours, unit="ms", bar=BAR),
        Line(name="Flower's simulation engine, the same apps", value=flowers, unit="ms"),
        Line(name="the same: start and end of a run", value=outside, unit="s"),
        Line(name="Flower's engine over the in-process engine", value=flowers / ours, unit="times"),
    ]


def in_process_ms(*, silos: int = SILOS, rounds: int = ROUNDS) -> float:
    """Median over rounds, milliseconds a message (there and back)."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="recsys-fed-bench-") as name:
        output = Path(name) / "seconds.json"
        config = _config(output, silos=silos, rounds=rounds)
        run_in_process(idle_app.server_app, idle_app.client_app, run_config=config, n_silos=silos)
        return _ms_a_message(output, silos)


def flower_ms(*, silos: int = SILOS, rounds: int = FLOWER_ROUNDS) -> float:
    """The same on Flower's SuperLink and Ray, on loopback."""
    with tempfile.TemporaryDirectory(prefix="recsys-fed-bench-") as name:
        folder = Path(name)
        output = folder / "seconds.json"
        run_with_flower(
            write_app(folder / "app"),
            run_config=_config(output, silos=silos, rounds=rounds),
            n_silos=silos,
            folder=folder / "flower",
            done=output,
            timeout=FLOWER_TIMEOUT,
            on_poll=lambda: None,
        )
        return _ms_a_message(output, silos)


def write_app(folder: Path) -> Path:
    """Write the idle apps as a Flower app folder and return it."""
    (folder / "idle").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (folder / "idle" / "__init__.py").write_text("", encoding="utf-8")
    shutil.copy(str(idle_app.__file__), folder / "idle" / "app.py")
    return folder


def _config(output: Path, *, silos: int, rounds: int) -> dict[str, Value]:
    return {"silos": silos, "rounds": rounds, "table-bytes": TABLE_BYTES, "output": str(output)}


def _ms_a_message(output: Path, silos: int) -> float:
    seconds: list[float] = json.loads(output.read_text(encoding="utf-8"))
    return 1e3 * statistics.median(seconds) / silos
