"""What this project adds to a round of a deployment, measured without Flower's processes.

The whole work of a round of the server and of a silo: messages checked and summed, a contribution computed and
noisy, a ledger that is charged and synced to the disk, checkpoint, logs. Silos work at the same time: one counts.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from recsys_fed.config import flat
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.deployment.roster import publish_roster
from recsys_fed.federation.inprocess import InProcessGrid, Nodes, task_identity
from recsys_fed.simulation.flower_engine import load_apps
from simulations.benchmarks.line import Line
from simulations.benchmarks.made_federation import SILOS, made_federation

ROUNDS = 12
BAR = 0.1
_Clocks = npt.NDArray[np.float64]


def round_work_lines() -> list[Line]:
    """Seconds of a round by the wall's clock and the processor's."""
    with TemporaryDirectory(prefix="recsys-fed-bench-") as name:
        federation, silos = made_federation(Path(name), rounds=ROUNDS)
        own = own_work(federation, silos, Path(name) / "own")
    return [
        Line(name="a deployed round's own work, server and a silo", value=own.seconds, unit="s", bar=BAR),
        Line(name="the same, processor time", value=own.processor_seconds, unit="s", bar=BAR),
    ]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of the server and one silo for a round: medians over rounds."""

    seconds: float
    processor_seconds: float


def own_work(federation: FederationFolder, silos: list[Path], output: Path) -> Work:
    """From the beginning of a round to that of the next, in one process, less the work of all silos but one."""
    server, client = load_apps()
    output.mkdir()
    publish_roster(federation, output / "roster.json")
    roster = str(output / "roster.json")
    run_config = flat(replace(federation.settings().training, training="own", output=str(output), roster=roster))
    contexts = {2 + n: Context(1, 2 + n, {"silo": str(p)}, RecordDict(), run_config) for n, p in enumerate(silos)}
    begun, worked = list[_Clocks](), list[_Clocks]()

    def timed(message: Message, context: Context) -> Message:
        start = _clocks()
        if message.metadata.message_type == "train" and context.node_id == min(contexts):
            begun.append(start)
        reply: Message = client(message, context)
        if message.metadata.message_type == "train":
            worked.append(_clocks() - start)
        return reply

    grid = InProcessGrid(cast(ClientApp, timed), Nodes(contexts=contexts))
    with task_identity(1):
        server(grid, Context(1, 1, {}, RecordDict(), run_config))
    rounds = np.diff(np.array(begun), axis=0)
    of_silos = np.array(worked).reshape(-1, SILOS, 2)[:-1]
    # The first rounds make what later ones find: plans of noise, tables, connections.
    own = (rounds - of_silos.sum(axis=1) + of_silos.mean(axis=1))[2:]
    seconds, processor_seconds = np.median(own, axis=0).tolist()
    return Work(seconds=seconds, processor_seconds=processor_seconds)


def _clocks() -> _Clocks:
    """Now, by the wall's clock and the processor's."""
    return np.array([time.perf_counter(), time.process_time()])
