"""The test negatives that the NCF paper (arXiv 1708.05031) published for MovieLens-1M, a folder of two files.

`ml-1m.test.negative`: a line is `(user,positive)` and 99 items, tabs between them, in the paper's own numbers; its
user u is user u + 1 of MovieLens. `ncf_item_to_movie_id.csv` maps its items to movies.
"""

import csv
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.data.interactions import Interactions
from recsys_fed.data.sources.text import read_lines
from recsys_fed.errors import DataFormatError

_NEGATIVES, _MOVIES = "ml-1m.test.negative", "ncf_item_to_movie_id.csv"
_PAIR = re.compile(r"\((\d+),(\d+)\)")


def read_negatives(folder: Path, interactions: Interactions) -> npt.NDArray[np.int64] | None:
    """Negatives of each user as codes of `interactions.item_ids`, int64 [n_users, 99]; -1 where there is no such.

    None where the folder lacks the files.

    Raises:
        DataFormatError: a line or a number is not what the format says.
    """
    if not ((folder / _NEGATIVES).is_file() and (folder / _MOVIES).is_file()):
        return None
    code_of_item = _codes(folder / _MOVIES, interactions)
    row_of_user = {str(name): row for row, name in enumerate(interactions.user_ids.tolist())}
    table: npt.NDArray[np.int64] | None = None
    for number, line in enumerate(read_lines(folder / _NEGATIVES), start=1):
        if not line.strip():
            continue
        user, items = _fields(line, where=f"row {number} of {folder / _NEGATIVES}", n_items=len(code_of_item))
        if table is None:
            table = np.full((interactions.n_users, len(items)), -1, dtype=np.int64)
        if len(items) != table.shape[1]:
            raise DataFormatError(
                f"Expected {table.shape[1]} negatives in row {number} of {folder / _NEGATIVES}, got {len(items)}."
            )
        row = row_of_user.get(str(user + 1))
        if row is not None:
            table[row] = code_of_item[items]
    return table


def _fields(line: str, *, where: str, n_items: int) -> tuple[int, list[int]]:
    first, *rest = line.split()
    pair = _PAIR.fullmatch(first)
    if pair is None or not rest or not all(text.isdecimal() and int(text) < n_items for text in rest):
        raise DataFormatError(f"Expected `(user,item) item item ...` with items below {n_items} in {where}.")
    return int(pair[1]), [int(text) for text in rest]


def _codes(path: Path, interactions: Interactions) -> npt.NDArray[np.int64]:
    """Code of each of the paper's items; -1 for a movie without interactions."""
    code_of_movie = {str(name): code for code, name in enumerate(interactions.item_ids.tolist())}
    rows = list(csv.DictReader(read_lines(path)))
    codes = np.full(len(rows), -1, dtype=np.int64)
    for row in rows:
        item, movie = row.get("ncf_item", ""), row.get("movie_id", "")
        if not item.isdecimal() or int(item) >= len(rows):
            raise DataFormatError(f"Expected the columns ncf_item and movie_id, items from 0, in {path}.")
        codes[int(item)] = code_of_movie.get(movie, -1)
    return codes
