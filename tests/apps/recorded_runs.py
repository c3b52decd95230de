"""Small data sets with recognisable users, and runs whose every message is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Message

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.generate import generate
from recsys_fed.simulation import runner
from recsys_fed.simulation.flower_engine import load_apps

N_USERS, N_ITEMS, N_SILOS = 207, 61, 3


@dataclass
class Recorder:
    """A ClientApp that keeps every message and its reply."""

    app: Callable[[Message, Context], Message]
    sent: list[Message] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)

    def __call__(self, message: Message, context: Context) -> Message:
        self.sent.append(message)
        self.replies.append(self.app(message, context))
        return self.replies[-1]


def write_table(folder: Path, name: str) -> Path:
    """A CSV table of generated interactions whose users are called NAME0, NAME1, ..."""
    interactions = generate(n_users=N_USERS, n_items=N_ITEMS, mean_interactions=15).interactions
    rows = zip(interactions.user.tolist(), interactions.item.tolist(), strict=True)
    path = folder / "interactions.csv"
    path.write_text("user,item\n" + "".join(f"{name}{user},film-{item}\n" for user, item in rows))
    return path


def recorded_run(table: Path, *, output: Path | None = None, **federation: object) -> Recorder:
    """Run a simulation in process and keep what travels."""
    with pytest.MonkeyPatch.context() as patch:
        server, client = load_apps()
        recorder = Recorder(client)
        patch.setattr(runner, "load_apps", lambda: (server, recorder))
        config = FederationConfig(**{"silos": N_SILOS, "threads": 1, **federation})
        simulation = runner.Simulation(federation=config, data=SimulationConfig(data=str(table)))
        runner.simulate(simulation, output=output)
    return recorder
