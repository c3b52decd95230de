"""Membership inference from the released item embeddings alone: does the model know this history too well?

One half of a history is folded in and the other half is ranked; the score is how far the second half stands above all
items, in standard deviations. A model that has learned a person's co-occurrences by heart scores them higher.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.audit.attacks.separation import Separation, separation
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.users import scores, user_vectors

_BATCH = 512


def membership_scores(model: ItemEmbeddings, histories: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """One score a person, float64 [n_users]; a history of fewer than two items scores 0."""
    found = np.zeros(histories.shape[0])
    for start in range(0, histories.shape[0], _BATCH):
        part = histories[start : start + _BATCH].tocsr()
        first, second = _halves(part)
        for folded, ranked in ((first, second), (second, first)):
            found[start : start + part.shape[0]] += _standing(model, folded, ranked) / 2
    return found


def membership(
    models: Mapping[str, ItemEmbeddings], groups: Mapping[str, tuple[sparse.csr_matrix, sparse.csr_matrix]]
) -> dict[str, dict[str, Separation]]:
    """Separation of members and others by model and by group of people (members, others)."""
    return {
        name: {
            group: separation(membership_scores(model, members), membership_scores(model, others))
            for group, (members, others) in groups.items()
        }
        for name, model in models.items()
    }


def _halves(matrix: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Every second interaction of each user, and the others."""
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    halves = []
    for parity in (0, 1):
        half = matrix.copy()
        half.data = (place % 2 == parity).astype(np.float32)
        half.eliminate_zeros()
        halves.append(half)
    return halves[0], halves[1]


def _standing(model: ItemEmbeddings, folded: sparse.csr_matrix, ranked: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    table = scores(model, user_vectors(model, histories_of(folded))).double().numpy()
    sizes = np.diff(ranked.indptr)
    own = np.asarray(ranked.multiply(table).sum(axis=1)).ravel() / np.maximum(sizes, 1)
    spread = np.maximum(table.std(axis=1), 1e-12)
    return np.asarray(np.where((sizes > 0) & (np.diff(folded.indptr) > 0), (own - table.mean(axis=1)) / spread, 0.0))
