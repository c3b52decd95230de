"""Groups of users by an attribute that somebody knows of them, such as an age band, and how each method serves them.

A simulator sees all users; the figures are its own, and not privatised. What silos report of groups are noisy sums:
see `federation.metrics_round`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys_fed.data.readers.users import Attributes
from recsys_fed.evaluation.metrics import HEADLINE_NAMES
from recsys_fed.evaluation.protocol import RankingMetrics

# Which is said to be served worst.
_BY = HEADLINE_NAMES[-1]
# A group of fewer users with a test item is shown, and not called the worst.
LEAST_USERS = 30


def groups_of(attributes: Attributes) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Attribute, value and who has it, bool [n_users], values in their order; whoever has none is in no group."""
    for name, values in attributes.items():
        for value in sorted({text for text in values if text}, key=_in_order):
            yield name, value, values == value


def _in_order(value: str) -> tuple[int, str]:
    head = value.partition(" ")[0]
    return (int(head), value) if head.isdecimal() else (-1, value)


def worst_group(groups: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The value with the lowest mean, of those with enough users; None where there are not two of them.

    Args:
        groups: value -> n_users with a test item, and mean.
    """
    enough = {value: one["mean"] for value, one in groups.items() if one["n_users"] >= LEAST_USERS}
    return min(enough, key=lambda value: enough[value]) if len(enough) > 1 else None


def metrics_by_group(measured: RankingMetrics, attributes: Attributes) -> dict[str, dict[str, Any]]:
    """Means over each group: attribute -> "groups", value -> n_users with a test item and metrics; and "worst".

    Args:
        measured: of some users.
        attributes: of all rows.
    """
    record: dict[str, dict[str, Any]] = {name: {"groups": {}} for name in attributes}
    for name, value, inside in groups_of(attributes):
        there = inside[measured.users]
        if there.any():
            means = {metric: float(measured.per_user[metric][there].mean()) for metric in HEADLINE_NAMES}
            record[name]["groups"][value] = {"n_users": int(there.sum()), **means}
    for one in record.values():
        one["worst"] = worst_group({value: {**of, "mean": of[_BY]} for value, of in one["groups"].items()})
    return record
