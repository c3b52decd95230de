"""The first release of every trainer: noised item counts, and what follows from them for free.

Each user contributes x_u / ||x_u||, so the sum over users has sensitivity 1 and heavy users weigh no more
than light ones. From the noised sum follow, as post-processing, the head (the items that have rows in the
subspace), the weight of each item in a history and the direction of popularity.
"""

from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.privacy.clipping import clip_factors
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.base import Stage

STAGE = "item counts"
# Share of the budget (in units of 1 / noise_multiplier^2) that the counts get.
BUDGET_SHARE = 0.08
# Items count in a history as (noised count)^-DAMPING: less of what everybody has seen.
DAMPING = 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisedPopularity:
    """What the server knows of popularity, for all items; public once released.

    Attributes:
        counts: noised weighted counts, not below one standard deviation of their noise, float64 [n_items].
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


def counts_stage() -> Stage:
    """The round that releases the counts."""
    release = PlannedRelease(released="item counts", relative_noise=BUDGET_SHARE**-0.5)
    return Stage(name=STAGE, release=release)


def contribute_counts(histories: Histories, *, l2_clip_norm: float) -> torch.Tensor:
    """Silo: sum over users of x_u / ||x_u|| * l2_clip_norm, float32 [n_items, 1].

    Guarantees: L2 sensitivity l2_clip_norm for one user added or removed; a user without interactions adds nothing.
    """
    sizes = histories.starts.diff().double()
    factors = clip_factors(sizes.sqrt(), l2_clip_norm=l2_clip_norm, mode="automatic")
    ones = torch.ones(len(histories.items), device=histories.items.device)
    return histories.transposed_times(ones, factors.float()[:, None])


def noised_popularity(total: torch.Tensor, *, noise_std: float, n_head: int) -> NoisedPopularity:
    """Server: popularity from the noised sum [n_items, 1]; ties in the head go to the lower row."""
    sums = total[:, 0].double()
    floor = max(noise_std, float(sums.abs().max()) * 1e-6, 1e-12)
    head = torch.argsort(sums, descending=True, stable=True)[:n_head].sort().values
    return NoisedPopularity(counts=sums.clamp_min(floor), head=head)
