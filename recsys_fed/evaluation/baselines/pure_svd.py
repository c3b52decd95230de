"""PureSVD (Cremonesi, Koren and Turrin 2010, doi 10.1145/1864708.1864721): scores = X V V^T."""

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import svds

from recsys_fed.evaluation.baselines.pattern import pattern_of
from recsys_fed.evaluation.scorer import Scorer


def pure_svd(train: sparse.csr_matrix | sparse.csr_array, *, embedding_dim: int = 32, seed: int = 0) -> Scorer:
    """V holds the leading right singular vectors of the train pattern; fewer where the matrix has fewer."""
    pattern = pattern_of(train)
    most = min(pattern.shape) - 1
    if most < 1:
        right = np.ones((1, pattern.shape[1])) / np.sqrt(pattern.shape[1])
    else:
        rng = np.random.default_rng(seed)
        right = svds(pattern, k=min(embedding_dim, most), rng=rng, return_singular_vectors="vh")[2]

    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray(pattern[rows] @ right.T) @ right)

    return score
