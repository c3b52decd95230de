"""Which item follows which: a model of the next item from transitions of users in order, without noise.

    T_ij = sum over users, over places p < r of i and j, of 2^(-(r - p - 1) / window)
    score_j = sum over the history of 2^(-age / recency) P_ij,    P_ij = T_ij / ((T_i. + 1)^SOURCE (T_.j + 5)^TARGET)

With TARGET items that follow everything count less. T + T^T in the place of T forgets which of the two was first. No
P is private: it is for what a silo computes for itself, and for baselines.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.models.histories import Histories
from recsys_fed.models.items import FoldIn, recency

# A place further on than so many half-lives counts for less than a fiftieth and is left out.
_HALF_LIVES = 5.6
_SOURCE_SMOOTHING, _TARGET_SMOOTHING = 1.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Following:
    """How transitions are counted and scored.

    Attributes:
        window: half-life in positions; 0: the very next item alone (a first-order Markov chain).
        recency: half-life of a history in positions; 0: its newest item alone.
        directed: whether the order of the two counts.
        source, target: exponents of what an item's transitions are divided by.
    """

    window: float = 3.5
    recency: float = 2.5
    directed: bool = True
    source: float = 0.8
    target: float = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Transitions:
    """What follows what; a function of users' histories without noise, so it is private.

    Attributes:
        how: of counting and scoring.
        counts: T, csr float32 [n_items, n_items].
    """

    how: Following
    counts: sparse.csr_matrix

    @cached_property
    def weights(self) -> sparse.csr_matrix:
        """P, csr float32 [n_items, n_items]."""
        counts = self.counts if self.how.directed else self.counts + self.counts.T
        out, into = (np.asarray(counts.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
        left = sparse.diags((out + _SOURCE_SMOOTHING) ** -self.how.source)
        right = sparse.diags((into + _TARGET_SMOOTHING) ** -self.how.target)
        return sparse.csr_matrix(left @ counts @ right, dtype=np.float32)

    def scores(self, histories: Histories) -> npt.NDArray[np.float32]:
        """float32 [n_users, n_items] for histories in order; those without one count all items alike."""
        return np.asarray((decayed_matrix(histories, half_life=self.how.recency) @ self.weights).toarray())


def count_transitions(histories: Histories, *, window: float) -> sparse.csr_matrix:
    """T of the module, csr float32 [n_items, n_items]; items of one user only follow each other.

    Raises:
        ConfigurationError: the histories have no order.
    """
    order = histories.by_order.cpu().numpy()
    items, users = histories.items.cpu().numpy()[order], histories.users.cpu().numpy()
    weights = None if histories.weights is None else histories.weights.float().cpu().numpy()[order]
    total = sparse.csr_matrix((histories.n_items, histories.n_items), dtype=np.float32)
    for distance in range(1, 2 + math.floor(_HALF_LIVES * window)):
        together = users[distance:] == users[:-distance]
        pairs = items[:-distance][together], items[distance:][together]
        decay = 2.0 ** (-(distance - 1) / window) if window else 1.0
        counted = np.full(len(pairs[0]), decay, dtype=np.float32)
        if weights is not None:
            counted *= (weights[:-distance] * weights[distance:])[together]
        total += sparse.csr_matrix((counted, pairs), shape=total.shape)
    return total


def fit_transitions(histories: Histories, how: Following) -> Transitions:
    """Count the transitions of some users.

    Guarantees: none; the result depends on the users without noise.
    """
    return Transitions(how=how, counts=count_transitions(histories, window=how.window))


def decayed_matrix(histories: Histories, *, half_life: float) -> sparse.csr_matrix:
    """2^(-age / half_life) times the weight of each interaction, csr float32 [n_users, n_items].

    0: as good as the newest alone.
    """
    matrix = histories.matrix()
    # A half-life of a hundredth of a position is that of the newest item alone.
    matrix.data *= recency(histories, FoldIn(kind="projection", half_life=half_life or 0.01)).float().cpu().numpy()
    return matrix
