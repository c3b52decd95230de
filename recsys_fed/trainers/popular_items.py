"""popularity: one release of noised item counts with the whole budget, and the same ranking for everybody.

The floor below which no model may fall at the same budget, and what `auto` takes where the noise leaves no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.trainers import popularity
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, Tables, Trainer


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularItemsState:
    """What the server holds: public facts, and the noised counts float64 [n_items] once they are released."""

    facts: PublicFacts
    counts: torch.Tensor | None = None


class PopularItems(Trainer):
    """The trainer; see the module."""

    name: ClassVar[str] = "popularity"

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The counts, with all of the budget.

        Raises:
            ConfigurationError: more than one round was asked for.
        """
        if facts.rounds > 1:
            raise ConfigurationError(f"Expected rounds = 1 (or 0) for the popularity trainer, got {facts.rounds}.")
        return (popularity.counts_stage(share=1.0),)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> PopularItemsState:
        """Nothing is known, nothing is drawn."""
        return PopularItemsState(facts=facts)

    def tables(self, state: PopularItemsState, stage: Stage) -> Tables:
        """The silos need nothing."""
        return {}

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """Counts [n_items, 1]."""
        return Layout(shape=(facts.n_items, 1))

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Weighted counts, float64 [n_items, 1].

        Guarantees: user-level, add or remove one user; L2 sensitivity settings["l2_clip_norm"]. See
        `popularity.contribute_counts`.
        """
        return popularity.contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])

    def step(
        self, state: PopularItemsState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> PopularItemsState:
        """Keep the noised counts as they are: their order is the ranking."""
        return replace(state, counts=total[:, 0].double())

    def item_embeddings(self, state: PopularItemsState) -> ItemEmbeddings:
        """No vectors to speak of (one zero column); the bias is the counts over their length."""
        n_items = state.facts.n_items
        counts = state.counts if state.counts is not None else torch.zeros(n_items, dtype=torch.float64)
        return ItemEmbeddings(
            vectors=torch.zeros(n_items, 1),
            bias=popularity.unit(counts).float(),
            history_weights=torch.ones(n_items),
            fold_in=FoldIn(kind="projection"),
            catalogue_hash=state.facts.catalogue_hash,
        )
