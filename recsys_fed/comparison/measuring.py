"""What every user gets from a scorer: Recall@20 and NDCG@20, and Recall@20 of test items by how frequent they are.

The same full ranking as `evaluation.protocol`, ranked once for all of these figures.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from recsys_fed.evaluation.metrics import HEADLINE, HEADLINE_CUTOFF, HEADLINE_NAMES, recall_at
from recsys_fed.evaluation.protocol import Scorer, are_among, score_block
from recsys_fed.evaluation.ranking import top_items

Floats = npt.NDArray[np.float64]
Groups = Mapping[str, npt.NDArray[np.bool_]]
POPULARITY_GROUPS = ("frequent items", "middle items", "rare items")
# Scores that are held at once: 16 MB in float64.
_BLOCK_SCORES = 1 << 21


def item_groups(train: sparse.csr_matrix) -> dict[str, npt.NDArray[np.bool_]]:
    """Items by how often they occur in train: each group has about a third of all interactions, bool [n_items]."""
    counts = np.asarray(train.sum(axis=0)).ravel()
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    third = np.minimum(3 * before / max(counts.sum(), 1), 2.999).astype(int)
    group = np.empty(len(counts), dtype=int)
    group[order] = third
    return {name: group == k for k, name in enumerate(POPULARITY_GROUPS)}


def measured(
    score: Scorer, excluded: sparse.csr_matrix, test: sparse.csr_matrix, groups: Groups
) -> dict[str, Floats]:
    """Metric or group -> float64 [n_users]; NaN where a user has no test item (of the group).

    `excluded` are each user's items that are no candidates, csr [n_users, n_items]: `SimulatedFederation.excluded`.
    """
    n_users, n_items = excluded.shape
    found = {name: np.full(n_users, np.nan) for name in (*HEADLINE_NAMES, *groups)}
    rows = max(1, _BLOCK_SCORES // n_items)
    for start in range(0, n_users, rows):
        block = slice(start, min(start + rows, n_users))
        if test[block].nnz:
            values = _measured_block(score_block(score, block, n_items), excluded[block], test[block], groups)
            for name, part in values.items():
                found[name][block] = part
    return found


def _measured_block(
    scores: torch.Tensor, excluded: sparse.csr_matrix, test: sparse.csr_matrix, groups: Groups
) -> dict[str, Floats]:
    # A copy is written to: scores may be one row for everybody.
    scores = scores.cpu().clone(memory_format=torch.contiguous_format)
    scores[_pairs(excluded)] = -torch.inf
    items = top_items(scores, HEADLINE_CUTOFF)
    users, relevant = _pairs(test)
    hits = are_among(items, users, relevant, n_items=scores.shape[1])
    there = torch.from_numpy(np.diff(test.indptr).astype(np.int64))
    k = HEADLINE_CUTOFF
    found = {metric.at(k): _known(metric.values(hits, there, k), there) for metric in HEADLINE}
    for name, members in groups.items():
        inside = torch.from_numpy(members)
        of_group = torch.bincount(users[inside[relevant]], minlength=len(items))
        found[name] = _known(recall_at(hits & inside[items], of_group, k), of_group)
    return found


def _pairs(matrix: sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
    users = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return torch.from_numpy(users), torch.from_numpy(matrix.indices.astype(np.int64))


def _known(values: torch.Tensor, n_relevant: torch.Tensor) -> Floats:
    return np.asarray(torch.where(n_relevant > 0, values, torch.nan).numpy())
