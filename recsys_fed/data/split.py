"""Splits into train and test: bool masks over interactions, true where an interaction is held out.

Every split but a given one leaves at least one interaction of each user in train, so a user with a
single interaction keeps it there. All are deterministic under the generator's seed.

`parts_of` says what of a data set is trained on, what is held out to be predicted, and what is neither. Settings are
chosen on validation data and reported on test data: while a validation part is held out, test interactions are in no
matrix at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.checks import at_least, fraction, one_of
from recsys_fed.config import SimulationConfig
from recsys_fed.data.dataset import Dataset, report_without
from recsys_fed.data.interactions import Interactions
from recsys_fed.errors import ConfigurationError, DataError

Mask = npt.NDArray[np.bool_]

LEAVE_TWO_OUT, NONE = "leave-two-out", "none"
# What is held out came after what is trained on: the question is which item comes next.
BY_TIME = ("leave-last-out", LEAVE_TWO_OUT, "global-temporal")


def per_user_random(interactions: Interactions, *, test_fraction: float, rng: np.random.Generator) -> Mask:
    """Hold out a random `test_fraction` of each user's interactions, bool [n].

    A user with n interactions gives up floor(test_fraction * n + U), U uniform in [0, 1): the expected
    share is exact for short histories as well (at most n - 1 go).
    """
    fraction(test_fraction=test_fraction)
    shuffle = rng.random(len(interactions))
    sizes = np.bincount(interactions.user, minlength=interactions.n_users)
    quota = np.floor(test_fraction * sizes + rng.random(interactions.n_users)).astype(np.int64)
    return _first_of_each_user(interactions, (shuffle,), quota=quota)


def leave_last_out(interactions: Interactions, *, n_last: int = 1) -> Mask:
    """Hold out each user's latest `n_last` interactions, bool [n]; of equal times the later row is later.

    Raises:
        DataError: the interactions have no times.
    """
    at_least(1, n_last=n_last)
    newest_first = _newest_first(interactions)
    quota = np.full(interactions.n_users, n_last)
    return _first_of_each_user(interactions, newest_first, quota=quota)


def _leave_two_out(interactions: Interactions) -> tuple[Mask, Mask]:
    """Each user's latest interaction (test) and the one before it (validation), two masks bool [n].

    Of equal times the later row is later. Users with fewer than three interactions hold nothing out.

    Raises:
        DataError: the interactions have no times.
    """
    newest_first = _newest_first(interactions)
    enough = np.bincount(interactions.user, minlength=interactions.n_users) >= 3
    last, last_two = (_first_of_each_user(interactions, newest_first, quota=n * enough) for n in (1, 2))
    return last, last_two & ~last


def global_temporal(interactions: Interactions, *, test_fraction: float) -> Mask:
    """Hold out the latest `test_fraction` of all interactions, bool [n]; of equal times the last rows.

    A user whose whole history is that late keeps the earliest interaction in train. The times must be
    comparable between users: clock times, not positions in each user's own order.

    Raises:
        DataError: the interactions have no times.
    """
    fraction(test_fraction=test_fraction)
    by_time = np.argsort(_times(interactions), kind="stable")
    late = np.zeros(len(interactions), dtype=bool)
    late[by_time[len(by_time) - round(test_fraction * len(by_time)) :]] = True
    quota = np.bincount(interactions.user[late], minlength=interactions.n_users)
    position = np.empty(len(interactions), dtype=np.int64)
    position[by_time] = np.arange(len(interactions))
    return _first_of_each_user(interactions, (-position,), quota=quota)


def given_split(dataset: Dataset) -> Mask:
    """The split that comes with the data set, untouched, bool [n].

    Raises:
        DataError: it comes with none.
    """
    if dataset.is_test is None:
        raise DataError(
            f"Expected {dataset.name} to come with a split, it does not. Choose another method, or one of "
            "the splits of the source (PATH#NAME)."
        )
    return dataset.is_test


def _auto(dataset: Dataset, test_fraction: float, n_last: int, rng: np.random.Generator) -> Mask:
    if dataset.is_test is not None:
        return given_split(dataset)
    return per_user_random(dataset.interactions, test_fraction=test_fraction, rng=rng)


_Method = Callable[[Dataset, float, int, np.random.Generator], Mask]

METHODS: dict[str, _Method] = {
    "auto": _auto,
    "given": lambda dataset, _fraction, _last, _rng: given_split(dataset),
    "per-user-random": lambda dataset, share, _last, rng: per_user_random(
        dataset.interactions, test_fraction=share, rng=rng
    ),
    "leave-last-out": lambda dataset, _fraction, last, _rng: leave_last_out(dataset.interactions, n_last=last),
    LEAVE_TWO_OUT: lambda dataset, _fraction, _last, _rng: _leave_two_out(dataset.interactions)[0],
    NONE: lambda dataset, _fraction, _last, _rng: np.zeros(len(dataset.interactions), dtype=bool),
    "global-temporal": lambda dataset, share, _last, _rng: global_temporal(dataset.interactions, test_fraction=share),
}


def split(
    dataset: Dataset,
    *,
    rng: np.random.Generator,
    method: str = "auto",
    test_fraction: float = 0.1,
    n_last: int = 1,
) -> Mask:
    """The test mask of a data set by the name of a method, bool [n].

    Args:
        dataset: what to split.
        rng: for the random methods.
        method: a name of `METHODS`; "auto" is the given split where there is one, else per-user-random; "none" holds
            nothing out.
        test_fraction: share held out by per-user-random and global-temporal, in (0, 1).
        n_last: interactions a user held out by leave-last-out.

    Raises:
        ConfigurationError: an unknown method, or a setting out of range.
        DataError: the method needs what the data set lacks (times, a given split).
    """
    one_of(METHODS, split=method)
    return METHODS[method](dataset, test_fraction, n_last, rng)


def _times(interactions: Interactions) -> npt.NDArray[np.int64]:
    if interactions.time is None:
        raise DataError(
            "Expected interactions with times for a split by time, got none. Name the column of the times, "
            "or use per-user-random."
        )
    return interactions.time


def _newest_first(interactions: Interactions) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Keys of the order from the newest row on; ~t = -t - 1 does not overflow for rows without a time, the oldest."""
    return -np.arange(len(interactions)), ~_times(interactions)


