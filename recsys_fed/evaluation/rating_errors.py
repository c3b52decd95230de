"""Errors of predicted ratings: over all of them, by the users' activity and by the items' popularity.

    RMSE = sqrt(mean (predicted - rating)^2)        MAE = mean |predicted - rating|

over held-out ratings, each counting once, as in the literature on ratings; predictions are cut off at the scale.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.errors import DataError
from recsys_fed.evaluation.metrics import items_by_popularity, users_by_activity
from recsys_fed.models.histories import Histories

# Ratings that a user's own mean is held to the middle of the scale by.
_SHRINKAGE = 2.0


def rating_errors(
    predicted: npt.NDArray[np.floating], test: Histories, train: sparse.csr_matrix
) -> dict[str, dict[str, float]]:
    """RMSE and MAE: "overall", and for each group of users and of items that has a rating.

    Args:
        predicted: at the interactions of `test`, [n_interactions].
        test: what is held out, with ratings; interactions without one do not count.
        train: csr [n_users, n_items], by which users and items fall into groups.

    Raises:
        DataError: nothing that is held out has a rating.
    """
    ratings = ratings_of(test)
    there = ~np.isnan(ratings)
    if not there.any():
        raise DataError("Expected held-out ratings, got none. Name the column that holds them.")
    misses = np.asarray(predicted, dtype=np.float64) - ratings
    users, items = test.users.cpu().numpy(), test.items.cpu().numpy()
    groups = {name: chosen[users] for name, chosen in users_by_activity(np.diff(train.indptr)).items()}
    groups |= {name: chosen[items] for name, chosen in items_by_popularity(train).items()}
    parts = {"overall": there} | {name: chosen & there for name, chosen in groups.items()}
    return {name: _errors(misses[part]) for name, part in parts.items() if part.any()}


def user_means(train: Histories, *, lowest: float, highest: float) -> npt.NDArray[np.float64]:
    """Each user's own mean rating, held to the middle of the scale by two ratings: what needs no federation.

    Returns:
        float64 [n_users].
    """
    ratings = ratings_of(train)
    there = ~np.isnan(ratings)
    users = train.users.cpu().numpy()[there]
    sums = np.bincount(users, weights=ratings[there], minlength=train.n_users)
    counts = np.bincount(users, minlength=train.n_users)
    return np.asarray((sums + _SHRINKAGE * (lowest + highest) / 2) / (counts + _SHRINKAGE))


def ratings_of(histories: Histories) -> npt.NDArray[np.float64]:
    """The rating of each interaction, NaN where it has none, float64 [n_interactions]."""
    values = histories.signals.value if histories.signals is not None else None
    if values is None:
        return np.full(len(histories.items), np.nan)
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def _errors(misses: npt.NDArray[np.float64]) -> dict[str, float]:
    return {"rmse": float(np.sqrt(np.mean(misses**2))), "mae": float(np.mean(np.abs(misses)))}
