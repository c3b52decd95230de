"""Memory of the server over many rounds, with silos that answer at once and remember nothing.

A round's messages hold a table of 256 kB to and from each of three silos: a server that kept one of them would grow
by as much with every round. The trainer is dp-sgd, whose state is of one size; spectral keeps the table of
each of its few rounds.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from recsys_fed.config import FederationConfig, flat
from recsys_fed.federation.admission import sign_greeting
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.federation.messages import Greeting, Request, Update
from recsys_fed.federation.release import release_event
from recsys_fed.federation.wire import greeting_to_records, request_from_records, update_to_records
from recsys_fed.signing import SigningKey
from recsys_fed.simulation.flower_engine import load_apps
from simulations.benchmarks.line import Line

SILOS, N_ITEMS, DIM = 3, 2_000, 32
FEW, MANY = 10, 200
# Kilobytes a round: a twelfth of one message's table.
BAR = 20.0


def server_memory_lines() -> list[Line]:
    """Peak after few and after many rounds, each in a process of its own, and the slope after the first quarter."""
    few, many = (measured(rounds) for rounds in (FEW, MANY))
    return [
        Line(name=f"server's memory after {FEW} rounds", value=few[-1] / 1024, unit="MB"),
        Line(name=f"the same after {MANY} rounds", value=many[-1] / 1024, unit="MB"),
        Line(name="growth a round after the first quarter", value=growth_of(many), unit="kB", bar=BAR),
    ]


def measured(rounds: int) -> list[float]:
    """`kilobytes_by_round` in a process of its own."""
    command = [sys.executable, "-m", "simulations.benchmarks.server_memory", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600.0, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def kilobytes_by_round(rounds: int) -> list[float]:
    """Memory of this process at the beginning of each round of a training."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    found: list[float] = []
    with TemporaryDirectory(prefix="recsys-fed-bench-") as folder:
        config = FederationConfig(
            trainer="dp-sgd", silos=SILOS, rounds=rounds, embedding_dim=DIM, declared_users=10_000,
            metrics_epsilon=0.0, threads=1, output=folder,
        )  # fmt: skip
        run_in_process(load_apps()[0], _silos(found), run_config=flat(config), n_silos=SILOS)
    return found


def growth_of(kilobytes: list[float]) -> float:
    """Slope a round by least squares, after the first quarter, in which allocators and caches warm up."""
    settled = kilobytes[len(kilobytes) // 4 :]
    return float(np.polyfit(np.arange(len(settled)), settled, 1)[0])


def _silos(found: list[float]) -> ClientApp:
    """Silos without data: what they send is as large as what real ones do."""
    app, keys = ClientApp(), [SigningKey.generate() for _ in range(SILOS)]

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        greeting = Greeting(silo=f"silo-{index}", catalogue_hash="c0ffee", n_items=N_ITEMS)
        signed = sign_greeting(greeting, keys[index], run=str(context.run_id), node=context.node_id)
        return Message(greeting_to_records(signed), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        index = int(context.node_config["partition-id"])
        if index == 0:
            found.append(own_kilobytes())
        update = _update(request_from_records(message.content), index)
        return Message(update_to_records(update), reply_to=message)

    return app


def _update(asked: Request, index: int) -> Update:
    total = np.random.default_rng([asked.round, index]).integers(0, 100, asked.shape, dtype=np.int32)
    event = release_event(asked, noise_source="seeded-simulation")
    nonce = f"{asked.round}-{index}"
    return Update(silo=f"silo-{index}", total=total, event=event, catalogue_hash=asked.catalogue_hash, nonce=nonce)


def own_kilobytes(pid: str | int = "self") -> float:
    """Memory of a process that no file backs, in RAM or swapped, from Linux.

    Pages of libraries come and go with what else the machine needs its memory for.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return float(sum(int(line.split()[1]) for line in status if line.startswith(("RssAnon:", "VmSwap:"))))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(kilobytes_by_round(int(sys.argv[1]))))
