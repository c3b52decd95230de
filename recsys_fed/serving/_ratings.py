"""What a user would rate items, from a model of ratings and the user's own ratings in the log.

    u = argmin sum_{i rated} (r_i - b_i - v_i u)^2 + regularization ||u||^2

and the prediction b_j + v_j u, cut off at the scale, as `models.items.predicted_ratings` computes it, without torch.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.history import Event
from recsys_fed.serving.packed_model import PackedModel, Rows

RATINGS = "ratings"


def check_orders(release: PackedModel) -> None:
    """Refuse a model of ratings where a list is asked for; raises ConfigurationError."""
    if release.kind == RATINGS:
        raise ConfigurationError(
            "The model in use predicts ratings, and orders nothing: what somebody would rate highest is not what "
            "they take next. Ask /v1/ratings, or serve a model that was trained without target = rating."
        )


def ratings_in(log: Iterable[Event]) -> dict[str, float]:
    """The latest rating of each item in a user's events, imported ones included; none that was put aside."""
    rated = (event for event in log if event.accepted and event.kind in ("rating", "imported"))
    return {event.item: event.value for event in rated if event.value is not None}


def predict_ratings(
    release: PackedModel, rated: Mapping[str, float], rows: Rows
) -> tuple[npt.NDArray[np.float64], int]:
    """Predictions for items by their rows, float64 [n]; and of how many ratings of the user they know.

    Guarantees: they follow from the released model and from this user's ratings alone.

    Raises:
        ConfigurationError: the model is none of ratings.
    """
    if release.kind != RATINGS:
        raise ConfigurationError(
            "The model in use orders items, and its scores are no ratings. Serve one that was trained with target = "
            "rating."
        )
    known = {release.row_of[item]: value for item, value in rated.items() if item in release.row_of}
    own, aims = np.array(list(known), dtype=np.int64), np.array(list(known.values()), dtype=np.float64)
    vectors, bias = release.vectors[own].astype(np.float64), release.bias[own].astype(np.float64)
    weights = release.weights[own].astype(np.float64)
    normal = (vectors * weights[:, None]).T @ vectors + release.regularization * np.eye(release.dim)
    user = np.linalg.solve(normal, (weights * (aims - bias)) @ vectors)
    found = release.bias[rows] + release.vectors[rows].astype(np.float64) @ user
    return found.clip(release.lowest, release.highest), len(known)
