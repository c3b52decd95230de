"""What of a data set is trained on, what is held out to be predicted, and what is neither.

Settings are chosen on validation data and reported on test data: while a validation part is held out, test
interactions are in no matrix at all.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys_fed.config import SimulationConfig
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.report import report_without
from recsys_fed.data.split import LEAVE_TWO_OUT, Mask, leave_two_out, per_user_random, split
from recsys_fed.errors import ConfigurationError


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
        validation = leave_two_out(interactions)[1]
        held_out, unranked = (validation, nothing) if on_validation else (test, validation)
        return Parts(train=~test & ~validation, held_out=held_out, unranked=unranked)
    if not on_validation:
        return Parts(train=~test, held_out=test, unranked=nothing)
    left = np.flatnonzero(~test)
    drawn = per_user_random(interactions.select(~test), test_fraction=config.test_fraction, rng=rng)
    validation = nothing.copy()
    validation[left[drawn]] = True
    return Parts(train=~test & ~validation, held_out=validation, unranked=nothing)


def valued_at_least(dataset: Dataset, min_value: float) -> Dataset:
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
