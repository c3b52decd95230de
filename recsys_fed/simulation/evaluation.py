"""Metrics of a simulated federation over the users of all silos: what no party of a real one could compute."""

from dataclasses import replace

import numpy as np
import torch

from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.evaluation.negatives import draw_negatives
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.evaluation.sampled import evaluate_sampled
from recsys_fed.evaluation.scorer import Scorer
from recsys_fed.models.device import resolve_device
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.users import scores, user_vectors

# Purposes of the seed, apart from those of data, trainer and noise.
_NEGATIVES, _USERS = 21, 22


def evaluated(federation: SimulatedFederation, *, n_users: int = 0, seed: int = 0) -> SimulatedFederation:
    """The federation with the rows of `n_users` random users who have a test item; of all, for 0 or too many.

    Only for measuring: silos are those of the whole federation and do not fit these rows.
    """
    there = np.flatnonzero(np.diff(federation.test.indptr))
    if not 0 < n_users < len(there):
        return federation
    rows = np.sort(np.random.default_rng([seed, _USERS]).choice(there, n_users, replace=False))
    return replace(federation, train=federation.train[rows], test=federation.test[rows], users_of_silo=[])


def fold_in_scorer(model: ItemEmbeddings, federation: SimulatedFederation, *, device: str = "auto") -> Scorer:
    """Scores of a model for users who are folded in from their train items."""
    where = resolve_device(device)
    placed = model.to(where)
    users = user_vectors(placed, histories_of(federation.train, device=where))

    def score(rows: slice) -> torch.Tensor:
        return scores(placed, users[rows])

    return score


def evaluate(
    score: Scorer, federation: SimulatedFederation, *, sampled_negatives: int = 0, seed: int = 0
) -> dict[str, float]:
    """Full-ranking metrics and, if asked for, those of each test item among sampled negatives ("sampled_...").

    Raises:
        DataError: no user has a test item.
    """
    train, test = federation.train, federation.test
    metrics = evaluate_ranking(score, train=train, test=test).means()
    if sampled_negatives:
        trials = draw_negatives(train, test, n=sampled_negatives, rng=np.random.default_rng([seed, _NEGATIVES]))
        sampled = evaluate_sampled(
            score,
            users=trials.users,
            positives=trials.positives,
            negatives=trials.negatives,
            n_items=train.shape[1],
        )
        metrics |= sampled.means()
    return metrics
