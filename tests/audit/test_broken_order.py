"""The checks pass the step over neighbours as deployed, and catch its two broken copies and one without clipping."""

import pytest
from first_round import first_round, flagged_of

from recsys_fed.audit._broken_mechanisms import BREAKAGES, ORDERED_BREAKAGES
from recsys_fed.config import FederationConfig
from recsys_fed.federation.schedule import planned_request
from recsys_fed.trainers import ordered

CONFIG = FederationConfig(
    trainer="spectral", target="next", epsilon=4.0, metrics_epsilon=0.0, silos=2, declared_users=500, noise="per-silo"
)


@pytest.fixture(scope="module")
def stand():
    """The first ordered round."""
    found = first_round(CONFIG)
    assert planned_request(found.rounds[0][0], 1).stage == ordered.STAGE
    return found


def test_the_deployed_step_is_not_flagged(stand):
    assert not flagged_of(CONFIG, stand)


@pytest.mark.parametrize("breakage", [*ORDERED_BREAKAGES, BREAKAGES[0]], ids=lambda one: one.name)
def test_broken_copies_are_caught_by_their_sensitivity(stand, breakage):
    assert any("sensitivity" in finding.instrument for finding in flagged_of(CONFIG, stand, breakage))
