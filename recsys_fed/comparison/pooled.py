"""The ceiling: what non-private baselines reach with all users of all silos in one place."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from recsys_fed.comparison.lines import Line, line
from recsys_fed.comparison.measuring import Groups, measured
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import ease, implicit_als, popularity
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.personalisation.folds import held_out

NOTE = "no privacy, all in one place"
LARGEST_EASE = 20_000
"""Catalogues above this have no ceiling by EASE, which inverts a matrix of that size."""
# Of EASE in users, of implicit ALS as it is.
_OF_EASE, _OF_ALS = (0.03, 0.08, 0.2, 0.5), (1.0, 8.0, 60.0)
_HELD_OUT = 0.1
Fit = Callable[[sparse.csr_matrix, float], Scorer]


def popularity_line(federation: SimulatedFederation, groups: Groups) -> Line:
    """Exact counts of all silos: not private."""
    score = popularity(federation.train)
    return line("popularity", [measured(score, federation.excluded, federation.test, groups)], note="not private")


def pooled_lines(
    federation: SimulatedFederation, groups: Groups, *, rng: np.random.Generator, say: Callable[[str], None]
) -> Iterator[Line]:
    """EASE, and implicit ALS where its library is installed; their strength is chosen on a tenth of train."""
    train, excluded, test = federation.train, federation.excluded, federation.test
    kept, held = held_out(train, share=_HELD_OUT, rng=rng)
    if train.shape[1] <= LARGEST_EASE:
        strength = best_strength(_ease, _OF_EASE, kept, held)
        yield line("pooled EASE", [measured(_ease(train, strength), excluded, test, groups)], note=NOTE)
    try:
        strength = best_strength(_als, _OF_ALS, kept, held)
    except ConfigurationError as error:
        say(f"without pooled implicit ALS: {error}")
        return
    yield line("pooled implicit ALS", [measured(_als(train, strength), excluded, test, groups)], note=NOTE)


def best_strength(fit: Fit, strengths: tuple[float, ...], kept: sparse.csr_matrix, held: sparse.csr_matrix) -> float:
    """The strength under which most of `held` is found by `kept`, by ndcg@20; the first where nothing is held."""

    def quality(strength: float) -> float:
        found = evaluate_ranking(fit(kept, strength), train=kept, test=held, cutoffs=(20,), whole_ranking=False)
        return float(found.per_user["ndcg@20"].mean())

    return max(strengths, key=quality) if held.nnz else strengths[0]


def _ease(train: sparse.csr_matrix, strength: float) -> Scorer:
    return ease(train, regularization=max(strength * train.shape[0], 1.0))


def _als(train: sparse.csr_matrix, strength: float) -> Scorer:
    return implicit_als(train, regularization=strength)
