"""Identifiers of users and items: always str, in one order that no row order can change."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

_INT64_DIGITS = 18


def id_array(ids: Iterable[object]) -> npt.NDArray[np.object_]:
    """An object array of the ids as str, [n]."""
    texts = [str(value) for value in ids]
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def id_order(ids: Sequence[str] | npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """Positions of the ids in id order, int64 [n]: by number if all are whole numbers, else by text."""
    keys: list[tuple[int, str]] = [(0, text) for text in ids]
    if all(text.isascii() and text.isdigit() and len(text) <= _INT64_DIGITS for text in ids):
        keys = [(int(text), text) for text in ids]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
