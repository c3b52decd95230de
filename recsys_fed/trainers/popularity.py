"""The first release of every trainer: noised item counts, and what follows from them for free.

Each user contributes x_u / ||x_u||, so the sum over users has sensitivity 1 and heavy users weigh no more
than light ones. From the noised sum follow, as post-processing, the head (the items that have rows in the
subspace), the weight of each item in a history and the direction of popularity.
"""

from dataclasses import dataclass

import torch

from recsys_fed import checks
from recsys_fed.models.user_blocks import UserHistories
from recsys_fed.privacy.events import PlannedRelease
from recsys_fed.trainers.exact_sum import UNIT, in_units
from recsys_fed.trainers.trainer import Stage

STAGE = "item counts"
# Share of the budget (in units of 1 / noise_multiplier^2) that the counts get.
BUDGET_SHARE = 0.08
# Items count in a history as (noised count)^-DAMPING: less of what everybody has seen.
DAMPING = 0.15
# Covers the rounding of 1 / sqrt(size) in float64.
_ROUNDING = 1e-15


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


def counts_stage(*, share: float = BUDGET_SHARE) -> Stage:
    """The round that releases the counts, for a share of the budget."""
    release = PlannedRelease(released="item counts", relative_noise=share**-0.5)
    return Stage(name=STAGE, release=release)


def contribute_counts(histories: UserHistories, *, l2_clip_norm: float) -> torch.Tensor:
    """Silo: sum over users of x_u / ||x_u|| * l2_clip_norm, float64 [n_items, 1].

    Guarantees: L2 sensitivity l2_clip_norm for one user added or removed; a user without interactions adds nothing.
    The sum is exact (see `exact_sum`) for up to 2^27 users: blocks and the order of users do not change it. Assumes
    that no user has an item twice (`data.silo` sums up duplicates).
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    total = torch.zeros(histories.n_items, dtype=torch.float64, device=histories.device)
    for block in histories.blocks():
        sizes = block.starts.diff()
        units = in_units(sizes.clamp_min(1).double().rsqrt() * (1 - _ROUNDING))
        of_interaction = torch.repeat_interleave(units, sizes, output_size=len(block.items))
        total += torch.bincount(block.items, weights=of_interaction, minlength=histories.n_items)
    return total[:, None] * (UNIT * l2_clip_norm)


def noised_popularity(total: torch.Tensor, *, noise_std: float, n_head: int) -> NoisedPopularity:
    """Server: popularity from the noised sum [n_items, 1]; ties in the head go to the lower row."""
    sums = total[:, 0].double()
    floor = max(noise_std, float(sums.abs().max()) * 1e-6, 1e-12)
    head = torch.argsort(sums, descending=True, stable=True)[:n_head].sort().values
    return NoisedPopularity(counts=sums.clamp_min(floor), head=head)
