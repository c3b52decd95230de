"""A block of a source's rows: the cells of user, item, value and time as the source gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import MissingColumnError
from recsys_fed.silo.columns import Column


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Some rows, in the order of their source.

    Attributes:
        well_formed: bool [n], false where a row is no row of the table, such as a line with too many fields.
        cells: role -> the cells of the rows that are well formed.
    """

    well_formed: npt.NDArray[np.bool_]
    cells: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.well_formed)


def positions(columns: Mapping[str, str], names: Sequence[str], source: Path | str) -> dict[str, int]:
    """Role -> position of its column among the names that are there; the first of equal names.

    Raises:
        MissingColumnError: a column is not there.
    """
    missing = [name for name in columns.values() if name not in names]
    if missing:
        there = ", ".join(names)
        if any(name.strip().replace(".", "", 1).isdigit() for name in names):
            # A row of data must not show up in a message.
            there = f"{len(names)} fields that look like data: a first row with names is missing"
        raise MissingColumnError(
            f"Expected the columns {', '.join(missing)} in {source}, got {there}. Name them in [data]."
        )
    return {role: list(names).index(name) for role, name in columns.items()}
