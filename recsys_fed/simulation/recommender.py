"""Recommendations from a model and the catalogue that it was trained on, for item ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed import checks
from recsys_fed.catalogue.features import public_features
from recsys_fed.catalogue.items import Catalogue, extend_catalogue
from recsys_fed.data.readers.products import read_items
from recsys_fed.data.remote import is_remote, local_copy
from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.exported import export_model
from recsys_fed.models.histories import Histories, Signals
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings, predicted_ratings, scores, user_vectors
from recsys_fed.models.new_items import with_new_items
from recsys_fed.simulation.runner import CATALOGUE


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """An item in a list.

    Attributes:
        rank: from 1. item: its id. title: "" where the catalogue has none. score: higher is better.
        new: whether the model was trained without it.
    """

    rank: int
    item: str
    title: str
    score: float
    new: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommender:
    """A released model with the ids of its items; nothing in it is private.

    Attributes:
        embeddings: V [n_items, embedding_dim], biases and how a history becomes a user's vector.
        catalogue: the items, in the order of the rows of V.
        n_known: items that the model was trained on; the rows behind them are new ones.

    Raises:
        DataFormatError: model and catalogue do not belong together.
    """

    embeddings: ItemEmbeddings
    catalogue: Catalogue
    n_known: int

    def __post_init__(self) -> None:
        if self.embeddings.catalogue_hash != self.catalogue.content_hash:
            raise DataFormatError("Expected the catalogue that the model was trained on, got another.")

    @classmethod
    def load(cls, folder: str | Path) -> "Recommender":
        """Read the model and the catalogue that a run left in a folder, or at an address (see `data.remote`).

        Raises:
            DataNotFoundError: there are none.
            DataFormatError: they do not belong together.
        """
        if is_remote(folder):
            with local_copy(str(folder), EMBEDDINGS, CATALOGUE) as copy:
                return cls.load(copy)
        embeddings = load_item_embeddings(Path(folder) / EMBEDDINGS)
        catalogue = Catalogue.load(Path(folder) / CATALOGUE)
        return cls(embeddings=embeddings, catalogue=catalogue, n_known=catalogue.n_items)

    def with_items(self, items: Catalogue) -> "Recommender":
        """With the items of another catalogue that this one lacks, ranked by their public features.

        Raises:
            ConfigurationError: the catalogue has no titles, categories or texts.
        """
        larger = extend_catalogue(self.catalogue, items)
        features = public_features(larger)
        if features is None:
            raise ConfigurationError(
                "Expected a run whose catalogue has titles, categories or texts, got ids only. They rank new items."
            )
        rows = self.catalogue.rows(larger.item_ids)
        embeddings = with_new_items(self.embeddings, features, rows, catalogue_hash=larger.content_hash)
        return Recommender(embeddings=embeddings, catalogue=larger, n_known=self.n_known)

    def fold_in(self, history: Sequence[str] | Mapping[str, float]) -> npt.NDArray[np.float32]:
        """The vector of a user with this history of item ids, float32 [embedding_dim]; zeros for an empty one.

        The history is in the user's order, the newest item last, which matters where the model has a half-life. An
        item that is there several times counts once, where it is last. A model of ratings reads a mapping from item
        ids to the user's ratings.

        Raises:
            ConfigurationError: an item is not in the catalogue.
        """
        vector: npt.NDArray[np.float32] = self._vector(history)[0].numpy()
        return vector

    def recommend(self, history: Sequence[str] | Mapping[str, float], k: int = 10) -> list[Recommendation]:
        """The k best items that are not in the history (see `fold_in`); an empty one ranks by popularity.

        Raises:
            ConfigurationError: an item is not in the catalogue, or k < 1.
        """
        checks.at_least(1, k=k)
        seen = self._rows(list(history))
        ranked = scores(self.embeddings, self._vector(history))
        ranked[0, torch.from_numpy(seen)] = -torch.inf
        return self._list_items(ranked[0], min(k, self.catalogue.n_items - len(seen)))

    def predict(self, ratings: Mapping[str, float], items: Sequence[str]) -> list[float]:
        """The rating to expect of a user for each of some items, from the user's ratings by item id.

        Raises:
            ConfigurationError: an item is not in the catalogue, or the model was not trained on ratings.
        """
        rows = torch.from_numpy(self._rows(items, once=False))
        asked = Histories(items=rows.int(), starts=torch.tensor([0, len(rows)]), n_items=self.catalogue.n_items)
        found: list[float] = predicted_ratings(self.embeddings, self._vector(ratings), asked).tolist()
        return found

    def similar(self, item: str, k: int = 10) -> list[Recommendation]:
        """The k items whose vectors make the smallest angles with that of an item, by their cosines.

        Raises:
            ConfigurationError: the item is not in the catalogue, or k < 1.
        """
        checks.at_least(1, k=k)
        row = int(self._rows([item])[0])
        directions = torch.nn.functional.normalize(self.embeddings.vectors, dim=1)
        cosines = directions @ directions[row]
        cosines[row] = -torch.inf
        return self._list_items(cosines, min(k, self.catalogue.n_items - 1))

    def to_numpy(self) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Item ids [n_items], vectors [n_items, embedding_dim] and biases [n_items]."""
        return self.catalogue.item_ids, self.embeddings.vectors.numpy(), self.embeddings.bias.numpy()

    def export(self, path: str | Path) -> None:
        """Write the model for other software, by the path's ending .onnx, .faiss or .parquet; see `models.exported`.

        Raises:
            ConfigurationError: another ending. MissingExtraError: onnx or faiss is not installed.
        """
        export_model(self.embeddings, self.catalogue, Path(path))

    def _rows(self, history: Sequence[str], *, once: bool = True) -> npt.NDArray[np.int64]:
        rows = self.catalogue.rows(list(history))
        if (rows < 0).any():
            unknown = ", ".join(np.asarray(history, dtype=object)[rows < 0][:5])
            raise ConfigurationError(f"Expected item ids of the catalogue, got unknown ones: {unknown}.")
        return _in_order(rows) if once else rows

    def _vector(self, history: Sequence[str] | Mapping[str, float]) -> torch.Tensor:
        items, rank = torch.from_numpy(self._rows(list(history))).sort()
        value = None
        if isinstance(history, Mapping):
            value = torch.tensor(list(history.values()), dtype=torch.float32)[rank]
        folded = Histories(
            items=items.int(),
            starts=torch.tensor([0, len(items)]),
            n_items=self.catalogue.n_items,
            signals=Signals(rank=rank.int(), value=value),
        )
        return user_vectors(self.embeddings, folded)

    def _list_items(self, ranked: torch.Tensor, k: int) -> list[Recommendation]:
        best = top_items(ranked[None], k)[0].tolist() if k else []
        titles = self.catalogue.titles
        return [
            Recommendation(
                rank=rank,
                item=str(self.catalogue.item_ids[row]),
                title="" if titles is None else titles[row],
                score=float(ranked[row]),
                new=row >= self.n_known,
            )
            for rank, row in enumerate(best, start=1)
        ]


