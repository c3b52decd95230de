"""popularity: noisy item counts, the first release of every trainer, and a trainer with all of the budget.

Each user contributes x_u / ||x_u||, x_u the weights of the user's items (ones without any), so the sum over users has
sensitivity 1 and heavy users weigh no more than light ones. From the noisy sum follow, as post-processing, the head
(the items that have rows in the subspace), the weight of each item in a history and the direction of popularity.

The trainer is the floor below which no model may fall at the same budget, and what `auto` takes where the noise
leaves no more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Signal, UserHistories
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.exact_sum import UNIT, in_units
from recsys_fed.trainers.pooling import pool_counts
from recsys_fed.trainers.trainer import Layout, PublicFacts, Stage, Tables, Trainer

STAGE = "item counts"
# Share of the budget (in units of 1 / noise_multiplier^2) that the counts get.
BUDGET_SHARE = 0.08
# Items count in a history as (noisy count)^-DAMPING: less of what everybody has seen.
DAMPING = 0.15
# Covers the rounding of 1 / sqrt(size) in float64.
_ROUNDING = 1e-15


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyPopularity:
    """What the server knows of popularity, for all items; public once released.

    Attributes:
        counts: noisy weighted counts, not below one standard deviation of their noise, float64 [n_items].
        head: rows of the head items, ascending, int64 [n_head].
    """

    counts: torch.Tensor
    head: torch.Tensor

    @property
    def damping(self) -> torch.Tensor:
        """Weight of each item in a history, float64 [n_items], mean count -> 1."""
        return (self.counts / self.counts.mean()) ** -DAMPING

    @property
    def direction(self) -> torch.Tensor:
        """Unit vector over all items: what the average damped history looks like."""
        return unit(self.counts * self.damping)


def unit(vector: torch.Tensor) -> torch.Tensor:
    """A vector over its length."""
    return torch.nn.functional.normalize(vector, dim=0)


def counts_stage(*, share: float = BUDGET_SHARE) -> Stage:
    """The round that releases the counts, for a share of the budget."""
    release = PlannedRelease(released="item counts", relative_noise=share**-0.5)
    return Stage(name=STAGE, release=release, kept=True)


def contribute_counts(histories: UserHistories, *, l2_clip_norm: float) -> torch.Tensor:
    """Silo: sum over users of x_u / ||x_u|| * l2_clip_norm, float64 [n_items, 1].

    Guarantees: L2 sensitivity l2_clip_norm for one user added or removed; a user without interactions adds nothing.
    The sum is exact (see `exact_sum`) for up to 2^27 users: blocks and the order of users do not change it. Assumes
    that no user has an item twice (`data.silo` sums up duplicates). Weights are at most 1 and multiples of 2^-5, so
    that ||x_u||^2 is exact; entries of the unit vector are cut off towards zero once more after they are weighed.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    total = torch.zeros(histories.n_items, dtype=torch.float64, device=histories.device)
    for block in histories.blocks():
        lengths = block.squared_lengths
        units = in_units(torch.where(lengths > 0, lengths.rsqrt() * (1 - _ROUNDING), 0.0))
        of_interaction = torch.repeat_interleave(units, block.starts.diff(), output_size=len(block.items))
        if block.weights is not None:
            of_interaction = of_interaction.mul_(block.weights).trunc_()
        total += torch.bincount(block.items, weights=of_interaction, minlength=histories.n_items)
    return total[:, None] * (UNIT * l2_clip_norm)


def estimate_popularity(
    total: torch.Tensor, *, noise_std: float, n_head: int, facts: PublicFacts | None = None
) -> NoisyPopularity:
    """Server: popularity from the noisy sum [n_items, 1], pooled with what `facts` say was released before.

    Ties in the head go to the lower row.
    """
    if facts is not None:
        total, noise_std = pool_counts(total, facts.released_before(STAGE), noise_std=noise_std)
    sums = total[:, 0].double()
    floor = max(noise_std, float(sums.abs().max()) * 1e-6, 1e-12)
    return NoisyPopularity(counts=sums.clamp_min(floor), head=most_frequent(sums, n_head))


def most_frequent(counts: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Rows of the largest counts [n_items], ascending, int64 [n_rows]; ties go to the lower row."""
    return torch.argsort(counts, descending=True, stable=True)[:n_rows].sort().values


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularItemsState:
    """What the server holds: public facts, and the noisy counts float64 [n_items] once they are released."""

    facts: PublicFacts
    counts: torch.Tensor | None = None


class PopularItems(Trainer):
    """The trainer; see the module."""

    name: ClassVar[str] = "popularity"
    reads: ClassVar[frozenset[Signal]] = frozenset({"weight"})

    def plan(self, facts: PublicFacts) -> tuple[Stage, ...]:
        """The counts, with all of the budget.

        Raises:
            ConfigurationError: more than one round was asked for.
        """
        if facts.rounds > 1:
            raise ConfigurationError(f"Expected rounds = 1 (or 0) for the popularity trainer, got {facts.rounds}.")
        return (counts_stage(share=1.0),)

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
        `contribute_counts`.
        """
        return contribute_counts(histories, l2_clip_norm=settings["l2_clip_norm"])

    def step(
        self, state: PopularItemsState, stage: Stage, total: torch.Tensor, *, noise_std: float, n_silos: int
    ) -> PopularItemsState:
        """Keep the noisy counts, pooled with earlier ones: their order is the ranking."""
        counts, _ = pool_counts(total, state.facts.released_before(STAGE), noise_std=noise_std)
        return replace(state, counts=counts[:, 0].double())

    def item_embeddings(self, state: PopularItemsState) -> ItemEmbeddings:
        """No vectors to speak of (one zero column); the bias is the counts over their length."""
        n_items = state.facts.n_items
        counts = state.counts if state.counts is not None else torch.zeros(n_items, dtype=torch.float64)
        return ItemEmbeddings(
            vectors=torch.zeros(n_items, 1),
            bias=unit(counts).float(),
            history_weights=torch.ones(n_items),
            fold_in=FoldIn(kind="projection"),
            catalogue_hash=state.facts.catalogue_hash,
        )
