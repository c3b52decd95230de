"""A round of a real deployment on loopback, beside a round of Flower's own processes with apps that do nothing.

Both have a SuperLink and three SuperNodes, and send a table of 256 kB to every silo and back. A round of either is
mostly Flower's waiting: a SuperNode looks for messages every three seconds. The deployment has TLS, node
authentication, a gate before its SuperLink, ledgers, checkpoints and logs; Flower's processes have none of them.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from recsys_fed.deployment.roster import missing_silos
from recsys_fed.deployment.serving import serve_federation
from recsys_fed.deployment.training import new_training, run_training
from recsys_fed.federation.run_files import LOG
from recsys_fed.flower import Process, environment, free_port, healthy, running, tool, wait_until
from simulations.benchmarks.engines import write_app
from simulations.benchmarks.line import Line
from simulations.benchmarks.made_federation import SILOS, made_federation
from simulations.benchmarks.round_work import BAR
from simulations.benchmarks.server_memory import BAR as MEMORY_BAR
from simulations.benchmarks.server_memory import growth_of, own_kilobytes

N_ITEMS, DIM, ROUNDS = 2_000, 32, 30
_PATIENCE = 600.0
_COMMAND = [sys.executable, "-c", "from recsys_fed.cli import main; main()"]


def deployed_round_lines() -> list[Line]:
    """Seconds of a round of both (medians), their difference, and what the deployment's SuperLink grows by."""
    with TemporaryDirectory(prefix="recsys-fed-bench-") as name:
        seconds, kilobytes = deployed(Path(name) / "deployed")
        idle = idle_seconds(Path(name) / "idle")
    ours, flowers, growth = float(np.median(seconds)), float(np.median(idle)), growth_of(kilobytes)
    return [
        Line(name="a round of a deployment, real processes", value=ours, unit="s"),
        Line(name="a round of Flower's own processes, idle apps", value=flowers, unit="s"),
        Line(name="the difference", value=ours - flowers, unit="s", bar=BAR),
        Line(name="the deployment's SuperLink after its last round", value=kilobytes[-1] / 1024, unit="MB"),
        Line(name="its growth a round after the first quarter", value=growth, unit="kB", bar=MEMORY_BAR),
    ]


def deployed(folder: Path) -> tuple[list[float], list[float]]:
    """Of one training over TLS: seconds between the beginnings of rounds, and the SuperLink's memory at each."""
    federation, silos = made_federation(folder, rounds=ROUNDS, n_items=N_ITEMS, embedding_dim=DIM)
    kilobytes: dict[int, float] = {}
    with ExitStack() as stack:
        link = stack.enter_context(serve_federation(federation, insecure=False, say=_nothing))
        for silo in silos:
            stack.enter_context(_start([*_COMMAND, "silo", "serve", str(silo)], silo / "serve.log"))
        wait_until(lambda: missing_silos(federation), link, seconds=_PATIENCE, what="silos")
        training = new_training(federation, overrides={"rounds": ROUNDS})

        def look(_: object) -> None:
            kilobytes[len(_begun(training))] = own_kilobytes(link.pid)

        run_training(federation, training, timeout=_PATIENCE, say=_nothing, on_poll=look)
    return np.diff(_begun(training))[1:].tolist(), [kilobytes[number] for number in sorted(kilobytes) if number]


def idle_seconds(folder: Path) -> list[float]:
    """Seconds of the rounds of idle apps on plain Flower processes."""
    folder.mkdir()
    port, around = free_port(), dict(environment(folder))
    output = folder / "seconds.json"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "idle"\n\n[superlink.idle]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    (folder / "run.toml").write_text(
        f'silos = {SILOS}\nrounds = {ROUNDS}\ntable-bytes = {4 * N_ITEMS * DIM}\noutput = "{output}"\n'
    )
    link = [tool("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    link += ["--disable-runtime-dependency-installation"]
    with ExitStack() as stack:
        served = stack.enter_context(_start(link, folder / "superlink.log", around=around))
        there = partial(healthy, "127.0.0.1", port, authority=None)
        wait_until(there, served, seconds=_PATIENCE, what="a SuperLink")
        for index in range(SILOS):
            node = [tool("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--host", "127.0.0.1", "--port", str(free_port())]
            stack.enter_context(_start(node, folder / f"{index}.log", around=around))
        run = [tool("flwr"), "run", str(write_app(folder / "app")), "idle", "--run-config", str(folder / "run.toml")]
        stack.enter_context(_start([*run, "--stream"], folder / "run.log", around=around))
        wait_until(
            lambda: "" if output.is_file() else "it goes on",
            served,
            seconds=_PATIENCE,
            what="the seconds of idle rounds",
        )
    found: list[float] = json.loads(output.read_text())
    return found


def _begun(training: Path) -> list[float]:
    """When the training's rounds began, by its log."""
    path = training / LOG
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["event"] == "round begun"]


@contextmanager
def _start(command: list[str], log: Path, *, around: Mapping[str, str] | None = None) -> Iterator[Process]:
    around = {**(around or environment(log.parent)), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output, running(command, environment=around, output=output) as process:
        yield process


def _nothing(_: str) -> None:
    """Print nothing."""
