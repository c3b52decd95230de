"""A small federation of three silos, provisioned as operators do it: its arithmetic takes next to nothing."""

from pathlib import Path

import numpy as np

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.deployment.federation import FederationFolder, FederationSettings
from recsys_fed.deployment.provisioning import init_federation, init_silo
from recsys_fed.deployment.roster import admit
from recsys_fed.flower import free_port

SILOS = 3
_USERS = 20


def made_federation(
    folder: Path, *, rounds: int, n_items: int = 200, embedding_dim: int = 4
) -> tuple[FederationFolder, list[Path]]:
    """A federation's folder, and those of its silos, which are admitted and have a few users each."""
    folder.mkdir(exist_ok=True)
    Catalogue(item_ids=np.array([f"{item:05}" for item in range(n_items)], dtype=object)).save(folder / "c.parquet")
    terms = FederationConfig(
        silos=SILOS, rounds=rounds, declared_users=100, embedding_dim=embedding_dim, metrics_epsilon=0.0, threads=1,
        secure_aggregation="off",
    )  # fmt: skip
    settings = FederationSettings(address=f"127.0.0.1:{free_port()}", training=terms)
    federation = init_federation(folder / "federation", settings, catalogue=folder / "c.parquet")
    silos = []
    for index in range(SILOS):
        silo, table = folder / f"silo-{index}", folder / f"{index}.csv"
        rows = [f"u{user},{(7 * user + 13 * n) % n_items:05}" for user in range(_USERS) for n in range(10)]
        table.write_text("\n".join(["user,item", *rows]) + "\n")
        data = {"source": "csv", "path": str(table), "user": "user", "item": "item"}
        init_silo(silo, federation=federation.public, name=silo.name, epsilon=1e3, data=data, extra={"threads": 1})
        admit(federation, silo / f"{silo.name}.pub")
        silos.append(silo)
    return federation, silos
