"""A user's vector from a history with weights, whole or by one change at a time.

With s_i the weight of item i in the history (1 for a plain interaction) and w_i the model's own weight of the item:

    "ridge":       (sum_i s_i w_i v_i v_i^T + unobserved_weight V^T V + regularization I) u = sum_i s_i w_i v_i
    "projection":  u = sum_i s_i w_i v_i / ||(s_i w_i)_i||

For s_i = 1 these are `models.items`, and so they are for s_i = 2^(-age / half-life) with the model's half-life. All
of it is a sum over items, so one event is a rank-one update.

Why an item: what each item of the user's history adds to its score. The parts sum to the score, exactly.

    score_j = b_j + v_j u,   u = A^-1 sum_i s_i w_i v_i   (ridge)   or   u = sum_i s_i w_i v_i / norm   (projection)

so item i adds s_i w_i v_j A^-1 v_i, or s_i w_i v_j v_i / norm; with a residual table B it adds s_i B_ij more.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.history import Change, UserHistory
from recsys_fed.serving.packed_model import PackedModel

_Vector = npt.NDArray[np.float64]
# Sums are kept relative to a level; beyond so many doublings of it they are scaled anew.
_DOUBLINGS = 64.0
# Subtractions leave rounding behind; after so many changes the sums are built afresh.
_REBUILD_AFTER = 10_000
_TINY = 1e-300


@dataclass(kw_only=True, eq=False)
class NormalEquations:
    """The sums of one user under one model version, and the rank-one update of them.

    Guarantees: they are a function of the released model and of this user's own events, so that what is served from
    them costs no privacy beyond that of the model.
    """

    release: PackedModel
    gram: _Vector  # sum_i s_i w_i v_i v_i^T at the level `base`, [dim, dim]
    right: _Vector  # sum_i s_i w_i v_i, [dim]
    squares: float  # sum_i (s_i w_i)^2
    base: float  # log2: s_i = 2^(level_i - base)
    newest: int = 0  # of the history
    size: int = 0  # items in the sums
    changes: int = 0

    def update(self, change: Change, history: UserHistory) -> None:
        """Take in one change of the history; `history` is the state after it."""
        row = self.release.row_of.get(change.item)
        if row is None:
            return
        self.newest = history.newest
        old = _aged_level(self.release, change.before, change.place_before)
        new = _aged_level(self.release, change.after, change.place_after)
        if old == new:
            return
        self.changes += 1
        self.size += (change.before is None) - (change.after is None)
        far = new is not None and abs(new - self.base) > _DOUBLINGS
        if not self.size or far or self.changes > _REBUILD_AFTER:
            self._rebuild(history)
            return
        before, after = self._weight(old), self._weight(new)
        w = float(self.release.weights[row])
        v = self.release.vectors[row].astype(np.float64)
        difference = (after - before) * w
        self.gram += np.outer(difference * v, v)
        self.right += difference * v
        self.squares += (after**2 - before**2) * w * w

    def solve(self, *, now: float) -> _Vector:
        """The user's vector at `now` (in half lives since time 0), float64 [dim]; zeros for an empty history."""
        if not self.size:
            return np.zeros(self.release.dim)
        if self.release.kind == "projection":
            return self.right / math.sqrt(max(self.squares, _TINY))
        scale = math.exp2(self.base - aged_now(self.release, now, self.newest))
        return _solve_spd(scale * self.gram + _shared_part(self.release), scale * self.right)

    def _weight(self, level: float | None) -> float:
        return 0.0 if level is None else math.exp2(level - self.base)

    def _rebuild(self, history: UserHistory) -> None:
        fresh = build_equations(self.release, history)
        self.gram, self.right, self.squares = fresh.gram, fresh.right, fresh.squares
        self.base, self.size, self.newest, self.changes = fresh.base, fresh.size, fresh.newest, 0


