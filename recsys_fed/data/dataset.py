"""A data set: interactions, the catalogue they refer to, and what was found while reading."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import Interactions
from recsys_fed.data.report import ValidationReport
from recsys_fed.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """What a source returns.

    Attributes:
        name: the data set's short name.
        interactions: all of them, train and test.
        catalogue: the items. A source without an item file takes the sorted ids that occur in the
            interactions: fine for a simulation, which may look at all data, but a deployed silo reads the
            public catalogue that its federation agreed on, since which items occur in a silo is private.
        report: what validation found and did.
        is_test: the split that comes with the source, bool [len(interactions)], or None.
        test_negatives: for each user the items that the source publishes as negatives of the test item, codes of the
            interactions' items or -1, int64 [n_users, n]; or None.
        note: the licence's word, or what the data is.

    Raises:
        DataError: `is_test` has another length than the interactions.
    """

    name: str
    interactions: Interactions
    catalogue: Catalogue
    report: ValidationReport
    is_test: npt.NDArray[np.bool_] | None = None
    test_negatives: npt.NDArray[np.int64] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.is_test is not None and self.is_test.shape != (len(self.interactions),):
            raise DataError(f"Expected is_test of shape ({len(self.interactions)},), got {self.is_test.shape}.")
