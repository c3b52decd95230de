"""Implicit ALS (Hu, Koren and Volinsky 2008, doi 10.1109/ICDM.2008.22), by the library `implicit`.

minimise  sum_{(u,i)} c_ui (p_ui - x_u y_i)^2 + regularization (||X||^2 + ||Y||^2),   c = alpha on entries, else 1

Well tuned it is hard to beat (Rendle et al., arXiv 2110.14037).
"""

import torch
from scipy import sparse

from recsys_fed.evaluation.baselines.implicit_library import implicit_module
from recsys_fed.evaluation.baselines.pattern import pattern_of
from recsys_fed.evaluation.scorer import Scorer


def implicit_als(
    train: sparse.csr_matrix | sparse.csr_array,
    *,
    embedding_dim: int = 64,
    alpha: float = 6.0,
    regularization: float = 60.0,
    iterations: int = 16,
    seed: int = 0,
) -> Scorer:
    """Train on one thread, so that the seed decides the result."""
    pattern = pattern_of(train).astype("float32")
    model = implicit_module("als").AlternatingLeastSquares(
        factors=embedding_dim, alpha=alpha, regularization=regularization, iterations=iterations,
        random_state=seed, num_threads=1, use_gpu=False,
    )  # fmt: skip
    model.fit(pattern, show_progress=False)
    users, items = torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors)

    def score(rows: slice) -> torch.Tensor:
        return users[rows] @ items.T

    return score
