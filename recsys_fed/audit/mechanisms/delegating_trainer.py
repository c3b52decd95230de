"""A trainer that hands everything on to another one: what broken copies change one half of."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from recsys_fed.models.items import ItemEmbeddings
from recsys_fed.models.signals import Signal
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.trainers.base import Layout, LocalNoise, PublicFacts, Stage, Tables, Trainer


class DelegatingTrainer:
    """The trainer that it is given, under the same interface."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @property
    def reads(self) -> frozenset[Signal]:
        """The same signals."""
        return self.trainer.reads

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The same plan."""
        return self.trainer.plan(facts)

    def start(self, facts: PublicFacts, rng: np.random.Generator) -> Any:
        """The same start."""
        return self.trainer.start(facts, rng)

    def tables(self, state: Any, stage: Stage) -> Tables:
        """The same tables."""
        return self.trainer.tables(state, stage)

    def layout(self, facts: PublicFacts, stage: Stage) -> Layout:
        """The same shapes."""
        return self.trainer.layout(facts, stage)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The same contribution."""
        return self.trainer.contribution(stage, tables, histories, settings=settings)

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """The same local steps."""
        return self.trainer.local_update(tables, histories, settings=settings, noise=noise)

    def step(self, state: Any, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int) -> Any:
        """The same step."""
        return self.trainer.step(state, stage, total, noise_std=noise_std, n_silos=n_silos)

    def item_embeddings(self, state: Any) -> ItemEmbeddings:
        """The same model."""
        return self.trainer.item_embeddings(state)
