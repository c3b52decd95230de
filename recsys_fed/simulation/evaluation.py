"""Metrics of a simulated federation over the users of all silos: what no party of a real one could compute."""

from dataclasses import replace

import numpy as np
import torch

from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.evaluation.sampled import SampledTrials, draw_negatives, evaluate_sampled
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
    return replace(
        federation,
        train=federation.train[rows],
        test=federation.test[rows],
        users_of_silo=[],
        unranked=None if federation.unranked is None else federation.unranked[rows],
        negatives=None if federation.negatives is None else federation.negatives[rows],
    )


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
    metrics = evaluate_ranking(score, train=federation.excluded, test=federation.test).means()
    if sampled_negatives:
        trials = _trials(federation, n=sampled_negatives, rng=np.random.default_rng([seed, _NEGATIVES]))
        sampled = evaluate_sampled(
            score,
            users=trials.users,
            positives=trials.positives,
            negatives=trials.negatives,
            n_items=federation.train.shape[1],
        )
        metrics |= sampled.means()
    return metrics


def _trials(federation: SimulatedFederation, *, n: int, rng: np.random.Generator) -> SampledTrials:
    """The negatives that the source publishes where it has so many for each test item, else drawn ones."""
    published = federation.negatives
    if published is None or published.shape[1] != n or np.diff(federation.test.indptr).max() > 1:
        return draw_negatives(federation.excluded, federation.test, n=n, rng=rng)
    users, positives = federation.test.nonzero()
    return SampledTrials(users=users.astype(np.int64), positives=positives, negatives=published[users])
