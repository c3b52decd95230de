"""Small data sets with recognisable users, and runs whose every message is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Message

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.generate import generate
from recsys_fed.simulation import runner
from recsys_fed.simulation.apps import load_apps

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


@pytest.fixture(scope="session")
def write_table(tmp_path_factory) -> Callable[[str], Path]:
    """A CSV table of generated interactions whose users are called NAME0, NAME1, ..."""

    def write(name: str) -> Path:
        interactions = generate(n_users=N_USERS, n_items=N_ITEMS, mean_interactions=15).interactions
        rows = zip(interactions.user.tolist(), interactions.item.tolist(), strict=True)
        path = tmp_path_factory.mktemp("table") / "interactions.csv"
        path.write_text("user,item\n" + "".join(f"{name}{user},film-{item}\n" for user, item in rows))
        return path

    return write


@pytest.fixture(scope="session")
def recorded_run():
    """Run a simulation in process and keep what travels."""

    def run(table: Path, *, output: Path | None = None, **federation) -> Recorder:
        with pytest.MonkeyPatch.context() as patch:
            server, client = load_apps()
            recorder = Recorder(client)
            patch.setattr(runner, "load_apps", lambda: (server, recorder))
            config = FederationConfig(**{"silos": N_SILOS, "threads": 1, **federation})
            simulation = runner.Simulation(federation=config, data=SimulationConfig(data=str(table)))
            runner.simulate(simulation, output=output)
        return recorder

    return run
