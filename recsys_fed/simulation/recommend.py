"""Recommendations from the files of a run, for a history typed in by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from recsys_fed import checks
from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue, extend_catalogue
from recsys_fed.data.readers.products import read_items
from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.federation.outcome import EMBEDDINGS
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings
from recsys_fed.models.new_items import with_new_items
from recsys_fed.models.users import scores, user_vectors
from recsys_fed.simulation.runner import CATALOGUE


def recommend_from_run(
    run: Path, history: Sequence[str], *, k: int = 10, new_items: Path | None = None
) -> dict[str, Any]:
    """The k best items that are not in the history, and the history as it was understood.

    Args:
        run: folder with item_embeddings.safetensors and catalogue.parquet.
        history: item ids; an empty one ranks by popularity.
        k: length of the list, at most the number of items left.
        new_items: file of items (see `data.readers.products`); those that the run did not know are ranked, too, by
            their public features, and marked as new.

    Returns:
        {"history": [...], "recommendations": [{"rank", "item", "title", "score", "new"}, ...]}; titles are "" where
        the catalogue has none.

    Raises:
        ConfigurationError: an item is not in the catalogue, or k < 1.
        DataFormatError: model and catalogue do not belong together.
    """
    checks.at_least(1, k=k)
    model, catalogue = load_item_embeddings(run / EMBEDDINGS), Catalogue.load(run / CATALOGUE)
    if model.catalogue_hash != catalogue.content_hash:
        raise DataFormatError(f"Expected the catalogue that the model in {run} was trained on, got another.")
    n_known = catalogue.n_items
    if new_items is not None:
        model, catalogue = _with_new(model, catalogue, new_items)
    rows = catalogue.rows(list(history))
    if (rows < 0).any():
        unknown = ", ".join(np.asarray(history, dtype=object)[rows < 0][:5])
        raise ConfigurationError(f"Expected item ids of the catalogue, got unknown ones: {unknown}.")
    seen = np.unique(rows)
    one = sparse.csr_matrix((np.ones(len(seen)), ([0] * len(seen), seen)), shape=(1, catalogue.n_items))
    ranked = scores(model, user_vectors(model, histories_of(one)))
    ranked[0, torch.from_numpy(seen)] = -torch.inf
    best = top_items(ranked, min(k, catalogue.n_items))[0].tolist()
    listed = [row for row in best if row not in set(seen.tolist())]
    return {
        "history": [_item(catalogue, row) for row in seen.tolist()],
        "recommendations": [
            {"rank": rank, **_item(catalogue, row), "score": float(ranked[0, row]), "new": row >= n_known}
            for rank, row in enumerate(listed, start=1)
        ],
    }


def _with_new(model: ItemEmbeddings, catalogue: Catalogue, path: Path) -> tuple[ItemEmbeddings, Catalogue]:
    """Model and catalogue with the items of a file that they lack."""
    larger = extend_catalogue(catalogue, read_items(path))
    features = public_features(larger)
    if features is None:
        raise ConfigurationError(
            "Expected a run whose catalogue has titles, categories or texts, got ids only. They rank new items."
        )
    rows = catalogue.rows(larger.item_ids)
    return with_new_items(model, features, rows, catalogue_hash=larger.content_hash), larger


def _item(catalogue: Catalogue, row: int) -> dict[str, str]:
    title = catalogue.titles[row] if catalogue.titles is not None else ""
    return {"item": str(catalogue.item_ids[row]), "title": title}
