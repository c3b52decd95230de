"""One line of the comparison: a method, its budget, and what every user got from it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.evaluation.protocol import RankingMetrics, evaluate_ranking
from recsys_fed.evaluation.scorer import Scorer

Floats = npt.NDArray[np.float64]
METRICS = ("recall@20", "ndcg@20")
POPULARITY_GROUPS = ("frequent items", "middle items", "rare items")


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """What a method gave, averaged over seeds.

    Attributes:
        method: its name.
        epsilon: the budget of every user; infinity where nothing is private.
        per_user: metric -> [n_users] over all rows of the federation, NaN for users without test items.
        by_popularity: group of test items -> recall@20, in the same form.
        note: what there is to say of it.
    """

    method: str
    epsilon: float = math.inf
    per_user: Mapping[str, Floats] = field(repr=False)
    by_popularity: Mapping[str, Floats] = field(repr=False)
    note: str = ""


def item_groups(train: sparse.csr_matrix) -> dict[str, npt.NDArray[np.bool_]]:
    """Items by how often they occur in train: each group has a third of all interactions, bool [n_items]."""
    counts = np.asarray(train.sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.minimum(3 * before / max(counts.sum(), 1), 2.999).astype(int)
    group = np.empty(len(counts), dtype=int)
    group[order] = third
    return {name: group == k for k, name in enumerate(POPULARITY_GROUPS)}


def measured_by_silo(
    federation: SimulatedFederation, scorer_of_silo: Callable[[int, sparse.csr_matrix], Scorer]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Full ranking of every silo's users by that silo's scorer: metrics and recall by group of test items."""
    groups = item_groups(federation.train)
    n_users = federation.train.shape[0]
    per_user = {name: np.full(n_users, np.nan) for name in METRICS}
    by_popularity = {name: np.full(n_users, np.nan) for name in groups}
    for silo, users in enumerate(federation.users_of_silo):
        train, test = federation.train[users], federation.test[users]
        if not test.nnz:
            continue
        score = scorer_of_silo(silo, train)
        found = _measure(score, train, test)
        for name in METRICS:
            per_user[name][users[found.users]] = found.per_user[name]
        for name, members in groups.items():
            some = sparse.csr_matrix(test @ sparse.diags(members.astype(test.dtype)))
            some.eliminate_zeros()
            if some.nnz:
                part = _measure(score, train, some)
                by_popularity[name][users[part.users]] = part.per_user["recall@20"]
    return per_user, by_popularity


def averaged(lines: list[Line]) -> Line:
    """The mean over seeds of one method at one budget, user by user, of the seeds in which the user was measured."""
    return replace(
        lines[0],
        per_user=_means([line.per_user for line in lines]),
        by_popularity=_means([line.by_popularity for line in lines]),
    )


def _means(parts: list[Mapping[str, Floats]]) -> dict[str, Floats]:
    means = {}
    for name in parts[0]:
        stacked = np.stack([part[name] for part in parts])
        known = (~np.isnan(stacked)).sum(axis=0)
        sums = np.nansum(stacked, axis=0)
        means[name] = np.divide(sums, known, out=np.full(sums.shape, np.nan), where=known > 0)
    return means


def _measure(score: Scorer, train: sparse.csr_matrix, test: sparse.csr_matrix) -> RankingMetrics:
    return evaluate_ranking(score, train=train, test=test, cutoffs=(20,), whole_ranking=False)
