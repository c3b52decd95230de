"""Reconstruction of a person's history: from what one silo sends, and from a list that the person is shown.

The attacker on updates knows everybody else of the silo and takes the known part off the item counts that it sees;
what is left is the person's own contribution, plus noise, plus whatever other silos are mixed in. Item i is scored by

    log p_i / (1 - p_i) + (r_i c - c^2 / 2) / v_i,   c = 1 / sqrt(length of the history)

with r_i what is left, v_i the variance of noise and of other silos on it, and p_i how popular the item is in the
silo: Bayes' rule for one item. The attacker knows the length of the history and names that many items.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import rankdata

from recsys_fed.audit.attacks.separation import Figure, mean_figure
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.users import scores, user_vectors

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """Share of the histories' items that are named, and AUC over all items; means over people."""

    share: Figure
    auc: Figure
    people: int

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownSilo:
    """What the attacker knows: the silo's other users, and how many silos are mixed into what it sees.

    Attributes:
        others: csr, histories of the silo's other users.
        mixed_silos: silos whose unknown users are in the sum as well.
    """

    others: sparse.csr_matrix
    mixed_silos: int = 0

    @property
    def prior(self) -> Rows:
        """log odds of each item in a history of this silo, smoothed."""
        held = np.asarray(self.others.sum(axis=0)).ravel()
        share = (held + 0.5) / (self.others.shape[0] + 1.0)
        return np.asarray(np.log(share / (1 - np.minimum(share, 1 - 1e-6))))

    def left_over(self, seen: Rows, *, known: Rows) -> Rows:
        """What is left of counts [n_items] without the known users, and without what other silos probably add."""
        return np.asarray(seen - known * (1 + self.mixed_silos))

    def variance(self, noise: float) -> Rows:
        """Of what is left, [n_items]: noise, and chance in which users other silos have."""
        lengths = np.maximum(np.diff(self.others.indptr), 1)
        squares = np.asarray(self.others.multiply(1 / lengths[:, None]).sum(axis=0)).ravel()
        # An item that the silo does not have may be in others: half a user of the usual length has it.
        squares = squares + 0.5 * float(np.mean(1 / lengths))
        # The estimate of n silos from one has their variance and n^2 times that of one.
        return np.asarray(noise**2 + squares * self.mixed_silos * (1 + self.mixed_silos) + 1e-6)


def from_counts(silo: KnownSilo, left: Rows, *, length: int, noise: float) -> Rows:
    """Score of each item, [n_items]."""
    size = 1 / max(length, 1) ** 0.5
    return np.asarray(silo.prior + (left * size - size**2 / 2) / silo.variance(noise))


def from_lists(model: ItemEmbeddings, histories: sparse.csr_matrix, *, k: int) -> Rows:
    """Score of each item from the k items that each person is shown, [n_users, n_items].

    The person's vector follows from the own history, which stays in the silo; the attacker sees the list and the
    model, and ranks items by their likeness to it. Shown items are not in the history.
    """
    table = scores(model, user_vectors(model, histories_of(histories)))
    dense = np.asarray(histories.todense(), dtype=bool)
    table[np.nonzero(dense)] = -np.inf
    shown = top_items(table, k).numpy()
    vectors = model.vectors.double().numpy()
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    guesses = vectors[shown].mean(axis=1) @ vectors.T
    np.put_along_axis(guesses, shown, -np.inf, axis=1)
    return np.asarray(guesses)


def recovered(guesses: Rows, histories: sparse.csr_matrix) -> Recovered:
    """Compare scores [n_users, n_items] with the histories; as many items are named as the history has."""
    shares, areas = [], []
    for row in range(histories.shape[0]):
        own = histories.indices[histories.indptr[row] : histories.indptr[row + 1]]
        if not len(own) or len(own) == histories.shape[1]:
            continue
        order = np.argsort(-guesses[row], kind="stable")[: len(own)]
        shares.append(len(np.intersect1d(order, own)) / len(own))
        ranks = rankdata(guesses[row])
        others = histories.shape[1] - len(own)
        areas.append((ranks[own].sum() - len(own) * (len(own) + 1) / 2) / (len(own) * others))
    return Recovered(share=mean_figure(np.array(shares)), auc=mean_figure(np.array(areas)), people=len(shares))
