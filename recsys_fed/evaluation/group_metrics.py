"""Metrics by groups of users, and how much of the lists each group of items gets."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError


def by_user_group(values: npt.NDArray[np.floating], groups: npt.NDArray[np.object_]) -> dict[str, float]:
    """Mean of a metric over the users of each group, and "gap", the largest difference between two of them.

    Args:
        values: of each user, [n_users].
        groups: name of each user's group, object array of str [n_users].

    Raises:
        ConfigurationError: of different lengths, or empty.
    """
    if len(values) != len(groups) or not len(values):
        raise ConfigurationError(f"Expected one group for each of the users, got {len(values)} and {len(groups)}.")
    means = {str(name): float(values[groups == name].mean()) for name in np.unique(groups)}
    return means | {"gap": max(means.values()) - min(means.values())}


def exposure(lists: npt.NDArray[np.integer], item_groups: npt.NDArray[np.object_]) -> Mapping[str, float]:
    """Share of all places of the lists that each group of items has; places that are not filled are -1.

    >>> exposure(np.array([[0, 1], [0, -1]]), np.array(["head", "tail"], dtype=object))["head"]
    0.6666666666666666
    """
    filled = lists[lists >= 0]
    names, codes = np.unique(item_groups, return_inverse=True)
    counts = np.bincount(codes[filled], minlength=len(names))
    total = max(1, len(filled))
    return {str(name): float(count) / total for name, count in zip(names, counts, strict=True)}
