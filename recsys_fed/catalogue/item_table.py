"""Items from a file: a catalogue, or a table with a row an item; and a catalogue that takes in the new ones."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import DataFormatError, DataNotFoundError

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("item", "title", "categories", "text")


def read_items(path: Path) -> Catalogue:
    """Read a catalogue.parquet, or a .csv or .tsv with the column item and any of title, categories (a|b) and text.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it cannot be read as one of them.
        DataError: an item twice, or none.
    """
    separator = _SEPARATORS.get(path.suffix.lower())
    if separator is None:
        return Catalogue.load(path)
    if not path.is_file():
        raise DataNotFoundError(f"Expected a table of items at {path}, there is no such file.")
    try:
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, OSError) as error:
        raise DataFormatError(f"Expected a table of items in {path}: {error}.") from error
    names = [str(name) for name in frame.columns]
    if "item" not in names or set(names) - set(_COLUMNS):
        raise DataFormatError(
            f"Expected the column item and any of {', '.join(_COLUMNS[1:])} in {path}, got {', '.join(names)}."
        )
    texts = {name: tuple(frame[name].tolist()) for name in names}
    categories = [tuple(filter(None, cell.split("|"))) for cell in texts.get("categories", ())]
    return Catalogue(
        item_ids=np.array(texts["item"], dtype=object),
        titles=texts.get("title"),
        categories=tuple(categories) if "categories" in texts else None,
        texts=texts.get("text"),
    )


def extended(catalogue: Catalogue, items: Catalogue) -> Catalogue:
    """The catalogue as it is, and after it those of `items` that it lacks; of columns, those that it has.

    Text vectors stay where both have them, of one length.
    """
    new = np.flatnonzero(catalogue.rows(items.item_ids) < 0)

    def column(name: str, empty: str | tuple[str, ...]) -> tuple[str | tuple[str, ...], ...] | None:
        there, more = getattr(catalogue, name), getattr(items, name)
        if there is None:
            return None
        return (*there, *((more[row] if more is not None else empty) for row in new.tolist()))

    return Catalogue(
        item_ids=np.concatenate([catalogue.item_ids, items.item_ids[new]]),
        titles=column("titles", ""),  # type: ignore[arg-type]
        categories=column("categories", ()),  # type: ignore[arg-type]
        texts=column("texts", ""),  # type: ignore[arg-type]
        text_vectors=_vectors(catalogue, items, new),
    )


def _vectors(catalogue: Catalogue, items: Catalogue, new: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
    known, more = catalogue.text_vectors, items.text_vectors
    if known is None or more is None or known.shape[1] != more.shape[1]:
        return None
    return np.concatenate([known, more[new]])


def without(catalogue: Catalogue, rows: npt.NDArray[np.bool_]) -> Catalogue:
    """The catalogue without some of its rows, bool [n_items]."""
    kept = np.flatnonzero(~rows)
    columns: dict[str, Any] = {
        name: None if (values := getattr(catalogue, name)) is None else tuple(values[row] for row in kept.tolist())
        for name in ("titles", "categories", "texts")
    }
    vectors = catalogue.text_vectors
    return Catalogue(
        item_ids=catalogue.item_ids[kept], text_vectors=None if vectors is None else vectors[kept], **columns
    )
