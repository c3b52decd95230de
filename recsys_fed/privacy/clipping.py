"""Clip factors: how much of a user's contribution counts, so that no user weighs more than the clip norm."""

import torch

from recsys_fed import checks

MODES = ("flat", "automatic")

# Norms are computed from the very values that are summed, in float64; this covers the rounding of the
# factor to float32 (Opacus adds as much to the norm).
_ROUNDING = 1e-6


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
