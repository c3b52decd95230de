"""A generated world of tastes: what exploration costs and finds, against always showing the best guess."""

from hashlib import sha256

import numpy as np

from recsys_fed.serving.exploration import Candidates, choose
from recsys_fed.serving.fold_in import build_equations, taste_precision
from recsys_fed.serving.history import Event, UserHistory
from recsys_fed.serving.packed_model import PackedModel
from recsys_fed.serving.search import ExactSearch
from recsys_fed.serving.settings import ExplorationSettings, FeedbackSettings

_GENRES, _PER_GENRE, _DIM = 10, 80, 12
_ITEMS = _GENRES * _PER_GENRE
# Chance of a like: of the favourite genre, and of any other; that of the popular one is an argument.
_FAVOURITE, _OTHER = 0.8, 0.05


def regret(method: str, *, users: int, rounds: int, scale: float, seed: int, popular: float = 0.3) -> float:
    """Mean regret of a user over all rounds: the best item's chance of a like, less that of the item shown.

    Each user has a favourite genre, which the model cannot know at first, and likes items of the popular one with
    probability `popular`: enough likes there, and the best guess never leaves it. Every round shows one item: a like
    counts as one, a dislike takes the item out; neither is shown again. All methods meet the same users and likes.
    """
    rng = np.random.default_rng([seed, 0])
    release = make_release(rng)
    genres = np.arange(_ITEMS) % _GENRES
    total = 0.0
    for user in range(users):
        favourite = int(rng.integers(1, _GENRES))
        chances = np.where(genres == favourite, _FAVOURITE, np.where(genres == 0, popular, _OTHER))
        likes = rng.uniform(size=_ITEMS) < chances
        draws = np.random.default_rng([seed, 1, user])
        total += _user_regret(release, chances, likes, method=method, rounds=rounds, scale=scale, rng=draws)
    return total / users


def _user_regret(
    release: PackedModel, chances: np.ndarray, likes: np.ndarray, *, method: str, rounds: int, scale: float,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    settings, history, search = FeedbackSettings(), UserHistory(), ExactSearch(release)
    equations = build_equations(release, history)
    lost = 0.0
    for _ in range(rounds):
        shown_before = history.consumed_rows(release)
        vector = equations.solve(now=0.0).astype(np.float32)
        rows, scores = search.best(vector, _ITEMS if method != "none" else 1, without=shown_before)
        row = int(rows[0])
        if method != "none":
            how = ExplorationSettings(method=method, scale=scale, floor=0.01)
            pool = Candidates(rows=rows, scores=scores, new=np.zeros(len(rows), dtype=bool))
            row = int(rows[choose(pool, release, taste_precision(release, history), settings=how, rng=rng).place])
        left = np.delete(chances, shown_before)
        lost += float(left.max() - chances[row])
        kind = "like" if likes[row] else "dislike"
        change = history.apply(Event(user="u", item=f"i{row}", kind=kind, time=0.0), settings)
        if change is not None:
            equations.update(change, history)
    return lost


def make_release(rng: np.random.Generator) -> PackedModel:
    """Items near the direction of their genre; the bias knows the popular genre."""
    genres = np.arange(_ITEMS) % _GENRES
    directions = np.linalg.qr(rng.normal(size=(_DIM, _DIM)))[0][:_GENRES]
    vectors = (directions[genres] + 0.1 * rng.normal(size=(_ITEMS, _DIM))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return PackedModel(
        version=sha256(b"world").hexdigest(),
        item_ids=tuple(f"i{row}" for row in range(_ITEMS)),
        titles=("",) * _ITEMS,
        categories=((),) * _ITEMS,
        vectors=vectors,
        bias=(0.1 * (genres == 0) + 0.01 * rng.normal(size=_ITEMS)).astype(np.float32),
        weights=np.ones(_ITEMS, dtype=np.float32),
        gramian=vectors.T.astype(np.float64) @ vectors,
        kind="ridge",
        unobserved_weight=0.02,
        regularization=1.0,
        provenance={},
    )
