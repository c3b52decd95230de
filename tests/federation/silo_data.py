"""Silos' histories and randomness, small and repeatable."""

from collections.abc import Callable

import numpy as np
from scipy import sparse

from recsys_fed.federation.release import Randomness, SiloUsers
from recsys_fed.models.histories import Histories, histories_of
from recsys_fed.privacy.noise import SeededNoise


def make_histories(n_users: int, n_items: int, *, density: float = 0.3, seed: int = 0) -> Histories:
    """Histories of users over items: `density` of all pairs."""
    rng = np.random.default_rng(seed)
    return histories_of(sparse.csr_matrix(rng.random((n_users, n_items)) < density))


def randomness(silo: int = 0, round_number: int = 0) -> Randomness:
    """The streams of a silo in a round."""
    return Randomness(
        noise=SeededNoise(1, silo, round_number),
        sampling=SeededNoise(3, silo, round_number),
    )


def held(histories: Histories, test: sparse.csr_matrix | None = None) -> Callable[[], SiloUsers]:
    """How a silo reads these users."""
    return lambda: SiloUsers(histories=histories, test=test)
