"""Quality on real data: MovieLens-1M, the UltraGCN split, ten silos, epsilon 8 for every user."""

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.simulation.runner import Simulation, simulate

# Recall@20 of popularity alone is 0.116.
BARS = [
    pytest.param("spectral", "per-silo", 0.17, id="spectral, noise in each silo"),
    pytest.param("spectral", "distributed", 0.215, id="spectral, noise once"),
    pytest.param("dp-sgd", "distributed", 0.19, id="dp-sgd, noise once", marks=pytest.mark.soak),
]


@pytest.mark.parametrize(("trainer", "noise", "bar"), BARS)
def test_recall_at_20_with_privacy(trainer, noise, bar, shared_data):
    federation = FederationConfig(trainer=trainer, noise=noise, silos=10, epsilon=8.0)
    data = SimulationConfig(data=str(shared_data / "ml-1m" / "ultragcn"))
    record = simulate(Simulation(federation=federation, data=data))
    assert (record["n_users"], record["n_items"]) == (6022, 3043)
    assert max(record["epsilon_spent"].values()) <= 8.0
    assert record["popularity"]["recall@20"] == pytest.approx(0.1161, abs=0.0005)
    assert record["metrics"]["recall@20"] >= bar, record["metrics"]


@pytest.mark.soak
@pytest.mark.parametrize(("silos", "gain"), [(10, 1.15), (50, 1.35)])
def test_masked_silos_reach_what_noise_once_reaches(silos, gain, shared_data):
    data = SimulationConfig(data=str(shared_data / "ml-1m" / "ultragcn"))
    recall = {}
    for name, keys in {
        "masked": {"secure_aggregation": "on"},
        "once": {"noise": "distributed"},
        "per-silo": {},
    }.items():
        federation = FederationConfig(silos=silos, epsilon=8.0, **keys)
        recall[name] = simulate(Simulation(federation=federation, data=data))["metrics"]["recall@20"]
    assert recall["masked"] >= 0.99 * recall["once"]
    assert recall["masked"] >= gain * recall["per-silo"]
