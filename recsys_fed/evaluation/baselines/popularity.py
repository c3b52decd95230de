"""Popularity: the number of train users of an item, the same list for everybody."""

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