def _first_of_each_user(
    interactions: Interactions, keys: tuple[npt.NDArray[Any], ...], *, quota: npt.NDArray[np.integer]
) -> Mask:
    """True for each user's first min(quota, n - 1) of n interactions by `keys` (the last key counts most)."""
    sizes = np.bincount(interactions.user, minlength=interactions.n_users)
    order = _by_user(interactions, np.argsort(keys[0]) if len(keys) == 1 else np.lexsort(keys))
    starts = np.cumsum(sizes) - sizes
    owner = interactions.user[order]
    rank = np.arange(len(order)) - starts[owner]
    mask = np.zeros(len(order), dtype=bool)
    mask[order] = rank < np.minimum(quota, sizes - 1)[owner]
    return mask


def _by_user(interactions: Interactions, order: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
    """The interactions user by user, those of one user in the given order, [n]; a counting sort."""
    one_row = (order, interactions.user[order], np.array([0, len(order)]))
    return np.asarray(sparse.csr_matrix(one_row, shape=(1, interactions.n_users)).tocsc().data)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """Disjoint masks over the interactions, bool [n]; what is in none of them is not used.

    Attributes:
        train: histories that models see.
        held_out: to be predicted.
        unranked: neither, and no candidate of a ranking either.
    """

    train: Mask
    held_out: Mask
    unranked: Mask


def parts_of(dataset: Dataset, config: SimulationConfig, *, rng: np.random.Generator) -> Parts:
    """Split by the configuration's method; held_out = "validation" leaves the test part out altogether.

    The validation part is the last but one of leave-two-out. Under every other method it is a random
    `test_fraction` of what each user has outside the test part. Leave-two-out never trains on either, so that both
    parts are predicted from the same histories; the validation item is known by the time of the test item, so it is
    no candidate there.
    """
    interactions, nothing = dataset.interactions, np.zeros(len(dataset.interactions), dtype=bool)
    test = split(dataset, rng=rng, method=config.split, test_fraction=config.test_fraction)
    on_validation = config.held_out == "validation"
    if config.split == LEAVE_TWO_OUT:
        validation = _leave_two_out(interactions)[1]
        held_out, unranked = (validation, nothing) if on_validation else (test, validation)
        return Parts(train=~test & ~validation, held_out=held_out, unranked=unranked)
    if not on_validation:
        return Parts(train=~test, held_out=test, unranked=nothing)
    left = np.flatnonzero(~test)
    drawn = per_user_random(interactions.select(~test), test_fraction=config.test_fraction, rng=rng)
    validation = nothing.copy()
    validation[left[drawn]] = True
    return Parts(train=~test & ~validation, held_out=validation, unranked=nothing)


def are_hits(interactions: Interactions, hit_weight: float, *, kinds: Mapping[str, float]) -> Mask:
    """Which interactions count as found where they are held out, bool [n]: those of weight `hit_weight` or more.

    -1 is half the weight of the heaviest of `kinds`. Without weights all count.
    """
    least = hit_weight if hit_weight >= 0 else max(kinds.values(), default=0.0) / 2
    if interactions.weight is None:
        return np.ones(len(interactions), dtype=bool)
    return np.asarray(interactions.weight >= np.float32(least), dtype=bool)


def grown_parts(interactions: Interactions, parts: Parts, *, share: float, rng: np.random.Generator) -> Parts:
    """The parts when only a share of the train interactions is there: the oldest, of all or of each user.

    Times that start alike for all users are positions in their own order: then it is the oldest of each. Without
    times it is a random part, of which larger shares hold the smaller ones. The others are unranked, so that whatever
    the share is, the same items are candidates.
    """
    if share >= 1:
        return parts
    rows = np.flatnonzero(parts.train)
    if interactions.time is None:
        place = rng.random(len(rows))
    else:
        place = _places_in_time(interactions.user[rows], interactions.time[rows])
    kept = np.zeros_like(parts.train)
    kept[rows[place < share]] = True
    return replace(parts, train=kept, unranked=parts.unranked | (parts.train & ~kept))


def _places_in_time(user: npt.NDArray[np.integer], time: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Place of each interaction among all, or among those of its user, in [0, 1); of equal times the row counts."""
    sizes = np.bincount(user)
    order = np.lexsort((np.arange(len(time)), time, user))
    starts = np.cumsum(sizes) - sizes
    first = time[order][starts[sizes > 0]]
    place = np.empty(len(time))
    if len(first) > 1 and (first == first[0]).all():
        owner = user[order]
        place[order] = (np.arange(len(time)) - starts[owner]) / sizes[owner]
    else:
        place[np.lexsort((np.arange(len(time)), time))] = np.arange(len(time)) / max(len(time), 1)
    return place


# Items of about the same popularity: so many next to each other in its order.
_EXCHANGED = 50


def exchange_items(interactions: Interactions, *, share: float, rng: np.random.Generator) -> Interactions:
    """The interactions with the items of a random share of the users exchanged for others about as popular.

    One permutation for all of these users: what goes with what stays as clear, but it is something else.
    """
    users = rng.random(interactions.n_users) < share
    order = np.argsort(-np.bincount(interactions.item, minlength=interactions.n_items), kind="stable")
    other = np.empty(len(order), dtype=interactions.item.dtype)
    for start in range(0, len(order), _EXCHANGED):
        group = order[start : start + _EXCHANGED]
        other[group] = rng.permutation(group)
    moved = np.where(users[interactions.user], other[interactions.item], interactions.item)
    return replace(interactions, item=moved.astype(interactions.item.dtype))


def shuffle_order(interactions: Interactions, train: Mask, *, rng: np.random.Generator) -> Interactions:
    """The same interactions with those of each user that `train` [n] marks in a random order.

    Items change places, with their values and weights; times stay where they are. Whatever a model gains by order it
    must then lose: the control of an experiment.
    """
    rows = np.flatnonzero(train)
    owner = interactions.user[rows]
    places = rows[np.argsort(owner, kind="stable")]
    drawn = rows[np.lexsort((rng.random(len(rows)), owner))]
    changed: dict[str, Any] = {}
    for name in ("item", "value", "weight"):
        column = getattr(interactions, name)
        if column is not None:
            changed[name] = column.copy()
            changed[name][places] = column[drawn]
    return replace(interactions, **changed)


def drop_lower_values(dataset: Dataset, min_value: float) -> Dataset:
    """The data set with the interactions of at least `min_value` only; all ids, and so all users, stay.

    Raises:
        ConfigurationError: there are no values.
    """
    if np.isneginf(min_value):
        return dataset
    value = dataset.interactions.value
    if value is None:
        raise ConfigurationError(
            f"Expected no min_value for interactions without values, got {min_value}. Leave it out, or name "
            "the column that holds the values."
        )
    kept = np.asarray(value >= min_value, dtype=bool)
    is_test = None if dataset.is_test is None else dataset.is_test[kept]
    report = report_without(dataset.report, kept, "below the minimum value")
    return replace(dataset, interactions=dataset.interactions.select(kept), is_test=is_test, report=report)
