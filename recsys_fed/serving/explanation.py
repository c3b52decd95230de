"""Why an item: what each item of the user's history adds to its score. The parts sum to the score, exactly.

    score_j = b_j + v_j u,   u = A^-1 sum_i s_i w_i v_i   (ridge)   or   u = sum_i s_i w_i v_i / norm   (projection)

so item i adds s_i w_i v_j A^-1 v_i, or s_i w_i v_j v_i / norm; with a residual table B it adds s_i B_ij more.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.fold_in import known_levels, shared_part, solve_spd
from recsys_fed.serving.history import UserHistory
from recsys_fed.serving.release import Release


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The score of one item for one user.

    Attributes:
        score: of the item. bias: the part that is the same for everybody.
        rows: of the history. parts: what each adds, float64 [n], largest first; bias + sum(parts) = score.
    """

    score: float
    bias: float
    rows: npt.NDArray[np.int64]
    parts: npt.NDArray[np.float64]


def explain(release: Release, history: UserHistory, row: int, *, now: float) -> Explanation:
    """The contributions of a history to the score of the item in `row`, at `now` (in half lives)."""
    rows, levels = known_levels(release, history)
    strengths = np.exp2(levels - now)
    weights = strengths * release.weights[rows]
    target = release.vectors[row].astype(np.float64)
    vectors = release.vectors[rows].astype(np.float64)
    if release.kind == "projection":
        parts = weights * (vectors @ target)
        parts /= max(float(np.linalg.norm(weights)), np.finfo(np.float32).tiny)
    else:
        normal = (vectors * weights[:, None]).T @ vectors + shared_part(release)
        parts = weights * (vectors @ solve_spd(normal, target))
    if release.residual is not None:
        parts = parts + strengths * release.residual[rows, row]
    order = np.argsort(-parts, kind="stable")
    bias = float(release.bias[row])
    return Explanation(score=bias + float(parts.sum()), bias=bias, rows=rows[order], parts=parts[order])
