"""Generated interactions with planted structure: groups of items, long tails, users of mixed taste.

A user draws groups from an own mixture and items from the groups, so the expected history matrix has rank
n_groups: a model that finds the groups beats popularity clearly.

In a generated shop these are what users buy. They view a fifth of what they view for the same reasons, and the rest
because the shop shows it to everybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, positive
from recsys_fed.data.dataset import Dataset, clean_report
from recsys_fed.data.interactions import Interactions, id_array

_NAMES = ("Drama", "Comedy", "Thriller", "Romance", "Adventure", "Mystery", "Fantasy", "Western", "Musical")
_NOUNS = ("River", "Garden", "Machine", "Winter", "Island", "Letter", "Mirror", "Tower", "Voyage", "Shadow")
# Weight of the item of rank r in its group: (r + _HEAD)^-_TAIL.
_HEAD = 4.0
_TAIL = 1.2
_SECOND_GROUP_SHARE = 0.3
_SECOND_GROUP_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Groups:
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


def _plant(n_items: int, *, n_groups: int, rng: np.random.Generator) -> _Groups:
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
    return _Groups(
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


# MovieLens-1M has a mean of 165 and a median of 96 interactions a user: for a log-normal law
# mean / median = exp(sigma^2 / 2).
_ACTIVITY_SIGMA = float(np.sqrt(2 * np.log(165 / 96)))
# Concentration of a user's mixture over groups, and the part of it that is everybody's.
_TASTE = 3.0
_SHARED_TASTE = 0.2
# No user has more than this share of all items: drawing them without repetition gets slow.
_MOST_OF_CATALOGUE = 0.4
_ROUNDS = 6
_CHUNK_CELLS = 20_000_000
_START = 1_500_000_000
_THREE_YEARS = 3 * 365 * 86_400


@dataclass(frozen=True, kw_only=True)
class _Draw:
    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    bought: npt.NDArray[np.bool_] | None = None


def generate(
    *,
    n_users: int = 6_000,
    n_items: int = 3_000,
    mean_interactions: float = 100.0,
    n_groups: int = 24,
    views: int = 0,
    kinds: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Dataset:
    """A generated data set; the same arguments give the same one.

    Args:
        n_users: users, each with at least one interaction.
        n_items: items in the catalogue; in the long tail some may occur in no interaction.
        mean_interactions: about the mean a user (log-normal with MovieLens' spread; the long histories end
            at 40% of the catalogue, which lowers the mean of small catalogues).
        n_groups: planted groups, one or more a category in the catalogue.
        views: for each of these interactions, which are then of the kind "buy", so many of the kind "view".
        kinds: what "buy" and "view" weigh; without it nothing has a weight. A kind that it lacks is left out.
        seed: of the generator.

    Raises:
        ConfigurationError: a number out of range.
    """
    at_least(1, n_users=n_users, n_items=n_items, n_groups=n_groups)
    at_least(0, seed=seed, views=views)
    positive(mean_interactions=mean_interactions)
    rng = np.random.default_rng(seed)
    groups = _plant(n_items, n_groups=n_groups, rng=rng)
    wanted = _activity(n_users, n_items, mean=mean_interactions, rng=rng)
    draw = _draw_shop(wanted, groups, views=views, rng=rng) if views else _draw_all(wanted, groups, rng=rng)
    ids = id_array(range(n_items))
    interactions = Interactions(
        user=draw.user,
        item=draw.item,
        user_ids=id_array(range(n_users)),
        item_ids=ids,
        time=_times(draw.user, n_users, rng=rng),
    )
    if draw.bought is not None and kinds:
        weight = np.where(draw.bought, kinds.get("buy", 0.0), kinds.get("view", 0.0)).astype(np.float32)
        interactions = replace(interactions, weight=weight).select(weight > 0)
    return Dataset(
        name="generated",
        interactions=interactions,
        catalogue=Catalogue(item_ids=ids, titles=groups.titles, categories=groups.categories),
        report=clean_report("generated", len(interactions)),
        note="generated interactions with planted structure; no real person is in them",
    )


def _activity(n_users: int, n_items: int, *, mean: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Interactions wanted of each user, at least 1, int64 [n_users]."""
    location = np.log(mean) - _ACTIVITY_SIGMA**2 / 2
    sizes = np.rint(rng.lognormal(location, _ACTIVITY_SIGMA, n_users))
    return np.clip(sizes, 1, max(1, int(_MOST_OF_CATALOGUE * n_items))).astype(np.int64)


