"""A few trainings of one federation on small generated data."""

from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.federation.kept_releases import RELEASES
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.simulation.runner import Simulation

KEYS = {
    "data": "generated:users=150,items=40,interactions=12", "silos": 4, "threads": 1, "epsilon": 8.0, "delta": 1e-4,
    "secure-aggregation": "on", "item-features": False,
}  # fmt: skip


def simulation(**keys):
    flat = KEYS | {name.replace("_", "-"): value for name, value in keys.items()}
    return Simulation(federation=parse(FederationConfig, flat), data=parse(SimulationConfig, flat))


def content(folder, trainings):
    """What a sequence leaves that must be the same, by name."""
    names = (EMBEDDINGS, RELEASES)
    return {(k, name): (folder / f"training-{k}" / name).read_bytes() for k in trainings for name in names}
