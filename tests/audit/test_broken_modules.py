"""The checks pass a module as deployed, and catch in-batch negatives with the guard off, and one without clipping."""

from dataclasses import replace

import pytest
import torch
from first_round import first_round, flagged_of

from recsys_fed.audit._broken_mechanisms import BREAKAGES, MODULE_BREAKAGES
from recsys_fed.config import FederationConfig

CONFIG = FederationConfig(
    trainer="torch", trainer_settings='module = "two-tower"', epsilon=4.0, metrics_epsilon=0.0, silos=2,
    declared_users=500, noise="per-silo", rounds=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def stand():
    """The first gradient round, as after some rounds: before them all scores are next to nothing."""

    def after_some_rounds(state, rng):
        return replace(state, vectors=torch.from_numpy(0.5 * rng.standard_normal(tuple(state.vectors.shape))).float())

    return first_round(CONFIG, change=after_some_rounds)


def test_the_deployed_module_is_not_flagged(stand):
    assert not flagged_of(CONFIG, stand)


@pytest.mark.parametrize("breakage", [*MODULE_BREAKAGES, BREAKAGES[0]], ids=lambda one: one.name)
def test_broken_copies_are_caught_by_their_sensitivity(stand, breakage):
    assert any("sensitivity" in finding.instrument for finding in flagged_of(CONFIG, stand, breakage))
