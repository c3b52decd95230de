"""The two accountants agree on the plans that the server makes, and what a plan costs is what was asked for."""

from dataclasses import replace

import pytest

from recsys_fed.config import FederationConfig
from recsys_fed.federation.planning import PublicCatalogue, planned_events, planned_schedule
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.accounting.opacus import DEFAULT_EPS_ERROR, RELATIVE_EPS_ERROR, SMALLEST_EPS_ERROR
from recsys_fed.privacy.guarantee import guarantee_of

BASE = FederationConfig(silos=5, declared_users=6000, embedding_dim=8)
TRAINERS = {
    "spectral": {"trainer": "spectral"},
    "popularity": {"trainer": "popularity"},
    "auto": {"trainer": "auto"},
    "dp-sgd": {"trainer": "dp-sgd", "rounds": 12},
    "local steps": {"trainer": "dp-sgd", "rounds": 5, "dp_sgd": {"schedule": "local", "sampling_probability": 0.1}},
    "few local steps": {
        "trainer": "dp-sgd",
        "rounds": 2,
        "dp_sgd": {"schedule": "local", "local_steps": 3, "sampling_probability": 0.3},
    },
    "masked": {"trainer": "spectral", "secure_aggregation": "on"},
}
EPSILONS, OVERLAPS = (0.1, 0.5, 2.0, 8.0, 16.0), (1, 2, 3)
ALWAYS = {("spectral", 0.1, 3), ("auto", 2.0, 1), ("dp-sgd", 8.0, 2), ("local steps", 2.0, 1), ("masked", 16.0, 1)}
PLANS = [(trainer, epsilon, k) for trainer in TRAINERS for epsilon in EPSILONS for k in OVERLAPS]


@pytest.mark.parametrize(
    ("trainer", "epsilon", "k"),
    [pytest.param(*plan, marks=() if plan in ALWAYS else pytest.mark.soak) for plan in PLANS],
)
def test_accountants_agree_on_a_plan(trainer, epsilon, k):
    config = replace(BASE, epsilon=epsilon, max_silos_per_user=k, **TRAINERS[trainer])
    schedule = planned_schedule(config, PublicCatalogue(n_items=300))
    history = guarantee_of(config).over_silos_kinds(planned_events(schedule))
    pld, prv, rdp = (
        epsilon_of_history(history, delta=config.delta, accountant=name) for name in ("pld", "prv", "rdp")
    )
    error = max(SMALLEST_EPS_ERROR, min(DEFAULT_EPS_ERROR, 2 * RELATIVE_EPS_ERROR * prv))
    # PRV's error is on both sides of the truth and once more in its figure; PLD's is about 0.1% of it.
    assert abs(pld - prv) <= 2 * error + 0.002 * pld
    assert rdp >= max(pld, prv - 2 * error)
    assert 0.97 * epsilon <= max(pld, prv) <= epsilon * (1 + 1e-6)
