"""Silos' histories and randomness, small and repeatable."""

import numpy as np
import pytest
from scipy import sparse

from recsys_fed.federation.release import Randomness
from recsys_fed.models.histories import histories_of
from recsys_fed.privacy.noise import SeededNoise, seeded_generator


@pytest.fixture(scope="session")
def make_histories():
    """Histories of users over items: `density` of all pairs."""

    def make(n_users, n_items, *, density=0.3, seed=0):
        rng = np.random.default_rng(seed)
        return histories_of(sparse.csr_matrix(rng.random((n_users, n_items)) < density))

    return make


@pytest.fixture
def randomness():
    """The streams of a silo in a round."""

    def make(silo=0, round_number=0) -> Randomness:
        return Randomness(
            noise=SeededNoise(1, silo, round_number),
            local_noise=seeded_generator(2, silo, round_number),
            sampling=seeded_generator(3, silo, round_number),
        )

    return make
