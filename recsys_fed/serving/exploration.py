"""One place of a list filled at random, with probabilities that are known: Thompson sampling or LinUCB with a floor.

A user's taste is taken as normal around the folded-in vector u, with the covariance scale^2 A^-1 of the user's own
normal equations A. Thompson sampling (arXiv 1209.3352) draws `samples` tastes and shows the favourite of one of
them; LinUCB (arXiv 1003.0146) shows the item of the largest v_j u + b_j + scale sqrt(v_j^T A^-1 v_j). Either is
mixed with a uniform draw, so every candidate keeps a chance:

    propensity_j = (1 - floor - own) favourite_j + floor uniform_j + own [j is the model's own choice]

For Thompson sampling favourite_j is the share of the drawn tastes whose favourite is j. Given the draws, the
propensity is exact, and estimates weighted by it are unbiased.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.packed_model import PackedModel, Rows
from recsys_fed.serving.settings import ExplorationSettings

_Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """What may be shown at the explored place.

    Attributes:
        rows: distinct, int64 [n]; the first is what the model alone would show. scores: of the model, [n].
        new: which of them count as new, bool [n].
    """

    rows: Rows
    scores: npt.NDArray[np.floating]
    new: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is shown and logged: the place among the candidates, its probability, and that of the first candidate."""

    place: int
    propensity: float
    greedy_propensity: float


def choose(
    candidates: Candidates,
    release: PackedModel,
    precision: npt.NDArray[np.float64],
    *,
    settings: ExplorationSettings,
    rng: np.random.Generator,
) -> Choice:
    """Draw what the explored place shows.

    Guarantees: the draw depends on the released model and on this user's own events alone (`precision`, the scores).

    Args:
        candidates: at least one.
        release: the model.
        precision: A, [dim, dim].
        settings: method, scale, floor.
        rng: where the draw comes from.
    """
    probabilities = propensities(candidates, release, precision, settings=settings, rng=rng)
    place = int(rng.choice(len(probabilities), p=probabilities))
    return Choice(place=place, propensity=float(probabilities[place]), greedy_propensity=float(probabilities[0]))


def propensities(
    candidates: Candidates,
    release: PackedModel,
    precision: npt.NDArray[np.float64],
    *,
    settings: ExplorationSettings,
    rng: np.random.Generator,
) -> _Probabilities:
    """Probability of each candidate, float64 [n]; they sum to 1 and none is 0."""
    vectors = release.vectors[candidates.rows].astype(np.float64)
    # A = L L^T, so L^-T z has covariance A^-1, and ||L^-1 v||^2 = v^T A^-1 v.
    lower = np.linalg.cholesky(precision)
    spread = np.linalg.solve(lower, vectors.T)
    n = len(candidates.rows)
    if settings.method == "linucb":
        optimistic = candidates.scores + settings.scale * np.linalg.norm(spread, axis=0)
        favourite = np.zeros(n)
        favourite[int(np.argmax(optimistic))] = 1.0
    else:
        draws = rng.standard_normal((settings.samples, len(lower)))
        sampled = candidates.scores + settings.scale * (draws @ spread)
        favourite = np.bincount(sampled.argmax(axis=1), minlength=n) / settings.samples
    own = np.zeros(n)
    own[0] = settings.own_share
    return (1.0 - settings.floor - settings.own_share) * favourite + settings.floor * _uniform(candidates.new) + own


def _uniform(new: npt.NDArray[np.bool_]) -> _Probabilities:
    """The floor: over all candidates, half of it over the new ones where there are any."""
    everywhere = np.full(len(new), 1.0 / len(new))
    return 0.5 * everywhere + 0.5 * new / new.sum() if new.any() else everywhere