def predict_from_run(run: str | Path, ratings: Mapping[str, float], items: Sequence[str]) -> dict[str, Any]:
    """What `recsys-fed predict` prints: the ratings, and "predictions" [{"item", "title", "rating"}, ...].

    Raises:
        ConfigurationError, DataError: see `Recommender`.
    """
    recommender = Recommender.load(run)
    predicted = recommender.predict(ratings, items)
    titles, rows = recommender.catalogue.titles, recommender.catalogue.rows(list(items))
    return {
        "ratings": dict(ratings),
        "predictions": [
            {"item": item, "title": "" if titles is None else titles[row], "rating": rating}
            for item, row, rating in zip(items, rows, predicted, strict=True)
        ],
    }


def _in_order(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Each of some rows once, where it is last.

    >>> _in_order(np.array([3, 1, 3, 2]))
    array([1, 3, 2])
    """
    _, last = np.unique(rows[::-1], return_index=True)
    return rows[::-1][np.sort(last)][::-1].copy()


def recommend_from_run(
    run: str | Path, history: Sequence[str], *, k: int = 10, new_items: Path | None = None
) -> dict[str, Any]:
    """What `recsys-fed recommend` prints.

    Args:
        run: folder or address with item_embeddings.safetensors and catalogue.parquet.
        history: item ids, the newest last.
        k: length of the list, at most the number of items left.
        new_items: file of items (see `data.readers.products`); those that the run did not know are ranked, too.

    Returns:
        {"history": [...], "recommendations": [{"rank", "item", "title", "score", "new"}, ...]}.

    Raises:
        ConfigurationError, DataError: see `Recommender`.
    """
    recommender = Recommender.load(run)
    if new_items is not None:
        recommender = recommender.with_items(read_items(new_items))
    listed = recommender.recommend(history, k)
    catalogue = recommender.catalogue
    seen = _in_order(catalogue.rows(list(history))).tolist()
    titles = catalogue.titles or [""] * catalogue.n_items
    return {
        "history": [{"item": str(catalogue.item_ids[row]), "title": titles[row]} for row in seen],
        "recommendations": [
            {"rank": found.rank, "item": found.item, "title": found.title, "score": found.score, "new": found.new}
            for found in listed
        ],
    }
