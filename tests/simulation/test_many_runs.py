"""Many runs in one process: what they hold goes with the data that they were made of."""

import gc
import weakref
from dataclasses import replace

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.simulation.runner import Simulation, simulate

SMALL = Simulation(
    federation=FederationConfig(silos=2, epsilon=8.0, delta=1e-4, threads=1),
    data=SimulationConfig(data="generated:users=60,items=30,interactions=8"),
)


def test_silos_of_earlier_seeds_are_not_kept():
    simulate(SMALL)
    first = weakref.ref(simulated_federation(SMALL.data, silos=2, seed=SMALL.federation.seed))
    assert first() is not None
    # A few federations are kept for whoever asks again.
    for seed in range(1, 6):
        simulate(replace(SMALL, federation=replace(SMALL.federation, seed=seed)))
    gc.collect()
    assert first() is None
