"""A run on small generated data, from flat keys as every public way takes them."""

from pathlib import Path

from recsys_fed.config import FederationConfig, SimulationConfig, parse
from recsys_fed.simulation.runner import Progress, Simulation, simulate

DATA = "generated:users=120,items=40,interactions=12"
SIMULATION_KEYS = ("engine", "parallel_silos", "sampled_negatives", "evaluate_users", "declare_users")


def small_run(output: Path | None = None, *, progress: Progress | None = None, **keys) -> dict:
    """The metrics record of a run; embedding_dim=3 is the key embedding-dim = 3."""
    options = {name: keys.pop(name) for name in SIMULATION_KEYS if name in keys}
    flat = {"data": DATA, "silos": 3, "threads": 1} | {name.replace("_", "-"): value for name, value in keys.items()}
    simulation = Simulation(
        federation=parse(FederationConfig, flat),
        data=parse(SimulationConfig, flat),
        **{"declare_users": "declared-users" not in flat, **options},
    )
    return simulate(simulation, output=output, progress=progress)
