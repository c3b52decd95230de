"""The list format of LightGCN and UltraGCN: `train.txt` and `test.txt`, a line is `user item item ...`.

The two files are a given split of implicit feedback (arXiv 2002.02126, 2110.15114). A user may have an empty
list in either; one with an empty list in both has no interactions and does not occur.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.data.dataset import Dataset
from recsys_fed.data.readers.interactions import block_of, interactions_of
from recsys_fed.data.readers.reading import Reading
from recsys_fed.data.sources.source import Request, Source, catalogue_of, read_lines
from recsys_fed.errors import DataFormatError

_FILES = ("train.txt", "test.txt")


def _matches(path: Path) -> bool:
    return all((path / name).is_file() for name in _FILES)


def _read(request: Request) -> Dataset:
    train, test = (_read_pairs(request.path / name) for name in _FILES)
    pairs = np.concatenate([train, test])
    columns = {"user": pairs[:, 0], "item": pairs[:, 1]}
    interactions, report, _ = interactions_of([block_of(columns)], Reading(path=str(request.path)))
    is_test = np.arange(len(pairs)) >= len(train)
    return Dataset(
        name="ultragcn",
        interactions=interactions,
        catalogue=catalogue_of(interactions.item_ids),
        report=report,
        is_test=is_test[report.kept],
        note="implicit feedback with the split that a paper published; the licence is that of its source",
    )


def _read_pairs(path: Path) -> npt.NDArray[np.int64]:
    """All (user, item) pairs of a file, int64 [n, 2]."""
    lines = [line.split() for line in read_lines(path)]
    lengths = np.array([len(line) for line in lines], dtype=np.int64)
    try:
        tokens = np.array([token for line in lines for token in line], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise _row_error(path, lines) from error
    if len(tokens) and tokens.min() < 0:
        raise _row_error(path, lines)
    filled = lengths > 0
    is_user = np.zeros(len(tokens), dtype=bool)
    is_user[(np.cumsum(lengths) - lengths)[filled]] = True
    users = np.repeat(tokens[is_user], lengths[filled] - 1)
    return np.column_stack([users, tokens[~is_user]])


def _row_error(path: Path, lines: list[list[str]]) -> DataFormatError:
    for row, line in enumerate(lines, start=1):
        if not all(token.isascii() and token.isdigit() and len(token) <= 18 for token in line):
            return DataFormatError(f"Expected `user item item ...` as whole numbers >= 0 in row {row} of {path}.")
    return DataFormatError(f"Expected `user item item ...` as whole numbers >= 0 in {path}.")


SOURCE = Source(
    name="item lists (LightGCN, UltraGCN)",
    layout="a folder with train.txt and test.txt",
    matches=_matches,
    read=_read,
)
