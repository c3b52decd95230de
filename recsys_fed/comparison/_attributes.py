"""Groups of users by an attribute that somebody knows of them, such as an age band, and how each method serves them.

A simulator sees all users; the figures are its own, and not privatised. A silo that published such a figure of its
users would release a function of their data, which nothing here does.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

# Attribute -> value of each user, "" where nobody knows it, object array of str [n_users].
Attributes = Mapping[str, npt.NDArray[np.object_]]
# Whole numbers of more different values than this become bands of ten, as ages do.
_MOST_VALUES = 12
_SEPARATORS = ("::", "|", "\t", ";", ",")
# A group of fewer users with a test item is shown, and not called the worst.
LEAST_USERS = 30


def parse_attribute_columns(text: str) -> dict[str, str]:
    """Attribute -> name of its column, or its position from 0 in a file without a header.

    >>> parse_attribute_columns("gender=1,age=2")
    {'gender': '1', 'age': '2'}

    Raises:
        ConfigurationError: it is something else.
    """
    pairs = [part.partition("=") for part in filter(None, text.split(","))]
    found = {name.strip(): column.strip() for name, _, column in pairs}
    if not found or not all(found) or not all(found.values()) or len(found) < len(pairs):
        raise ConfigurationError(f"Expected attributes as NAME=COLUMN,... each once, got {text!r}.")
    return found


def read_attributes(path: Path, columns: Mapping[str, str], user_ids: npt.NDArray[np.object_]) -> Attributes:
    """Attributes of users from a text table whose first column, or the one called user, holds their ids.

    Args:
        path: of the table; `::`, `|`, tab, semicolon or comma between fields, as its first line has them.
        columns: see `parse_attribute_columns`; all names, or all positions of a file without a header.
        user_ids: whose, object array of str [n_users]. A user that the table lacks has the value "".

    Raises:
        DataNotFoundError, DataFormatError, ConfigurationError: no such file, a column that is not there, or nobody of
            these users in it.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find attributes of users at {path}.")
    numbered = all(column.isdecimal() for column in columns.values())
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    separator = next((one for one in _SEPARATORS if one in first), ",")
    table = pd.read_csv(
        path,
        sep=separator if len(separator) == 1 else r"::",
        engine="python",
        header=None if numbered else 0,
        dtype=str,
        keep_default_na=False,
        encoding_errors="replace",
    )
    table.columns = [str(name) for name in table.columns]
    missing = [column for column in columns.values() if column not in table.columns]
    if missing:
        raise DataFormatError(f"Expected the columns {', '.join(missing)} in {path}, got {', '.join(table.columns)}.")
    ids = table["user"] if "user" in table.columns else table.iloc[:, 0]
    row_of = {name: row for row, name in enumerate(ids)}
    rows = [row_of.get(str(name), -1) for name in user_ids]
    if max(rows, default=-1) < 0:
        raise DataFormatError(f"Expected users of the data in the first column of {path}, got none of them.")
    return {name: _values([*table[column], ""], rows) for name, column in columns.items()}


def _values(column: Sequence[str], rows: Sequence[int]) -> npt.NDArray[np.object_]:
    """Each user's value (the last one for row -1), whole numbers of many values in bands of ten."""
    known = {text for text in column if text}
    if len(known) > _MOST_VALUES and all(text.isdecimal() for text in known):
        column = [f"{int(text) // 10 * 10} to {int(text) // 10 * 10 + 9}" if text else "" for text in column]
    return np.array([column[row] for row in rows], dtype=object)


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
