"""Recommendations from what a silo keeps, offline: nothing is asked of anybody and nothing is charged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys_fed import checks
from recsys_fed.catalogue.items import Catalogue, catalogue_of_model
from recsys_fed.context import contexts_at
from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import ItemEmbeddings, scores
from recsys_fed.personalisation.fusion import Texts, Told
from recsys_fed.personalisation.next_item import NextItemModel
from recsys_fed.personalisation.silo_model import Floats, SiloModel
from recsys_fed.silo._own_model import OwnModel
from recsys_fed.silo.secret import Pseudonyms
from recsys_fed.silo.state import StateFolder, UserState
from recsys_fed.silo.told import Knowledge

_USERS_AT_ONCE = 1024
_SCHEMA = pa.schema([("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True, kw_only=True, eq=False)
class Recommender:
    """A silo's users, their model and the catalogue it is about.

    Attributes:
        personal: the silo's own model, where its operator has chosen "silo-trusted".
        attributes: of the users of the state, for that model: name -> value of each, [n_users].
        contexts: of the request, for that model: name -> value.
    """

    model: ItemEmbeddings
    state: UserState
    catalogue: Catalogue
    pseudonyms: Pseudonyms
    personal: OwnModel | None = None
    attributes: Mapping[str, Texts] = field(default_factory=dict)
    contexts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model.catalogue_hash != self.catalogue.content_hash:
            raise DataFormatError(
                "Expected the catalogue that the model was trained on, got another. Fetch it again."
            )

    def best(self, rows: Sequence[int], k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Items [n, k] of users by row, best first, without what they have interacted with, and their scores."""
        histories = self.state.histories.rows(torch.tensor(rows, dtype=torch.int64))
        if self.personal is None:
            ranked = scores(self.model, self.state.vectors[list(rows)])
        elif isinstance(self.personal, NextItemModel):
            ranked = torch.from_numpy(self.personal.scores(histories)).float()
        else:
            ranked = torch.from_numpy(self._own_scores(self.personal, rows, histories)).float()
        ranked[histories.users, histories.items.long()] = -torch.inf
        best = top_items(ranked, min(k, self.catalogue.n_items))
        return best, ranked.gather(1, best)

    def _own_scores(self, personal: SiloModel, rows: Sequence[int], histories: Histories) -> Floats:
        scored = personal.scores(histories.matrix())
        if personal.fusion is None:
            return scored
        told = {name: column[list(rows)] for name, column in self.attributes.items()}
        return personal.fusion.add_to(
            scored, told | {name: np.full(len(rows), value) for name, value in self.contexts.items()}
        )


def open_recommender(
    folder: StateFolder,
    catalogue: Catalogue,
    pseudonyms: Pseudonyms,
    *,
    personalisation: str = "user-only",
    self_attention: bool = False,
    knowledge: Knowledge | None = None,
    moment: int | None = None,
) -> Recommender:
    """Open the state of a silo for recommendations; see `StateFolder` for what it refuses.

    `catalogue` may have grown since the training: the model's version of it is used.
    Under "silo-trusted" the silo's own model is fitted here, if that was not done since the last training.

    Args:
        folder, catalogue, pseudonyms, personalisation, self_attention: of the silo.
        knowledge: what else its own model may use.
        moment: nanoseconds since 1970 of the request, for contexts; without it none counts.
    """
    model, state = folder.model(), folder.users()
    trusted = personalisation == "silo-trusted"
    personal = folder.personal(knowledge, self_attention=self_attention) if trusted else None
    told, contexts = Told(), {}
    if personal is not None and knowledge is not None:
        told = knowledge.of(state.users, state.histories)
        at = contexts_at(np.array([moment]), knowledge.contexts) if moment is not None else {}
        contexts = {name: str(values[0]) for name, values in at.items()}
    return Recommender(
        model=model,
        state=state,
        catalogue=catalogue_of_model(catalogue, content_hash=model.catalogue_hash, n_items=model.n_items),
        pseudonyms=pseudonyms,
        personal=personal,
        attributes=told.attributes,
        contexts=contexts,
    )


def recommend_user(recommender: Recommender, user: str, *, k: int = 10) -> list[dict[str, Any]]:
    """The k best items that a user has not interacted with, as rank, item, title and score.

    Raises:
        ConfigurationError: the silo does not know the user, or k < 1.
    """
    checks.at_least(1, k=k)
    row = recommender.state.row_of(recommender.pseudonyms.of(user))
    if row is None:
        raise ConfigurationError("Expected a user of this silo's training data, got one it does not have.")
    items, found = recommender.best([row], k)
    catalogue = recommender.catalogue
    return [
        {
            "rank": rank,
            "item": str(catalogue.item_ids[item]),
            "title": catalogue.titles[item] if catalogue.titles is not None else "",
            "score": score,
        }
        for rank, (item, score) in enumerate(zip(items[0].tolist(), found[0].tolist(), strict=True), start=1)
        if np.isfinite(score)
    ]


def export_recommendations(
    recommender: Recommender, path: Path, *, k: int = 10, users: Sequence[str] | None = None
) -> int:
    """Write the k best items of every user, or of those named, to a new Parquet file; returns how many users.

    Without `users` the column user holds pseudonyms; with them the ids as they were given.

    Raises:
        ConfigurationError: the file is there already, or k < 1.
    """
    checks.at_least(1, k=k)
    if path.exists():
        raise ConfigurationError(f"There is a file at {path} already.")
    chosen = list(_choose_users(recommender, users))
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for start in range(0, len(chosen), _USERS_AT_ONCE):
            writer.write_table(_table(recommender, chosen[start : start + _USERS_AT_ONCE], k))
    return len(chosen)


def _choose_users(recommender: Recommender, users: Sequence[str] | None) -> Iterator[tuple[str, int]]:
    if users is None:
        yield from ((str(name), row) for row, name in enumerate(recommender.state.users))
        return
    rows = {name: row for row, name in enumerate(recommender.state.users.tolist())}
    for user in users:
        row = rows.get(recommender.pseudonyms.of(user))
        if row is not None:
            yield user, row


def _table(recommender: Recommender, some: Sequence[tuple[str, int]], k: int) -> pa.Table:
    items, found = recommender.best([row for _, row in some], k)
    there = torch.isfinite(found).flatten().numpy()
    names = np.repeat([name for name, _ in some], items.shape[1])
    ranks = np.tile(np.arange(1, items.shape[1] + 1, dtype=np.int32), len(some))
    columns = (names, ranks, recommender.catalogue.item_ids[items.flatten().numpy()], found.flatten().numpy())
    return pa.table([pa.array(column[there]) for column in columns], schema=_SCHEMA)
