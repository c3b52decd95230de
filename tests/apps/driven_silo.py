"""Messages to a silo's ClientApp, one by one, as a server of one's own choice would send them."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from client.state import open_simulated_silo
from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.federation.inprocess import run_in_process
from recsys_fed.simulation.flower_engine import load_apps

DATA = SimulationConfig(data="generated:users=60,items=25,interactions=8")
CONFIG = FederationConfig(
    silos=2, declared_users=60, embedding_dim=3, rounds=3, epsilon=2.0, metrics_epsilon=0.0, threads=1
)
Ask = Callable[..., Message]


def drive(main: Callable[[Ask], Any], config: FederationConfig = CONFIG, *, node_config: Any = None) -> Any:
    """Return what `main(ask)` returns; `ask(kind, records)` is the reply of silo 0.

    `ask.ledger()` is the silo's ledger, a new one for each call of `drive`; `ask.spent()` what it was charged.
    """
    results, server, client = [], ServerApp(), load_apps()[1]
    with tempfile.TemporaryDirectory() as folder:
        run_config = flat(config) | flat(replace(DATA, ledgers=folder))
        context = Context(1, 2, {"partition-id": 0} if node_config is None else node_config, RecordDict(), run_config)

        def ask(kind: str, records: RecordDict | None = None) -> Message:
            return client(Message(records or RecordDict(), 2, kind), context)

        ask.context = context
        ask.ledger = lambda: open_simulated_silo(context).ledger
        ask.spent = lambda: tuple(entry.body.event for entry in ask.ledger().entries() if entry.kind == "release")

        @server.main()
        def _main(_grid: Grid, _context: Context) -> None:
            results.append(main(ask))

        run_in_process(server, client, run_config=run_config, n_silos=1)
    return results[0]
