"""Baselines that a model must beat, each a function from the train matrix to a scorer.

They read the raw interactions and are NOT private: they are references for simulations, where all data is at
hand, and are never released. A further baseline is one more file and one line in `BASELINES`.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array, csr_matrix

from recsys_fed.evaluation.scorer import Scorer


def popularity(train: csr_matrix | csr_array) -> Scorer:
    """Score every item by its number of train users, the same for everybody.

    Args:
        train: sparse [n_users, n_items]; each stored entry is one interaction, whatever its value.

    Returns:
        A scorer [n_block, n_items], float32; the counts are exact up to 2**24 users.
    """
    n_users, n_items = train.shape
    counts = np.bincount(train.indices, minlength=n_items)
    scores = torch.from_numpy(counts.astype(np.float32))

    def score(rows: slice) -> torch.Tensor:
        return scores.expand(len(range(n_users)[rows]), n_items)

    return score


BASELINES: dict[str, Callable[[csr_matrix | csr_array], Scorer]] = {"popularity": popularity}
"""Name -> function of the train matrix that returns a scorer."""
