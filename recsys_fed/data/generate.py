"""Generated interactions with planted structure: groups of items, long tails, users of mixed taste.

A user draws groups from an own mixture and items from the groups, so the expected history matrix has rank
n_groups: a model that finds the groups beats popularity clearly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, positive
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.identifiers import id_array
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.planted import Groups, plant
from recsys_fed.data.report import clean_report

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


def generate(
    *,
    n_users: int = 6_000,
    n_items: int = 3_000,
    mean_interactions: float = 100.0,
    n_groups: int = 24,
    seed: int = 0,
) -> Dataset:
    """A generated data set; the same arguments give the same one.

    Args:
        n_users: users, each with at least one interaction.
        n_items: items in the catalogue; in the long tail some may occur in no interaction.
        mean_interactions: about the mean a user (log-normal with MovieLens' spread; the long histories end
            at 40% of the catalogue, which lowers the mean of small catalogues).
        n_groups: planted groups, one or more a category in the catalogue.
        seed: of the generator.

    Raises:
        ConfigurationError: a number out of range.
    """
    at_least(1, n_users=n_users, n_items=n_items, n_groups=n_groups)
    at_least(0, seed=seed)
    positive(mean_interactions=mean_interactions)
    rng = np.random.default_rng(seed)
    groups = plant(n_items, n_groups=n_groups, rng=rng)
    wanted = _activity(n_users, n_items, mean=mean_interactions, rng=rng)
    draw = _draw_all(wanted, groups, rng=rng)
    ids = id_array(range(n_items))
    interactions = Interactions(
        user=draw.user,
        item=draw.item,
        user_ids=id_array(range(n_users)),
        item_ids=ids,
        time=_times(draw.user, n_users, rng=rng),
    )
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


def _draw_all(wanted: npt.NDArray[np.int64], groups: Groups, *, rng: np.random.Generator) -> _Draw:
    """Draws for all users, in chunks of users that bound the memory."""
    step = max(1, _CHUNK_CELLS // groups.n_items)
    user, item = [], []
    for start in range(0, len(wanted), step):
        cells = _draw_chunk(wanted[start : start + step], groups, rng=rng)
        user.append((start + cells // groups.n_items).astype(np.int32))
        item.append((cells % groups.n_items).astype(np.int32))
    return _Draw(user=np.concatenate(user), item=np.concatenate(item))


def _draw_chunk(wanted: npt.NDArray[np.int64], groups: Groups, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
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


def _tastes(n_users: int, groups: Groups, *, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Mixture over groups of each user, [n_users, n_groups]."""
    own = rng.standard_gamma(_TASTE * groups.share, size=(n_users, len(groups.share))) + 1e-12
    own /= own.sum(axis=1, keepdims=True)
    return (1 - _SHARED_TASTE) * own + _SHARED_TASTE * groups.share


def _times(user: npt.NDArray[np.int32], n_users: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Nanoseconds since 1970: a start within three years, and what follows it in whole seconds, int64 [n]."""
    start = rng.integers(_START, _START + _THREE_YEARS, n_users)
    place = rng.exponential(30_000.0, len(user))
    return (start[user] + place.astype(np.int64)) * 1_000_000_000
