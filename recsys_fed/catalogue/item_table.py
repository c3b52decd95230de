"""A catalogue with more items, or with fewer."""

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue


def extended(catalogue: Catalogue, items: Catalogue) -> Catalogue:
    """The catalogue as it is, and after it those of `items` that it lacks; of columns, those that it has."""
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
        text_vectors=_more_vectors(catalogue, items, new),
    )


def _more_vectors(
    catalogue: Catalogue, items: Catalogue, new: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """Vectors of both; zeros, which say nothing, where the new items have none of the same length."""
    there, more = catalogue.text_vectors, items.text_vectors
    if there is None:
        return None
    if more is None or more.shape[1] != there.shape[1]:
        more = np.zeros((items.n_items, there.shape[1]), dtype=np.float32)
    return np.concatenate([there, more[new]])


def without(catalogue: Catalogue, rows: npt.NDArray[np.bool_]) -> Catalogue:
    """The catalogue without some of its rows, bool [n_items]."""
    kept = np.flatnonzero(~rows).tolist()
    columns = {
        name: None if (values := getattr(catalogue, name)) is None else tuple(values[row] for row in kept)
        for name in ("titles", "categories", "texts")
    }
    vectors = None if catalogue.text_vectors is None else catalogue.text_vectors[kept]
    return Catalogue(item_ids=catalogue.item_ids[kept], text_vectors=vectors, **columns)
