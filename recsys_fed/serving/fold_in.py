"""A user's vector from a history with weights, whole or by one change at a time.

With s_i the weight of item i in the history (1 for a plain interaction) and w_i the model's own weight of the item:

    "ridge":       (sum_i s_i w_i v_i v_i^T + unobserved_weight V^T V + regularization I) u = sum_i s_i w_i v_i
    "projection":  u = sum_i s_i w_i v_i / ||(s_i w_i)_i||

For s_i = 1 these are `models.users.fold_in`. All of it is a sum over items, so one event is a rank-one update.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.history import Change, UserHistory
from recsys_fed.serving.release import Release

Vector = npt.NDArray[np.float64]
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

    release: Release
    gram: Vector  # sum_i s_i w_i v_i v_i^T at the level `base`, [dim, dim]
    right: Vector  # sum_i s_i w_i v_i, [dim]
    squares: float  # sum_i (s_i w_i)^2
    base: float  # log2: s_i = 2^(level_i - base)
    size: int = 0  # items in the sums
    changes: int = 0

    def update(self, change: Change, history: UserHistory) -> None:
        """Take in one change of the history; `history` is the state after it."""
        row = self.release.row_of.get(change.item)
        if row is None:
            return
        self.changes += 1
        self.size += (change.before is None) - (change.after is None)
        far = change.after is not None and abs(change.after - self.base) > _DOUBLINGS
        if not self.size or far or self.changes > _REBUILD_AFTER:
            self._rebuild(history)
            return
        before, after = self._weight(change.before), self._weight(change.after)
        w = float(self.release.weights[row])
        v = self.release.vectors[row].astype(np.float64)
        difference = (after - before) * w
        self.gram += np.outer(difference * v, v)
        self.right += difference * v
        self.squares += (after**2 - before**2) * w * w

    def solve(self, *, now: float) -> Vector:
        """The user's vector at `now` (in half lives since time 0), float64 [dim]; zeros for an empty history."""
        if not self.size:
            return np.zeros(self.release.dim)
        if self.release.kind == "projection":
            return self.right / math.sqrt(max(self.squares, _TINY))
        scale = math.exp2(self.base - now)
        return solve_spd(scale * self.gram + shared_part(self.release), scale * self.right)

    def _weight(self, level: float | None) -> float:
        return 0.0 if level is None else math.exp2(level - self.base)

    def _rebuild(self, history: UserHistory) -> None:
        fresh = equations_of(self.release, history)
        self.gram, self.right, self.squares = fresh.gram, fresh.right, fresh.squares
        self.base, self.size, self.changes = fresh.base, fresh.size, 0


def equations_of(release: Release, history: UserHistory) -> NormalEquations:
    """The sums of a whole history; items that the catalogue lacks are left out."""
    rows, levels = known_levels(release, history)
    base = float(levels.max()) if len(rows) else 0.0
    strengths = np.exp2(levels - base)
    gram, right, squares = _sums(release, rows, strengths)
    return NormalEquations(release=release, gram=gram, right=right, squares=squares, base=base, size=len(rows))


def fold_in(release: Release, rows: npt.NDArray[np.int64], strengths: Vector) -> Vector:
    """The full solve: a user's vector [dim] from distinct rows and their weights s [n]."""
    if not len(rows):
        return np.zeros(release.dim)
    gram, right, squares = _sums(release, rows, strengths)
    if release.kind == "projection":
        return right / math.sqrt(max(squares, _TINY))
    return solve_spd(gram + shared_part(release), right)


def taste_precision(release: Release, history: UserHistory) -> Vector:
    """Precision [dim, dim] of a user's taste: what exploration takes as certainty.

    Every item whose answer is known adds w_i v_i v_i^T, whether it was liked or not: a dislike says as much.
    """
    rows = np.union1d(history.consumed_rows(release), release.rows(set(history.levels)))
    gram, _, _ = _sums(release, rows, np.ones(len(rows)))
    return gram + shared_part(release)


def known_levels(release: Release, history: UserHistory) -> tuple[npt.NDArray[np.int64], Vector]:
    """Rows [n] of the history's items that the catalogue has, and their levels [n]."""
    pairs = [(release.row_of[item], level) for item, level in history.levels.items() if item in release.row_of]
    rows = np.array([row for row, _ in pairs], dtype=np.int64)
    return rows, np.array([level for _, level in pairs], dtype=np.float64)


def shared_part(release: Release) -> Vector:
    """unobserved_weight V^T V + regularization I, [dim, dim]."""
    identity = np.eye(release.dim)
    if release.kind == "projection":
        return identity
    return release.unobserved_weight * release.gramian + release.regularization * identity


def solve_spd(matrix: Vector, right: Vector) -> Vector:
    """Solve a symmetric positive definite system [dim, dim]; what is singular to rounding by least squares."""
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _sums(release: Release, rows: npt.NDArray[np.int64], strengths: Vector) -> tuple[Vector, Vector, float]:
    weights = strengths * release.weights[rows]
    vectors = release.vectors[rows].astype(np.float64)
    return (vectors * weights[:, None]).T @ vectors, weights @ vectors, float(weights @ weights)
