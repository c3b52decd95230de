"""The ceiling: what non-private baselines reach with all users of all silos in one place."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse

from recsys_fed.comparison.lines import Line, line
from recsys_fed.comparison.measuring import Groups, measured
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import BASELINES, ease
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.personalisation.folds import held_out

NOTE = "no privacy, all in one place"
LARGEST_EASE = 20_000
"""Catalogues above this have no ceiling by EASE, which inverts a matrix of that size."""
_STRENGTHS = (0.03, 0.08, 0.2, 0.5)
_HELD_OUT = 0.1


def popularity_line(federation: SimulatedFederation, groups: Groups) -> Line:
    """Exact counts of all silos: not private."""
    score = BASELINES["popularity"](federation.train)
    return line("popularity", [measured(score, federation.train, federation.test, groups)], note="not private")


def pooled_lines(
    federation: SimulatedFederation, groups: Groups, *, rng: np.random.Generator, say: Callable[[str], None]
) -> Iterator[Line]:
    """EASE, whose strength is chosen on a tenth of train, and implicit ALS where its library is installed."""
    train, test = federation.train, federation.test
    if train.shape[1] <= LARGEST_EASE:
        strength = ease_strength(train, rng=rng)
        score = ease(train, regularization=strength)
        yield line("pooled EASE", [measured(score, train, test, groups)], note=NOTE)
    try:
        score = BASELINES["implicit-als"](train)
    except ConfigurationError as error:
        say(f"without pooled implicit ALS: {error}")
        return
    yield line("pooled implicit ALS", [measured(score, train, test, groups)], note=NOTE)


def ease_strength(train: sparse.csr_matrix, *, rng: np.random.Generator) -> float:
    """The regularisation of EASE that finds most of a tenth of each history by the rest, among parts of n_users."""
    kept, held = held_out(train, share=_HELD_OUT, rng=rng)
    strengths: list[float] = [max(part * train.shape[0], 1.0) for part in _STRENGTHS]
    if not held.nnz:
        return strengths[1]

    def quality(strength: float) -> float:
        score = ease(kept, regularization=strength)
        found = evaluate_ranking(score, train=kept, test=held, cutoffs=(20,), whole_ranking=False)
        return float(found.per_user["ndcg@20"].mean())

    return max(strengths, key=quality)
