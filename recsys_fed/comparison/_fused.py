"""What attributes of users and contexts of interactions add to a silo's own scores; see `personalisation.fusion`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys_fed.context import contexts_at
from recsys_fed.data.readers.users import Attributes
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.protocol import Scorer
from recsys_fed.models.histories import Histories
from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.personalisation.choice import Fold, choose_fusion, fit_with_fusion, make_requests
from recsys_fed.personalisation.fusion import Told
from recsys_fed.personalisation.silo_model import Recipe

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fusing:
    """What is told beside the histories of a simulated federation, and what came of it.

    Attributes:
        attributes: of all its users. contexts: names of those that follow from the time.
        records: what each silo took with each model: epsilon, seed, silo, weights, and ndcg@20 of requests of
            validation and of test users without and with it.
    """

    attributes: Attributes
    contexts: tuple[str, ...]
    records: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.attributes or self.contexts)

    def told(self, histories: Histories, users: Rows) -> Told:
        """Of some users, whose histories are given.

        Raises:
            ConfigurationError: a context is asked for of data without clock times.
        """
        signals = histories.signals
        if self.contexts and (signals is None or signals.time is None):
            raise ConfigurationError("Expected clock times for --context, the data has none.")
        time = signals.time.numpy() if self.contexts and signals is not None and signals.time is not None else None
        return Told(
            attributes={name: column[users] for name, column in self.attributes.items()},
            contexts={} if time is None else contexts_at(time, self.contexts),
        )

    def scorer(
        self,
        federation: SimulatedFederation,
        users: Rows,
        folds: tuple[Fold, ...],
        released: ItemEmbeddings,
        recipe: Recipe,
        about: Mapping[str, Any],
    ) -> Scorer:
        """Scores of the users of a silo with the attributes that it takes, and a record of what all that gives.

        A list of a user has no context: what contexts give is in the record alone, where a request has one.
        """
        own = torch.from_numpy(users)
        histories, test_histories = federation.histories.rows(own), federation.test_histories.rows(own)
        train, test = histories.matrix(), federation.test[users]
        told = self.told(histories, users)
        choice = choose_fusion(train, told, folds, released, recipe)
        model = fit_with_fusion(train, told, released, recipe, choice.weights)
        scores, excluded = model.scores(train), federation.excluded[users]
        plain = make_requests(excluded, test, scores, self.told(test_histories, users))
        fused, listed = plain, scores
        if model.fusion is not None:
            for name, effects in model.fusion.effects.items():
                fused = fused.plus(name, effects, 1.0)
            listed = model.fusion.add_to(scores, told.attributes)
        self.records.append(
            {
                **about,
                "weights": dict(choice.weights),
                "validation": {"without": choice.without, "gain": choice.gain, "n": choice.n_requests},
                "test": {"without": _mean(plain.ndcg()), "with": _mean(fused.ndcg()), "n": plain.held.shape[0]},
            }
        )
        return lambda rows: torch.from_numpy(listed[rows])


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
