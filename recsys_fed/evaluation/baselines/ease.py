"""EASE (Steck, arXiv 1905.03375): a linear model between items, in closed form.

P = (X^T X + regularization I)^-1,    B_ij = -P_ij / P_jj off the diagonal, 0 on it,    scores = X B
"""

import numpy as np
import torch
from scipy import linalg, sparse

from recsys_fed.evaluation.baselines.pattern import pattern_of
from recsys_fed.evaluation.scorer import Scorer


def ease(train: sparse.csr_matrix | sparse.csr_array, *, regularization: float = 500.0) -> Scorer:
    """Fit on all users at once and return a scorer; memory grows with the square of the catalogue."""
    pattern = pattern_of(train)
    gramian = (pattern.T @ pattern).toarray()
    gramian[np.diag_indices_from(gramian)] += regularization
    inverse = linalg.inv(gramian, overwrite_a=True)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray(pattern[rows] @ weights))

    return score
