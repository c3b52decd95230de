"""The planted items of generated data: groups with long-tailed popularity, titles and categories."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NAMES = ("Drama", "Comedy", "Thriller", "Romance", "Adventure", "Mystery", "Fantasy", "Western", "Musical")
_NOUNS = ("River", "Garden", "Machine", "Winter", "Island", "Letter", "Mirror", "Tower", "Voyage", "Shadow")
# Weight of the item of rank r in its group: (r + _HEAD)^-_TAIL.
_HEAD = 4.0
_TAIL = 1.2
_SECOND_GROUP_SHARE = 0.3
_SECOND_GROUP_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Groups of items, from which interactions are drawn.

    Attributes:
        n_items: number of items.
        share: each group's share of all interactions, [n_groups].
        members: the items of all groups one group after the other, int64 [n_members].
        ladder: g + (cumulative share of the members within group g), ascending, [n_members].
        titles: a title an item, with a year.
        categories: the names of each item's groups.
    """

    n_items: int
    share: npt.NDArray[np.float64]
    members: npt.NDArray[np.int64]
    ladder: npt.NDArray[np.float64]
    titles: tuple[str, ...]
    categories: tuple[tuple[str, ...], ...]

    def draw(
        self, taste: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], *, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """An item for each owner (a row of `taste` [n, n_groups]): first a group, then an item of it."""
        rungs = np.cumsum(taste, axis=1)
        rungs = (rungs / rungs[:, -1:] + np.arange(len(taste))[:, None]).ravel()
        cell = np.searchsorted(rungs, owner + rng.random(len(owner)), side="right")
        # Rounding at the upper end of a row may reach the next one.
        group = np.minimum(cell - owner * taste.shape[1], taste.shape[1] - 1)
        place = np.searchsorted(self.ladder, group + rng.random(len(owner)), side="right")
        return np.asarray(self.members[np.minimum(place, len(self.members) - 1)], dtype=np.int64)


def plant(n_items: int, *, n_groups: int, rng: np.random.Generator) -> Groups:
    """Items in at most `n_groups` groups (no group is empty), popularity unrelated to the item's row."""
    n_groups = min(n_groups, n_items)
    share = rng.dirichlet(np.full(n_groups, 3.0))
    first = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, n_items - n_groups)])
    first = first[rng.permutation(n_items)]
    second = np.where(rng.random(n_items) < _SECOND_GROUP_SHARE, rng.integers(0, n_groups, n_items), first)
    both = np.flatnonzero(second != first)
    members = np.concatenate([np.arange(n_items), both])
    group = np.concatenate([first, second[both]])
    popularity = _popularity(first, rng=rng)
    weight = popularity[members] * np.where(np.arange(len(members)) < n_items, 1.0, _SECOND_GROUP_WEIGHT)
    order = np.argsort(group, kind="stable")
    return Groups(
        n_items=n_items,
        share=share,
        members=members[order],
        ladder=_ladder(group[order], weight[order]),
        titles=_titles(first, rng=rng),
        categories=tuple((_name(a),) if a == b else (_name(a), _name(b)) for a, b in zip(first, second, strict=True)),
    )


def _popularity(group: npt.NDArray[np.int64], *, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    order = np.lexsort((rng.random(len(group)), group))
    sizes = np.bincount(group)
    rank = np.empty(len(group))
    rank[order] = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group[order]]
    weight: npt.NDArray[np.float64] = (rank + _HEAD) ** -_TAIL
    return weight


def _ladder(group: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """g + cumulative share within group g, for members sorted by group; a group ends at g + 1 exactly."""
    share = weight / np.bincount(group, weights=weight)[group]
    running = np.cumsum(share)
    last = np.append(np.flatnonzero(np.diff(group)), len(group) - 1)
    before = np.concatenate([[0.0], running[last[:-1]]])
    ladder: npt.NDArray[np.float64] = np.minimum(running - before[group], 1.0) + group
    ladder[last] = group[last] + 1.0
    return ladder


def _name(group: int) -> str:
    return _NAMES[group] if group < len(_NAMES) else f"{_NAMES[group % len(_NAMES)]}-{group // len(_NAMES) + 1}"


def _titles(group: npt.NDArray[np.int64], *, rng: np.random.Generator) -> tuple[str, ...]:
    nouns = rng.integers(0, len(_NOUNS), len(group))
    years = 1940 + (rng.beta(4.0, 1.5, len(group)) * 80).astype(np.int64)
    return tuple(
        f"{_name(g)} {_NOUNS[noun]} {row} ({year})"
        for row, (g, noun, year) in enumerate(zip(group.tolist(), nouns.tolist(), years.tolist(), strict=True))
    )