def build_equations(release: PackedModel, history: UserHistory) -> NormalEquations:
    """The sums of a whole history; items that the catalogue lacks are left out."""
    rows, levels = known_levels(release, history)
    base = float(levels.max()) if len(rows) else 0.0
    strengths = np.exp2(levels - base)
    gram, right, squares = _sums(release, rows, strengths)
    return NormalEquations(
        release=release, gram=gram, right=right, squares=squares, base=base, newest=history.newest, size=len(rows)
    )


def fold_in(release: PackedModel, rows: npt.NDArray[np.int64], strengths: _Vector) -> _Vector:
    """The full solve: a user's vector [dim] from distinct rows and their weights s [n]."""
    if not len(rows):
        return np.zeros(release.dim)
    gram, right, squares = _sums(release, rows, strengths)
    if release.kind == "projection":
        return right / math.sqrt(max(squares, _TINY))
    return _solve_spd(gram + _shared_part(release), right)


def taste_precision(release: PackedModel, history: UserHistory) -> _Vector:
    """Precision [dim, dim] of a user's taste: what exploration takes as certainty.

    Every item whose answer is known adds w_i v_i v_i^T, whether it was liked or not: a dislike says as much.
    """
    rows = history.answered_rows(release)
    gram, _, _ = _sums(release, rows, np.ones(len(rows)))
    return gram + _shared_part(release)


def known_levels(release: PackedModel, history: UserHistory) -> tuple[npt.NDArray[np.int64], _Vector]:
    """Rows [n] of the history's items that the catalogue has, and their levels [n], aged by place if so said."""
    known = [item for item in history.levels if item in release.row_of]
    rows = np.array([release.row_of[item] for item in known], dtype=np.int64)
    levels = np.array([history.levels[item] for item in known], dtype=np.float64)
    if release.half_life:
        levels += np.array([history.places[item] for item in known], dtype=np.float64) / release.half_life
    return rows, levels


def _aged_level(release: PackedModel, level: float | None, place: int) -> float | None:
    """A level as `known_levels` has it."""
    return level if level is None or not release.half_life else level + place / release.half_life


def aged_now(release: PackedModel, now: float, newest: int) -> float:
    """What levels are held against at `now` (in half lives): the place of the newest event has no age."""
    return now + newest / release.half_life if release.half_life else now


def _shared_part(release: PackedModel) -> _Vector:
    """unobserved_weight V^T V + regularization I, [dim, dim]."""
    identity = np.eye(release.dim)
    if release.kind == "projection":
        return identity
    return release.unobserved_weight * release.gramian + release.regularization * identity


def _solve_spd(matrix: _Vector, right: _Vector) -> _Vector:
    """Solve a symmetric positive definite system [dim, dim]; what is singular to rounding by least squares."""
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _sums(release: PackedModel, rows: npt.NDArray[np.int64], strengths: _Vector) -> tuple[_Vector, _Vector, float]:
    weights = strengths * release.weights[rows]
    vectors = release.vectors[rows].astype(np.float64)
    return (vectors * weights[:, None]).T @ vectors, weights @ vectors, float(weights @ weights)


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


def explain(release: PackedModel, history: UserHistory, row: int, *, now: float) -> Explanation:
    """The contributions of a history to the score of the item in `row`, at `now` (in half lives)."""
    rows, levels = known_levels(release, history)
    strengths = np.exp2(levels - aged_now(release, now, history.newest))
    weights = strengths * release.weights[rows]
    target = release.vectors[row].astype(np.float64)
    vectors = release.vectors[rows].astype(np.float64)
    if release.kind == "projection":
        parts = weights * (vectors @ target)
        parts /= max(float(np.linalg.norm(weights)), np.finfo(np.float32).tiny)
    else:
        normal = (vectors * weights[:, None]).T @ vectors + _shared_part(release)
        parts = weights * (vectors @ _solve_spd(normal, target))
    if release.residual is not None:
        parts = parts + strengths * release.residual[rows, row]
    order = np.argsort(-parts, kind="stable")
    bias = float(release.bias[row])
    return Explanation(score=bias + float(parts.sum()), bias=bias, rows=rows[order], parts=parts[order])
