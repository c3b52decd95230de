"""Baselines that a model must beat, each a function from the train matrix to a scorer of its users.

They read the raw interactions and are NOT private: they are references for simulations, or what a silo could do
alone, and are never released. A further baseline is one more file and one line in `BASELINES`; the suite in
tests/evaluation/test_baseline_conformance.py then holds for it.
"""

from collections.abc import Callable

from scipy.sparse import csr_array, csr_matrix

from recsys_fed.evaluation.baselines.bpr import bpr_mf
from recsys_fed.evaluation.baselines.ease import ease
from recsys_fed.evaluation.baselines.implicit_als import implicit_als
from recsys_fed.evaluation.baselines.neighbours import item_knn, user_knn
from recsys_fed.evaluation.baselines.popularity import popularity
from recsys_fed.evaluation.baselines.pure_svd import pure_svd
from recsys_fed.evaluation.scorer import Scorer

__all__ = ["BASELINES", "bpr_mf", "ease", "implicit_als", "item_knn", "popularity", "pure_svd", "user_knn"]

BASELINES: dict[str, Callable[[csr_matrix | csr_array], Scorer]] = {
    "popularity": popularity,
    "item-knn": item_knn,
    "user-knn": user_knn,
    "pure-svd": pure_svd,
    "implicit-als": implicit_als,
    "bpr-mf": bpr_mf,
    "ease": ease,
}
"""Name -> function of the train matrix that returns a scorer. Defaults fit MovieLens-1M."""
