"""A small federation on disk: three silos with generated users, and its training in one process."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from flwr.app import Context, RecordDict

from recsys_fed.config import FederationConfig, SimulationConfig, flat
from recsys_fed.data.simulated import SimulatedFederation, simulated_federation
from recsys_fed.deployment.federation import FederationFolder, FederationSettings
from recsys_fed.deployment.notice import publish
from recsys_fed.deployment.provisioning import init_federation, init_silo
from recsys_fed.deployment.roster import admit, publish_roster
from recsys_fed.federation.inprocess import InProcessGrid, Nodes, task_identity
from recsys_fed.simulation.flower_engine import load_apps

SILOS, SEED, USER = 3, 5, "patient-7310"
DATA = SimulationConfig(data="generated:users=240,items=50,interactions=12")
CONFIG = FederationConfig(
    silos=SILOS, declared_users=200, embedding_dim=4, rounds=3, epsilon=6.0, metrics_epsilon=0.0, threads=1, seed=SEED
)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """Folders of a federation and its silos."""

    federation: FederationFolder
    silos: list[Path]
    simulated: SimulatedFederation


def silo_tables(data: SimulationConfig = DATA) -> tuple[SimulatedFederation, list[pd.DataFrame]]:
    """The training interactions of every silo of a simulation, under user ids that are easy to find."""
    federation = simulated_federation(data, silos=SILOS, seed=SEED)
    tables = []
    for users in federation.users_of_silo:
        rows, columns = federation.train[users].nonzero()
        names = np.array([f"{USER}{user:04}" for user in users], dtype=object)
        items = federation.catalogue.item_ids[columns]
        tables.append(
            pd.DataFrame({"customer": names[rows], "sku": items, "day": 1_700_000_000 + np.arange(len(rows))})
        )
    return federation, tables


def deployed(
    folder: Path,
    *,
    config: FederationConfig = CONFIG,
    data: SimulationConfig = DATA,
    simulated: bool = False,
    host: str = "127.0.0.1",
    port: int = 9092,
    insecure: bool = False,
) -> Deployed:
    """Make everything; silos read CSV."""
    federation, tables = silo_tables(data)
    folder.mkdir(parents=True, exist_ok=True)
    federation.catalogue.save(folder / "catalogue.parquet")
    settings = FederationSettings(address=f"{host}:{port}", insecure=insecure, training=config)
    made = init_federation(folder / "federation", settings, catalogue=folder / "catalogue.parquet")
    silos = []
    for index, table in enumerate(tables):
        path = folder / f"silo-{index}"
        table.to_csv(folder / f"silo-{index}.csv", index=False)
        init_silo(
            path,
            federation=made.public,
            name=f"silo-{index}",
            epsilon=20.0,
            data={"source": "csv", "path": f"../silo-{index}.csv", "user": "customer", "item": "sku"},
            extra={"threads": 1} | ({"simulated-seed": SEED, "simulated-index": index} if simulated else {}),
        )
        admit(made, path / f"silo-{index}.pub")
        silos.append(path)
    publish(made, passphrase=None)
    for path in silos:
        publish_roster(made, path / "federation" / "roster.json")
    return Deployed(federation=made, silos=silos, simulated=federation)


def train_in_process(
    there: Deployed, output: Path, *, config: FederationConfig = CONFIG, app=None, grid=InProcessGrid, **more
) -> Context:
    """Run the ServerApp with the deployed silos' ClientApps in this process."""
    server, client = load_apps()
    roster = output.parent / "roster.json"
    publish_roster(there.federation, roster)
    settings = replace(
        config,
        output=str(output),
        roster=str(roster),
        catalogue=str(there.federation.public / "catalogue.parquet"),
        **{"training": "a-training", **more},
    )
    contexts = {
        2 + index: Context(1, 2 + index, {"silo": str(path)}, RecordDict(), flat(settings))
        for index, path in enumerate(there.silos)
    }
    context = Context(1, 1, {}, RecordDict(), flat(settings))
    with task_identity(1):
        server(grid(app or client, Nodes(contexts=contexts)), context)
    return context
