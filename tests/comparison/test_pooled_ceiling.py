"""The ceiling is tuned: its strength is chosen on a part of train, and follows the data."""

import numpy as np
import torch
from scipy import sparse

from recsys_fed.comparison.compare import _pooled_als, choose_strength
from recsys_fed.personalisation.choice import hold_out_items


def test_the_strength_that_finds_most_is_taken():
    kept, held = sparse.csr_matrix((4, 60)), sparse.csr_matrix(([1.0] * 4, (range(4), [50] * 4)), shape=(4, 60))
    asked = []

    def fit(train, strength):
        asked.append(strength)
        row = -(torch.arange(60.0) - (50 if strength == 3.0 else 0)).abs()
        return lambda rows: row.expand(rows.stop - rows.start, -1)

    assert choose_strength(fit, (1.0, 3.0, 9.0), kept, held) == 3.0
    assert asked == [1.0, 3.0, 9.0]
    assert choose_strength(fit, (1.0, 3.0), kept, sparse.csr_matrix((4, 60))) == 1.0


def test_planted_tastes_are_found_under_a_strength_that_fits():
    rng = np.random.default_rng(0)
    likely = np.where(np.arange(60) % 3 == (np.arange(90) % 3)[:, None], 0.5, 0.02)
    train = sparse.csr_matrix((rng.random((90, 60)) < likely).astype(np.float32))
    kept, held = hold_out_items(train, share=0.1, rng=rng)
    assert choose_strength(_pooled_als, (1e5, 1.0), kept, held) == 1.0
