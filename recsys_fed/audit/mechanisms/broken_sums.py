"""Sums over users whose sensitivity is not what it is said to be: the silo halves of three broken copies."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.trainers import popularity
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.local_steps import Task
from recsys_fed.trainers.losses.loss import Clipping
from recsys_fed.trainers.trainer import DelegatingTrainer, LocalNoise, Tables, Trainer

_NO_LIMIT = 1e15
# Users that each silo is taken to have by the copy that weighs by its real number.
EXPECTED_USERS = 1_000


class Unclipped(DelegatingTrainer):
    """Every user's term has the length that it happens to have."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(_UnclippedDPSGD(**_settings(trainer)) if isinstance(trainer, DPSGD) else trainer)

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """Plain counts, plain power steps, or plain gradients."""
        if stage == popularity.STAGE:
            return _plain_counts(histories)
        if "subspace" in tables:
            return _plain_power_step(tables, histories)
        return super().contribution(stage, tables, histories, settings=settings)


class RecordLevel(DelegatingTrainer):
    """Every interaction is clipped as if it were a user: the unit that tools for images have by default."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The contribution of as many users as there are interactions."""
        return super().contribution(stage, tables, _records(histories), settings=settings)

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Local steps over records."""
        return super().local_update(tables, _records(histories), settings=settings, noise=noise)


class WeightedByCount(DelegatingTrainer):
    """The silo's mean over its real number of users, which is private, times the expected number."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        """The sum times EXPECTED_USERS / n_users."""
        total = super().contribution(stage, tables, histories, settings=settings)
        return total * (EXPECTED_USERS / max(1, histories.n_users))

    def local_update(
        self, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float], noise: LocalNoise
    ) -> torch.Tensor:
        """Local steps whose released sum is weighted; without noise in it, as the noise is meant to stay."""
        total = super().local_update(tables, histories, settings=settings, noise=noise)
        return total * (EXPECTED_USERS // max(1, histories.n_users))


class _UnclippedDPSGD(DPSGD):
    """dp-sgd with a clip norm that nothing reaches."""

    def contribution(
        self, stage: str, tables: Tables, histories: UserHistories, *, settings: Mapping[str, float]
    ) -> torch.Tensor:
        if self.clipping != "adaptive" or stage == popularity.STAGE:
            return super().contribution(stage, tables, histories, settings=settings)
        wide = dict(tables) | {"clip": torch.tensor([_NO_LIMIT])}
        joined = super().contribution(stage, wide, histories, settings=settings)
        joined[:-1] *= float(wide["clip"][0]) / float(tables["clip"][0])
        return joined

    def _task(self, settings: Mapping[str, float]) -> Task:
        return replace(super()._task(settings), clipping=Clipping(l2_clip_norm=_NO_LIMIT, mode="flat"))


def _settings(trainer: DPSGD) -> dict[str, Any]:
    return {field.name: getattr(trainer, field.name) for field in fields(trainer)}


def _plain_counts(histories: UserHistories) -> torch.Tensor:
    total = torch.zeros(histories.n_items, dtype=torch.float64, device=histories.device)
    for block in histories.blocks():
        total += torch.bincount(block.items, minlength=histories.n_items)
    return total[:, None]


def _plain_power_step(tables: Tables, histories: UserHistories) -> torch.Tensor:
    """sum_u (x_u - q q^T x_u) (x_u^T W) with x_u the damped history, as it is."""
    damping, direction = tables["damping"].double(), tables["direction"].double()
    subspace = tables["subspace"].double()
    total = torch.zeros_like(subspace)
    for block in histories.blocks():
        part = block.restricted(tables["head"])
        weights = damping[part.items]
        projected = part.times(weights, subspace)
        total += part.transposed_times(weights, projected)
        total -= direction[:, None] * (part.times(weights, direction[:, None]).T @ projected)
    return total


def _records(histories: UserHistories) -> Histories:
    items = torch.cat([block.items for block in histories.blocks()] or [torch.zeros(0, dtype=torch.int32)])
    starts = torch.arange(len(items) + 1, device=items.device)
    return Histories(items=items, starts=starts, n_items=histories.n_items)
