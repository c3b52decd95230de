"""What all users in one place give without privacy: EASE and implicit ALS, tuned on a tenth of train.

A ceiling that is not tuned is none: strengths, and the size of ALS, are chosen by what is held out of train. EASE is
decomposed once for all strengths (`evaluation.ease`), and where the data is too large for that, the table says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from scipy import sparse

from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.baselines import implicit_als
from recsys_fed.evaluation.ease import DIRECTIONS, ease_spectrum
from recsys_fed.evaluation.metrics import HEADLINE_CUTOFF, NDCG
from recsys_fed.evaluation.protocol import Scorer, evaluate_ranking
from recsys_fed.personalisation.choice import hold_out_items

NOT_PRIVATE = "no privacy, all in one place"
# Of EASE in users; of implicit ALS as it is; its sizes, the first of which the strength is chosen at.
_OF_EASE, _OF_ALS, _ALS_DIMS = (0.002, 0.01, 0.03, 0.08, 0.2, 0.5), (0.3, 1.0, 8.0, 60.0), (64, 128, 256)
_VALIDATION_SHARE = 0.1
_T = TypeVar("_T", float, int)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ceiling:
    """A method, its scorer, and what the table says of it; no scorer where it could not be fitted, and why."""

    method: str
    note: str
    score: Scorer | None


def pooled_ceilings(train: sparse.csr_matrix, *, rng: np.random.Generator) -> Iterator[_Ceiling]:
    """EASE and implicit ALS of the train matrix [n_users, n_items], each tuned on a tenth of its interactions."""
    kept, held = hold_out_items(train, share=_VALIDATION_SHARE, rng=rng)
    yield _ease(train, kept, held)
    try:
        yield _als(train, kept, held)
    except ConfigurationError as error:
        yield _Ceiling(method="pooled implicit ALS", note=f"not fitted: {error}", score=None)


def _ease(train: sparse.csr_matrix, kept: sparse.csr_matrix, held: sparse.csr_matrix) -> _Ceiling:
    """One decomposition for all strengths, and one of all of train."""
    tried = ease_spectrum(kept)
    strength = _choose_setting(lambda value: tried.scorer(_ease_strength(value, kept)), _OF_EASE, kept, held)
    whole = ease_spectrum(train)
    note = NOT_PRIVATE if whole.exact else f"{NOT_PRIVATE}; approximate, by {DIRECTIONS} directions"
    return _Ceiling(method="pooled EASE", note=note, score=whole.scorer(_ease_strength(strength, train)))


def _als(train: sparse.csr_matrix, kept: sparse.csr_matrix, held: sparse.csr_matrix) -> _Ceiling:
    """The strength at the first size, then the size at that strength."""
    first = partial(implicit_als, kept, embedding_dim=_ALS_DIMS[0])
    strength = _choose_setting(lambda value: first(regularization=value), _OF_ALS, kept, held)
    sized = partial(implicit_als, kept, regularization=strength)
    dims = [dim for dim in _ALS_DIMS if dim < min(train.shape)] or _ALS_DIMS[:1]
    dim = _choose_setting(lambda value: sized(embedding_dim=value), dims, kept, held)
    score = implicit_als(train, embedding_dim=dim, regularization=strength)
    return _Ceiling(method="pooled implicit ALS", note=f"{NOT_PRIVATE}; {dim} dimensions", score=score)


def _choose_setting(
    fit: Callable[[_T], Scorer], settings: Sequence[_T], kept: sparse.csr_matrix, held: sparse.csr_matrix
) -> _T:
    """The setting under which most of `held` is found from `kept`, by ndcg@20; the first where nothing is held."""

    def quality(setting: _T) -> float:
        found = evaluate_ranking(fit(setting), train=kept, test=held, cutoffs=(HEADLINE_CUTOFF,), whole_ranking=False)
        return float(found.per_user[NDCG.at(HEADLINE_CUTOFF)].mean())

    return max(settings, key=quality) if held.nnz else settings[0]


def _ease_strength(share: float, train: sparse.csr_matrix) -> float:
    return max(share * int(train.shape[0]), 1.0)
