"""The checks pass a module as deployed, and catch in-batch negatives with the guard off, and one without clipping."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from recsys_fed.audit._broken_mechanisms import BREAKAGES, MODULE_BREAKAGES
from recsys_fed.audit._mechanism import Mechanism
from recsys_fed.audit.checks._conformance import Stand, conformance
from recsys_fed.audit.checks._noise import flagged
from recsys_fed.config import FederationConfig
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule
from recsys_fed.federation.schedule import request
from recsys_fed.trainers.registry import configured_trainer

CONFIG = FederationConfig(
    trainer="torch", trainer_settings='module = "two-tower"', epsilon=4.0, metrics_epsilon=0.0, silos=2,
    declared_users=500, noise="per-silo", rounds=3,
)  # fmt: skip
N_ITEMS = 60


@pytest.fixture(scope="module")
def stand():
    """The first gradient round, asked after counts of nobody, and ordinary users."""
    schedule = planned_schedule(CONFIG, PublicCatalogue(n_items=N_ITEMS))
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(100 * rng.random((N_ITEMS, 1)))
    state = schedule.trainer.step(schedule.state, schedule.stages[0], counts, noise_std=1.0, n_silos=2)
    # As after some rounds: before them all scores are next to nothing.
    state = replace(state, vectors=torch.from_numpy(0.5 * rng.standard_normal(tuple(state.vectors.shape))).float())
    schedule = replace(schedule, round=1, state=state)
    ordinary = sparse.random(12, N_ITEMS, density=0.3, format="csr", rng=rng, dtype=np.float32)
    ordinary.data[:] = 1.0
    return Stand(rounds=[(schedule, request(schedule))], ordinary=ordinary, silos=2, delta=1e-6, public_seed=0)


def found(stand, breakage=None):
    mechanism = Mechanism(trainer=configured_trainer(CONFIG), key=5)
    return flagged(conformance(breakage.of(mechanism) if breakage else mechanism, stand))


def test_the_deployed_module_is_not_flagged(stand):
    assert not found(stand)


@pytest.mark.parametrize("breakage", [*MODULE_BREAKAGES, BREAKAGES[0]], ids=lambda one: one.name)
def test_broken_copies_are_caught_by_their_sensitivity(stand, breakage):
    assert any("sensitivity" in finding.instrument for finding in found(stand, breakage))
