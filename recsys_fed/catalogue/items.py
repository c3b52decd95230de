"""The catalogue: which items there are, in which order, and what is publicly known of them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.catalogue.storage import COLUMNS, VECTORS, read_columns, write_columns
from recsys_fed.errors import DataError, DataFormatError


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Public items in embedding-row order; nothing in it depends on any user.

    Attributes:
        item_ids: distinct ids, object array of str, [n_items]; row i of every
            item table belongs to item_ids[i].
        titles: a title an item, or None where there are no titles.
        categories: the categories of each item (an item may have none), or None.
        texts: a paragraph an item ("" where there is none), or None.
        text_vectors: an embedding of each item's title and text, float32 [n_items, n], or None; see `encoder`.

    Raises:
        DataError: no items, an id twice, a column of another length, something that is not a str, or vectors
            that are not finite.
    """

    item_ids: npt.NDArray[np.object_]
    titles: tuple[str, ...] | None = None
    categories: tuple[tuple[str, ...], ...] | None = None
    texts: tuple[str, ...] | None = None
    text_vectors: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        ids = np.array(self.item_ids, dtype=object)
        if ids.ndim != 1 or not len(ids):
            raise DataError(f"Expected item_ids to be a list of at least one id, got shape {ids.shape}.")
        ids.flags.writeable = False
        object.__setattr__(self, "item_ids", ids)
        self._check_columns()
        if not self._index.is_unique:
            row = int(np.flatnonzero(self._index.duplicated())[0])
            raise DataError(f"Expected distinct item ids, got {ids[row]!r} twice (again in row {row}).")

    def _check_columns(self) -> None:
        for name in COLUMNS:
            column = getattr(self, name)
            if column is None:
                continue
            if len(column) != self.n_items:
                raise DataError(f"Expected {name} of {self.n_items} items, got {len(column)}.")
            _check_text(name, _flat(column) if name == "categories" else column)
        if self.text_vectors is not None:
            object.__setattr__(self, "text_vectors", _checked_vectors(self.text_vectors, self.n_items))

    @property
    def n_items(self) -> int:
        """Number of items, that is of rows of an item table."""
        return len(self.item_ids)

    @cached_property
    def _index(self) -> "pd.Index[str]":
        return pd.Index(self.item_ids, dtype=object)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the ids and all public columns.

        Every column goes in as its name, the lengths of its entries and then their bytes, so two
        catalogues with the same hash have the same ids in the same order and the same columns.
        """
        digest = hashlib.sha256(b"recsys-fed catalogue 1\n")
        for name in COLUMNS:
            column = getattr(self, name)
            digest.update(name.encode() + (b"-" if column is None else b"+"))
            if column is None:
                continue
            if name == "categories":
                digest.update(_integers(len(entry) for entry in column))
                column = _flat(column)
            encoded = [entry.encode() for entry in column]
            digest.update(_integers((len(encoded),)) + _integers(map(len, encoded)))
            digest.update(b"".join(encoded))
        if self.text_vectors is not None:
            digest.update(VECTORS.encode() + b"+" + _integers(self.text_vectors.shape))
            digest.update(self.text_vectors.astype("<f4").tobytes())
        return digest.hexdigest()

    def rows(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
        """The row of each id (a str), int64 [len(ids)]; -1 for an id that is not in the catalogue."""
        wanted = pd.Index(np.asarray(ids, dtype=object), dtype=object)
        return np.asarray(self._index.get_indexer(wanted), dtype=np.int64)

    def save(self, path: str | Path) -> None:
        """Write the catalogue as Parquet, with its hash; the file appears whole or not at all."""
        columns = {name: getattr(self, name) for name in (*COLUMNS, VECTORS)}
        write_columns(Path(path), columns, content_hash=self.content_hash)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a catalogue that `save` wrote, and verify its hash.

        Raises:
            DataNotFoundError: there is no such file.
            DataFormatError: the file is not a catalogue, or its content is not what its hash says.
            DataError: the content is no valid catalogue.
        """
        columns, content_hash = read_columns(Path(path))
        catalogue = cls(**columns)
        if catalogue.content_hash != content_hash:
            raise DataFormatError(
                f"Expected the content of {path} to have the hash {content_hash}, got "
                f"{catalogue.content_hash}: the file was changed. Fetch the catalogue again."
            )
        return catalogue


def _checked_vectors(vectors: npt.NDArray[np.float32], n_items: int) -> npt.NDArray[np.float32]:
    found = np.array(vectors, dtype=np.float32)
    if found.ndim != 2 or len(found) != n_items or not np.isfinite(found).all():
        raise DataError(
            f"Expected finite {VECTORS} of shape ({n_items}, n), got {found.shape} or values that are not."
        )
    found.flags.writeable = False
    return found


def _flat(column: Iterable[Sequence[str]]) -> list[str]:
    return [word for entry in column for word in entry]


def _integers(values: Iterable[int]) -> bytes:
    return np.fromiter(values, dtype="<i8").tobytes()


def _check_text(name: str, entries: Iterable[object]) -> None:
    for row, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise DataError(f"Expected {name} to hold str, got {type(entry).__name__} as entry {row}.")
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"Expected {name} to hold valid Unicode, entry {row} does not.") from error
