"""A user's vector from a history with weights, whole or by one change at a time.

With s_i the weight of item i in the history (1 for a plain interaction) and w_i the model's own weight of the item:

    "ridge":       (sum_i s_i w_i v_i v_i^T + unobserved_weight V^T V + regularization I) u = sum_i s_i w_i v_i
    "projection":  u = sum_i s_i w_i v_i / ||(s_i w_i)_i||

For s_i = 1 these are `models.items`, and so they are for s_i = 2^(-age / half-life) with the model's half-life, in
positions or in days. All of it is a sum over items, so one event is a rank-one update.

Why an item: what each item of the user's history adds to its score. The parts sum to the score, exactly.

    score_j = b_j + v_j u,   u = A^-1 sum_i s_i w_i v_i   (ridge)   or   u = sum_i s_i w_i v_i / norm   (projection)

so item i adds s_i w_i v_j A^-1 v_i, or s_i w_i v_j v_i / norm; with a residual table B it adds s_i B_ij more.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.history import SECONDS_A_DAY, UNTIMED, Change, UserHistory
from recsys_fed.serving.packed_model import PackedModel

_Vector = npt.NDArray[np.float64]
# Sums are kept relative to a level; beyond so many doublings of it they are scaled anew.
_DOUBLINGS = 64.0
# Sums 2^20 times smaller than what is taken out of them keep ten digits; smaller ones are built afresh.
_LOST = 2.0**-40
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
    newest: float = 0.0  # half lives at the newest event
    earliest: float = 0.0  # half lives at what stands for events without a time
    size: int = 0  # items in the sums
    changes: int = 0

    def update(self, change: Change, history: UserHistory) -> None:
        """Take in one change of the history; `history` is the state after it."""
        earliest, self.newest = _ages_span(self.release, history)
        row = self.release.row_of.get(change.item)
        if row is None:
            return
        old = self._level(change.before, change.place_before, history)
        new = self._level(change.after, change.place_after, history)
        if old == new and earliest == self.earliest:
            return
        self.changes += 1
        self.size += (change.before is None) - (change.after is None)
        far = new is not None and abs(new - self.base) > _DOUBLINGS
        if not self.size or far or earliest != self.earliest or self.changes > _REBUILD_AFTER:
            self._rebuild(history)
            return
        before, after = self._weight(old), self._weight(new)
        w = float(self.release.weights[row])
        v = self.release.vectors[row].astype(np.float64)
        difference = (after - before) * w
        self.gram += np.outer(difference * v, v)
        self.right += difference * v
        self.squares += (after**2 - before**2) * w * w
        if self.squares < _LOST * (before * w) ** 2:
            self._rebuild(history)

    def solve(self, *, now: float) -> _Vector:
        """The user's vector at `now` (in half lives since time 0), float64 [dim]; zeros for an empty history."""
        if not self.size:
            return np.zeros(self.release.dim)
        if self.release.kind == "projection":
            return self.right / math.sqrt(max(self.squares, _TINY))
        scale = math.exp2(self.base - now - self.newest)
        return _solve_spd(scale * self.gram + _shared_part(self.release), scale * self.right)

    def _level(self, level: float | None, place: int, history: UserHistory) -> float | None:
        """A level as `known_levels` has it."""
        release = self.release
        if level is None or not (release.half_life or release.half_life_days):
            return level
        if release.half_life:
            return level + place / release.half_life
        time = history.times[place - 1]
        return level + (self.earliest if time == UNTIMED else time / (release.half_life_days * SECONDS_A_DAY))

    def _weight(self, level: float | None) -> float:
        return 0.0 if level is None else math.exp2(level - self.base)

    def _rebuild(self, history: UserHistory) -> None:
        fresh = build_equations(self.release, history)
        self.gram, self.right, self.squares = fresh.gram, fresh.right, fresh.squares
        self.base, self.size, self.changes = fresh.base, fresh.size, 0
        self.earliest, self.newest = fresh.earliest, fresh.newest


def build_equations(release: PackedModel, history: UserHistory) -> NormalEquations:
    """The sums of a whole history; items that the catalogue lacks are left out."""
    rows, levels = known_levels(release, history)
    base = float(levels.max()) if len(rows) else 0.0
    strengths = np.exp2(levels - base)
    gram, right, squares = _sums(release, rows, strengths)
    earliest, newest = _ages_span(release, history)
    return NormalEquations(
        release=release, gram=gram, right=right, squares=squares, base=base, earliest=earliest, newest=newest,
        size=len(rows),
    )  # fmt: skip


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
    """Rows [n] of the history's items that the catalogue has, and their levels [n], aged as the model says."""
    known = [item for item in history.levels if item in release.row_of]
    rows = np.array([release.row_of[item] for item in known], dtype=np.int64)
    levels = np.array([history.levels[item] for item in known], dtype=np.float64)
    if release.half_life:
        levels += np.array([history.places[item] for item in known], dtype=np.float64) / release.half_life
    elif release.half_life_days:
        times = history.times_of(known) / (release.half_life_days * SECONDS_A_DAY)
        levels += np.where(history.times_of(known) > UNTIMED, times, _ages_span(release, history)[0])
    return rows, levels


def aged_now(release: PackedModel, now: float, history: UserHistory) -> float:
    """What levels are held against at `now` (in half lives): what came last has no age."""
    return now + _ages_span(release, history)[1]


def _ages_span(release: PackedModel, history: UserHistory) -> tuple[float, float]:
    """The model's half lives from time 0 to what events without a time count as, and to the newest event.

    Those without a time count as the earliest that has one, of items that the catalogue has; 0 where there are none,
    or none but those.
    """
    if release.half_life:
        return 0.0, history.newest / release.half_life
    if not release.half_life_days:
        return 0.0, 0.0
    times = history.times_of(item for item in history.levels if item in release.row_of)
    known = times[times > UNTIMED] / (release.half_life_days * SECONDS_A_DAY)
    if not len(known):
        return 0.0, 0.0
    return 0.0 if len(known) == len(times) else float(known.min()), float(known.max())


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
    strengths = np.exp2(levels - aged_now(release, now, history))
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
