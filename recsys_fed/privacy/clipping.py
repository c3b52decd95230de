"""Clip factors: how much of a user's contribution counts, so that no user weighs more than the clip norm.

A clip norm may follow a quantile of the users' norms, learned under the same noise (arXiv 1905.03871). Every user's
contribution carries one more entry: whether its norm is within the clip norm C. One release serves both: for a share
r of the sensitivity L,

    body:   contribution clipped to C, times sqrt(1 - r^2) L / C       norm at most sqrt(1 - r^2) L
    count:  + r L where the norm is within C, - r L where it is not    norm exactly r L

so that a user's whole row has norm at most L and nothing else has to be charged. The count is a whole number times
r L, which float64 rounds by less than the margin of `clip_factors` leaves of the body, while n users have
n r^2 <= 2^31. From the noisy count follows the share of users within C, and the next clip norm
C exp(-rate (share - quantile)): post-processing.
"""

import math
from dataclasses import dataclass

import torch

from recsys_fed import checks

MODES = ("flat", "automatic")
# Norms are computed from the very values that are summed, in float64; this covers the rounding of the
# factor to float32 (Opacus adds as much to the norm).
_ROUNDING = 1e-6
# Of Andrew et al.: the median, the step of the logarithm, the noise on the count in shares of the users.
QUANTILE, RATE, COUNT_NOISE = 0.5, 0.2, 0.05
_MOST = 0.3


def clip_factors(norms: torch.Tensor, *, l2_clip_norm: float, mode: str = "flat") -> torch.Tensor:
    """Factors c_u [n_users] for contributions of L2 norm `norms` [n_users], in the norms' type.

    "flat" (Abadi et al., arXiv 1607.00133): c = min(1, l2_clip_norm / norm).
    "automatic" (Bu et al., arXiv 2206.07136): c = l2_clip_norm / norm, every contribution that is not
    zero counts with the clip norm itself, so that the clip norm is a unit and no longer a choice.

    Guarantees:
        - norm_u * c_u <= l2_clip_norm for every user, whatever the norm.
        - A norm of zero gives the factor 1 (flat) or 0 (automatic); a norm that is not finite gives 0, so
          a user whose contribution overflowed counts for nothing instead of for too much.
        - The factor of a user depends on that user's norm alone.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.one_of(MODES, mode=mode)
    bounded = l2_clip_norm / (norms * (1 + _ROUNDING))
    factors = bounded.clamp_max(1.0) if mode == "flat" else bounded
    factors = torch.where(norms > 0, factors, 1.0 if mode == "flat" else 0.0)
    # A subnormal norm would need a factor beyond what float32 holds.
    usable = norms.isfinite() & (factors <= torch.finfo(torch.float32).max)
    return torch.where(usable, factors, 0.0)


@dataclass(frozen=True, kw_only=True)
class JointRelease:
    """How one release is shared between a clipped sum and a count; public.

    Attributes:
        l2_clip_norm: L, the sensitivity of both together.
        count_share: r, the count's share of it.
    """

    l2_clip_norm: float
    count_share: float

    def __post_init__(self) -> None:
        checks.positive(l2_clip_norm=self.l2_clip_norm)
        checks.fraction(count_share=self.count_share)

    @property
    def body(self) -> float:
        """Sensitivity of the clipped sum."""
        return self.l2_clip_norm * math.sqrt(1 - self.count_share**2)

    def join(self, total: torch.Tensor, within: int, users: int, *, clip_norm: float) -> torch.Tensor:
        """What is released: `total` [n_rows, dim] in the unit of L, and a row whose first entry is the count.

        Args:
            total: sum over users of contributions clipped to `clip_norm`.
            within: how many users' norms are at most `clip_norm`; both counts are private.
            users: how many users were summed, in the sample and in this process: not those of the whole silo.
            clip_norm: C.

        Guarantees: unit and neighbouring relation of one user added or removed; L2 sensitivity l2_clip_norm.
        """
        count = torch.zeros(1, total.shape[1], dtype=total.dtype, device=total.device)
        count[0, 0] = (2 * within - users) * self.count_share * self.l2_clip_norm
        return torch.cat([total * (self.body / clip_norm), count])

    def split(self, table: torch.Tensor, *, clip_norm: float, declared_users: int) -> tuple[torch.Tensor, float]:
        """The noisy sum [rows, columns] in its own unit, without the last row of `table`, and the next clip norm."""
        excess = float(table[-1, 0]) / (self.count_share * self.l2_clip_norm * declared_users)
        share = min(max((1 + excess) / 2, 0.0), 1.0)
        return table[:-1] * (clip_norm / self.body), clip_norm * math.exp(-RATE * (share - QUANTILE))


def count_share(*, noise_multiplier: float, declared_users: int) -> float:
    """The share at which the noise on the count is COUNT_NOISE of the declared users, as far as it is small."""
    return min(max(noise_multiplier / (2 * COUNT_NOISE * declared_users), 1e-4), _MOST)
