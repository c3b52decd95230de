"""Lists that give up some score for breadth: diversity, the user's own genres, a share for what is little known.

The list is built greedily. With relevance r_i in [0, 1], the item that is added next maximises

    (1 - d - c) r_i  -  d max_{j listed} cos(v_i, v_j)  -  c KL(p || q of the list with i)

d > 0 alone is MMR (Carbonell and Goldstein 1998), c > 0 alone is calibration (Steck 2018): p is the share of each
genre in the user's history, q in the list. If places are needed for items outside the head, only those are
considered.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.serving.packed_model import PackedModel, Rows

# q is mixed with a little of p, so that a genre that is not listed yet costs much, but not everything.
_MIX = 0.01
_Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RerankWeights:
    """How much of each; all zero keeps the order of the scores."""

    diversity: float = 0.0
    calibration: float = 0.0
    group_share: float = 0.0

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return max(self.diversity, self.calibration, self.group_share) > 0


def rerank(
    release: PackedModel, rows: Rows, scores: npt.NDArray[np.floating], k: int, *, breadth: RerankWeights,
    genres: dict[str, float], tail: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Places among `rows` of the k items of the list, in its order.

    Guarantees: reads the released model, public categories and this user's own history (`genres`) alone.

    Args:
        release: the model.
        rows, scores: candidates, best first. k: length of the list.
        breadth: the weights.
        genres: share of each genre in the user's history, summing to 1; empty for nobody known.
        tail: which items of the catalogue are outside the head, bool [n_items]. The share is met as far as the
            candidates have such items.
    """
    relevance = _relevance(scores)
    directions = release.vectors[rows] / np.maximum(release.norms[rows], 1e-12)[:, None]
    shares = _genre_shares(release, rows, genres)
    wanted = np.array(list(genres.values()), dtype=np.float64)
    nearest, listed_genres = np.zeros(len(rows)), np.zeros(len(genres))
    chosen: list[int] = []
    free = np.ones(len(rows), dtype=bool)
    in_tail, owed = tail[rows], math.ceil(breadth.group_share * k)
    weight = 1.0 - breadth.diversity - breadth.calibration
    for place in range(min(k, len(rows))):
        gain = weight * relevance
        if breadth.diversity and place:
            gain = gain - breadth.diversity * nearest
        if breadth.calibration and len(genres):
            gain = gain - breadth.calibration * _divergence(wanted, (listed_genres + shares) / (place + 1))
        open_ = free & in_tail if owed >= min(k, len(rows)) - place and (free & in_tail).any() else free
        best = int(np.argmax(np.where(open_, gain, -np.inf)))
        chosen.append(best)
        free[best] = False
        owed -= int(in_tail[best])
        listed_genres += shares[best]
        nearest = np.maximum(nearest, directions @ directions[best])
    return np.array(chosen, dtype=np.int64)


def genre_profile(release: PackedModel, rows: Rows, strengths: _Floats64) -> dict[str, float]:
    """Share of each genre in a history of rows with weights; an item's weight is split over its genres."""
    profile: dict[str, float] = {}
    for row, strength in zip(rows.tolist(), strengths.tolist(), strict=True):
        names = release.categories[row]
        for name in names:
            profile[name] = profile.get(name, 0.0) + strength / len(names)
    total = sum(profile.values())
    return {name: share / total for name, share in profile.items()} if total > 0 else {}


def tail_of(release: PackedModel, *, head_share: float) -> npt.NDArray[np.bool_]:
    """Items outside the head, bool [n_items]: the head is the `head_share` with the largest released bias."""
    head = np.argsort(-release.bias, kind="stable")[: max(1, round(head_share * release.n_items))]
    tail = np.ones(release.n_items, dtype=bool)
    tail[head] = False
    return tail


def _relevance(scores: npt.NDArray[np.floating]) -> _Floats64:
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / max(high - low, 1e-12)


def _genre_shares(release: PackedModel, rows: Rows, genres: dict[str, float]) -> _Floats64:
    """Share of each of the user's genres in each item, [n, n_genres]."""
    column = {name: place for place, name in enumerate(genres)}
    shares = np.zeros((len(rows), len(genres)))
    for place, row in enumerate(rows.tolist()):
        names = release.categories[row]
        for name in names:
            if name in column:
                shares[place, column[name]] += 1.0 / len(names)
    return shares


def _divergence(wanted: _Floats64, listed: _Floats64) -> _Floats64:
    """KL(p || (1 - mix) q + mix p) for every candidate's q, [n]."""
    mixed = (1.0 - _MIX) * listed + _MIX * wanted
    return np.asarray((wanted * np.log(wanted / mixed)).sum(axis=1))
