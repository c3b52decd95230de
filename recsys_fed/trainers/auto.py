"""auto: spectral where the noise leaves something to learn, else noised popularity; by public facts alone.

What spectral itself takes (dimensions, head, rounds, budget of the counts) is the rule of `spectral_size`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.signals import Signal
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.trainers.popular_items import PopularItems
from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, Tables, Trainer

# Signal to noise below which a subspace is worth less than better counts; see docs/quality.md for the sweep.
LEAST_SIGNAL, LEAST_SIGNAL_WITH_FEATURES = 200.0, 60.0


def chosen(facts: PublicFacts) -> Trainer:
    """The trainer for these facts. It reads declared users, noise, and whether there are features, nothing else.

    Dimensions or rounds that were asked for are those of spectral.
    """
    if facts.embedding_dim or facts.rounds > 1:
        return Spectral()
    least = LEAST_SIGNAL if facts.features is None else LEAST_SIGNAL_WITH_FEATURES
    return Spectral() if facts.signal_to_noise >= least else PopularItems()


class Auto(Trainer):
    """The trainer; see the module. Its silo half answers every stage that the server half may choose."""

    name: ClassVar[str] = "auto"
    reads: ClassVar[frozenset[Signal]] = Spectral.reads | PopularItems.reads

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The stages of the chosen trainer."""
        return chosen(facts).plan(facts)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> Any:
        """The start of the chosen trainer."""
        return chosen(facts).start(facts, rng)

    def tables(self, state: Any, stage: Stage) -> Tables:
        """What the chosen trainer needs in the silos."""
        return chosen(state.facts).tables(state, stage)

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """The shapes of the chosen trainer."""
        return chosen(facts).layout(facts, stage)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The silo half of spectral, whose counts are those of popularity too.

        Guarantees: those of `spectral`: user-level, add or remove one user, sensitivity settings["l2_clip_norm"].
        """
        return Spectral().contribution(stage, tables, histories, settings=settings)

    def step(self, state: Any, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> Any:
        """The step of the chosen trainer."""
        return chosen(state.facts).step(state, stage, total, noise_std=noise_std, n_silos=n_silos)

    def item_embeddings(self, state: Any) -> ItemEmbeddings:
        """The model of the chosen trainer."""
        return chosen(state.facts).item_embeddings(state)
