"""Cosine neighbours of items and of users, found by the library `implicit`.

item-knn: scores = X S with S [n_items, n_items] the k most similar items of each item;
user-knn: scores = S X with S [n_users, n_users] the k most similar users of each user.
"""

import warnings

import numpy as np
import torch
from scipy import sparse

from recsys_fed.evaluation.baselines.implicit_library import implicit_module
from recsys_fed.evaluation.baselines.pattern import pattern_of
from recsys_fed.evaluation.scorer import Scorer


def item_knn(train: sparse.csr_matrix | sparse.csr_array, *, neighbours: int = 50) -> Scorer:
    """An item scores by its similarity to the items of the user."""
    pattern = pattern_of(train)
    return _scorer(pattern, _similarity(pattern, neighbours))


def user_knn(train: sparse.csr_matrix | sparse.csr_array, *, neighbours: int = 300) -> Scorer:
    """An item scores by the similar users who have it."""
    pattern = pattern_of(train)
    return _scorer(_similarity(pattern.T.tocsr(), neighbours).T.tocsr(), pattern)


def _scorer(left: sparse.csr_matrix, right: sparse.csr_matrix) -> Scorer:
    def score(rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.asarray((left[rows] @ right).toarray()))

    return score


def _similarity(columns: sparse.csr_matrix, neighbours: int) -> sparse.csr_matrix:
    """Cosine similarity of columns [n, n]; in column j the most similar ones of j, itself included."""
    model = implicit_module("nearest_neighbours").CosineRecommender(K=neighbours + 1, num_threads=1)
    # It normalises and multiplies in COO form, which the library itself warns about.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(columns, show_progress=False)
    return sparse.csr_matrix(model.similarity)