def _draw_all(wanted: npt.NDArray[np.int64], groups: _Groups, *, rng: np.random.Generator) -> _Draw:
    """Draws for all users, in chunks of users that bound the memory."""
    step = max(1, _CHUNK_CELLS // groups.n_items)
    user, item = [], []
    for start in range(0, len(wanted), step):
        cells = _draw_chunk(wanted[start : start + step], groups, rng=rng)
        user.append((start + cells // groups.n_items).astype(np.int32))
        item.append((cells % groups.n_items).astype(np.int32))
    return _Draw(user=np.concatenate(user), item=np.concatenate(item))


# Of the views of a shop.
_RANDOM_SHARE = 0.8


def _draw_shop(wanted: npt.NDArray[np.int64], groups: _Groups, *, views: int, rng: np.random.Generator) -> _Draw:
    """Buys, and so many views for each; what was bought and viewed is bought.

    Views at random follow what the shop shows: a long tail of its own, which nobody's taste has a part in.
    """
    n_items = groups.n_items
    drawn = _draw_all(np.rint(wanted * (1 + (1 - _RANDOM_SHARE) * views)).astype(np.int64), groups, rng=rng)
    order = np.lexsort((rng.random(len(drawn.user)), drawn.user))
    bought = np.zeros(len(order), dtype=bool)
    user = drawn.user.astype(np.int64)
    bought[order] = _rank(user[order], n_users=len(wanted)) < wanted[user[order]]
    for_taste = user * n_items + drawn.item
    owner = np.repeat(np.arange(len(wanted)), np.rint(_RANDOM_SHARE * views * wanted).astype(np.int64))
    shown = np.cumsum((rng.permutation(n_items) + _HEAD) ** -_TAIL)
    place = np.searchsorted(shown, shown[-1] * rng.random(len(owner)), side="right")
    at_random = np.setdiff1d(owner * n_items + place.clip(max=n_items - 1), for_taste)
    cells = np.concatenate([for_taste, at_random])
    ascending = np.argsort(cells)
    return _Draw(
        user=(cells[ascending] // n_items).astype(np.int32),
        item=(cells[ascending] % n_items).astype(np.int32),
        bought=np.concatenate([bought, np.zeros(len(at_random), dtype=bool)])[ascending],
    )


def _draw_chunk(wanted: npt.NDArray[np.int64], groups: _Groups, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Cells user * n_items + item, ascending; repetitions are dropped, and who lacks some draws again."""
    taste = _tastes(len(wanted), groups, rng=rng)
    taken = np.zeros(len(wanted) * groups.n_items, dtype=bool)
    missing = wanted.copy()
    for round_number in range(_ROUNDS):
        # The rarer what is left becomes, the more draws it takes to find it.
        owner = np.repeat(np.arange(len(wanted)), missing * 3 * 2**round_number // 2)
        cells = owner * groups.n_items + groups.draw(taste, owner, rng=rng)
        fresh = cells[~taken[cells]]
        fresh = fresh[_first_occurrence(fresh, size=len(taken))]
        fresh = fresh[_rank(fresh // groups.n_items, n_users=len(wanted)) < missing[fresh // groups.n_items]]
        taken[fresh] = True
        missing -= np.bincount(fresh // groups.n_items, minlength=len(wanted))
        if not missing.any():
            break
    return np.flatnonzero(taken)


def _first_occurrence(cells: npt.NDArray[np.int64], *, size: int) -> npt.NDArray[np.bool_]:
    """True where a cell (below `size`) occurs for the first time; no sorting."""
    place = np.arange(len(cells), dtype=np.int32)
    first = np.empty(size, dtype=np.int32)
    first[cells[::-1]] = place[::-1]
    return np.asarray(first[cells] == place, dtype=bool)


def _rank(owner: npt.NDArray[np.int64], *, n_users: int) -> npt.NDArray[np.int64]:
    """The how-manieth entry of its owner each one is, for ascending owners."""
    sizes = np.bincount(owner, minlength=n_users)
    return np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]


def _tastes(n_users: int, groups: _Groups, *, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Mixture over groups of each user, [n_users, n_groups]."""
    own = rng.standard_gamma(_TASTE * groups.share, size=(n_users, len(groups.share))) + 1e-12
    own /= own.sum(axis=1, keepdims=True)
    return (1 - _SHARED_TASTE) * own + _SHARED_TASTE * groups.share


def _times(user: npt.NDArray[np.int32], n_users: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Nanoseconds since 1970: a start within three years, and what follows it in whole seconds, int64 [n]."""
    start = rng.integers(_START, _START + _THREE_YEARS, n_users)
    place = rng.exponential(30_000.0, len(user))
    return (start[user] + place.astype(np.int64)) * 1_000_000_000
