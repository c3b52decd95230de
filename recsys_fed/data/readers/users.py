"""Attributes that somebody knows of users, such as an age band, from a table of users. Private to whoever has it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.config import user_weights_of
from recsys_fed.context import key_of
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError

# Attribute -> value of each user, "" where nobody knows it, object array of str [n_users].
Attributes = Mapping[str, npt.NDArray[np.object_]]
# Whole numbers of more different values than this become bands of ten, as ages do.
_MOST_VALUES = 12
_SEPARATORS = ("::", "|", "\t", ";", ",")


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


def read_attributes(
    path: Path,
    columns: Mapping[str, str],
    user_ids: npt.NDArray[np.object_],
    *,
    rename: Callable[[str], str] = str,
) -> Attributes:
    """Attributes of users from a text table whose first column, or the one called user, holds their ids.

    Args:
        path: of the table; `::`, `|`, tab, semicolon or comma between fields, as its first line has them.
        columns: see `parse_attribute_columns`; all names, or all positions of a file without a header.
        user_ids: whose, object array of str [n_users]. A user that the table lacks has the value "".
        rename: from the table's ids to these, as a silo's pseudonyms are.

    Raises:
        DataNotFoundError, DataFormatError, ConfigurationError: no such file, a column that is not there, or nobody of
            these users in it.
    """
    import pandas as pd  # noqa: PLC0415  (a service reads silo.toml, which names such columns, and has no pandas)

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
    row_of = {rename(name): row for row, name in enumerate(ids)}
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


@dataclass(frozen=True, kw_only=True)
class UserRule:
    """A public rule that gives users numbers by an attribute.

    Attributes:
        attribute: its name. numbers: of its values; one may be a band of whole numbers, "20 to 29".
        otherwise: number of users of no such value.
        key: of the configuration that says it.
    """

    attribute: str
    numbers: Mapping[str, float]
    otherwise: float
    key: str


def weights_rule(text: str) -> UserRule | None:
    """What users count by `user-weights`, the least of it for users of no value; None for ""."""
    attribute, weights = user_weights_of(text)
    least = min(weights.values(), default=1.0)
    return UserRule(attribute=attribute, numbers=weights, otherwise=least, key="user-weights") if text else None


def groups_rule(text: str) -> UserRule | None:
    """Number of a user's group by `metric-groups`, in its order, the last one for users of no value; None for ""."""
    attribute, values = user_weights_of(text)
    numbers = {value: float(number) for number, value in enumerate(values)}
    return (
        UserRule(attribute=attribute, numbers=numbers, otherwise=len(numbers), key="metric-groups") if text else None
    )


def read_user_numbers(
    path: Path,
    column: str,
    rule: UserRule,
    user_ids: npt.NDArray[np.object_],
    *,
    rename: Callable[[str], str] = str,
) -> npt.NDArray[np.float64]:
    """Each user's number by a public rule, float64 [n_users], from a table of users as `read_attributes` reads.

    Args:
        path: of the table, with a header, or with a name that shows what separates its fields (.csv, .tsv, .dat).
        column: of the attribute, its name or position.
        rule: the rule.
        user_ids, rename: see `read_attributes`.

    Guarantees: a user's number follows from the rule and that user's own rows: bands are the rule's, rows are read
    one by one (`readers.rows`), and none of them is an error. Who has several rows has the least number that one of
    them gives; who has none, or a value that the rule does not name, has `otherwise`.

    Raises:
        DataNotFoundError, DataFormatError, ConfigurationError: no such file, a column that is not there, or no
            separator. All follow from the file's name and header.
    """
    # A service reads silo.toml, which names such columns, and needs none of these.
    from recsys_fed.data.readers._lines import text_table  # noqa: PLC0415
    from recsys_fed.data.readers.blocks import blocks_of  # noqa: PLC0415
    from recsys_fed.data.readers.reading import Reading, TextFormat  # noqa: PLC0415
    from recsys_fed.data.readers.rows import rows_of  # noqa: PLC0415

    if not path.is_file():
        raise DataNotFoundError(f"Cannot find attributes of users at {path}.")
    try:
        names = text_table(path, {"item": column}, TextFormat(), needed=("item",)).names
    except ConfigurationError as error:
        raise ConfigurationError(
            f"Expected a header in {path}, or a name that ends in .csv, .tsv or .dat: what separates the fields of a "
            f"table that {rule.key} reads must not follow from a row of it."
        ) from error
    user = "user" if "user" in names else names[0] if names else "0"
    reading = Reading(source="csv", path=str(path), columns={"user": user, "item": column}, usual=False)
    found: dict[str, float] = {}
    for block in blocks_of(reading):
        rows = rows_of(block, reading)
        users = [rename(name) for name in rows.user.ids]
        keys = [key_of(value, rule.numbers) for value in rows.item.ids]
        numbers = [rule.otherwise if key is None else rule.numbers[key] for key in keys]
        for user, value in zip(rows.user.codes.tolist(), rows.item.codes.tolist(), strict=True):
            found[users[user]] = min(found.get(users[user], math.inf), numbers[value])
    return np.array([found.get(str(name), rule.otherwise) for name in user_ids], dtype=np.float64)
