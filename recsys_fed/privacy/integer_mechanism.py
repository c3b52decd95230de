"""The mechanism of every release: a sum rounded to the public grid, plus discrete Gaussian integers.

What is promised is the continuous Gaussian mechanism of the event's noise multiplier z, for a sum f of L2
sensitivity C (one user added or removed). What is done, all figures in grid steps and m the number of entries:

1. *Arithmetic.* The silo computes f in floating point. Of two neighbours' results f, f' the difference is that of
   exact arithmetic up to `arithmetic_error` * C, so ||f - f'|| <= a = (1 + arithmetic_error) C / step.
2. *Rounding* down to multiples of 2^-16 moves two neighbours' entries apart by less than 2^-16 each, hence
   ||f - f'|| <= b = a + 2^-16 sqrt(m).
3. *Dither.* d_i = floor(f'_i + r_i) - floor(f_i + r_i) is one of the two integers next to g_i = f'_i - f_i,
   independently over i and with mean g_i. So E d_i^2 is g_i^2 interpolated between the integers: at most |g_i| for
   |g_i| <= 1/2 and g_i^2 + 1/4 beyond, which is concave in g_i^2; and d_i^2 ranges over an interval of length at most
   2 |g_i| + 1. By Jensen, and by Hoeffding with probability at least 1 - beta,

       E ||d||^2 <= e(b),     e(b) = sqrt(m) b for b <= sqrt(m) / 2,     b^2 + m / 4 beyond
       ||d||^2 <= D^2 = e(b) + (2 b + sqrt(m)) sqrt(log(1 / beta) / 2)

   The dither does not depend on the data, so the failure costs beta in delta and nothing else.
4. *Noise* N_Z(0, s^2) with s^2 = share z^2 D^2 + 3. A discrete Gaussian shifted by integers is the continuous one
   of variance s^2 - 3, shifted alike and then rounded at random (to an integer y' near y with probability
   proportional to exp(-(y' - y)^2 / 6)), up to a factor within 1 +- e^-57 on every outcome of an entry. Random
   rounding is post-processing. So the release is a post-processing of the continuous Gaussian mechanism with noise
   multiplier z, in any number of dimensions and with sampling of users, and whatever is composed from such releases
   costs what the accountants say of continuous Gaussians, but for e^-55 a released entry in epsilon.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.grid import DITHER_BITS, to_grid
from recsys_fed.privacy.noise import NoiseSource

# beta: what one rounded sum costs in delta.
ROUNDING_SLACK = 1e-15
# Relative to C; trainers' sums keep within it, see `trainers.trainer`.
ARITHMETIC_ERROR = 2.0**-10
# Variance of the random rounding in point 4.
SMOOTHING = 3.0
# In steps. Below it the noise of silos that share it would no longer add up to a discrete Gaussian.
LEAST_DEVIATION = 8.0


@dataclass(frozen=True, kw_only=True)
class IntegerMechanism:
    """One noised sum, described by public numbers; see the module.

    Attributes:
        noise_multiplier: z, of the continuous Gaussian mechanism that the sum over silos amounts to; 0 for none.
        l2_clip_norm: C, in the unit of the sum.
        grid_step: width of the grid in the same unit.
        entries: m.
        noise_share: share of the variance that one silo adds.
    """

    noise_multiplier: float
    l2_clip_norm: float
    grid_step: float
    entries: int
    noise_share: float = 1.0

    def __post_init__(self) -> None:
        checks.non_negative(noise_multiplier=self.noise_multiplier)
        checks.positive(l2_clip_norm=self.l2_clip_norm, grid_step=self.grid_step)
        checks.at_least(0, entries=self.entries)
        checks.probability(noise_share=self.noise_share)
        if math.frexp(self.grid_step)[0] != 0.5:
            raise ConfigurationError(f"Expected grid_step to be a power of two, got {self.grid_step}.")
        if 0 < self.standard_deviation < LEAST_DEVIATION:
            raise ConfigurationError(
                f"Expected noise of at least {LEAST_DEVIATION:g} grid steps, got {self.standard_deviation:g}. "
                "Use a finer grid."
            )

    @property
    def sensitivity(self) -> float:
        """D: L2 sensitivity of the rounded sum in steps, but for probability ROUNDING_SLACK."""
        root = self.entries**0.5
        exact = (1 + ARITHMETIC_ERROR) * self.l2_clip_norm / self.grid_step + 2.0**-DITHER_BITS * root
        expected = root * exact if exact <= root / 2 else exact**2 + root**2 / 4
        return math.sqrt(expected + (2 * exact + root) * math.sqrt(-math.log(ROUNDING_SLACK) / 2))

    @property
    def standard_deviation(self) -> float:
        """s: standard deviation of the noise that one silo adds, in steps; 0 without noise."""
        if self.noise_multiplier == 0:
            return 0.0
        return math.sqrt(self.noise_share * (self.noise_multiplier * self.sensitivity) ** 2 + SMOOTHING)

    @property
    def inflation(self) -> float:
        """Standard deviation of the noise over that of the continuous mechanism: what the integers cost."""
        plain = self.noise_multiplier * self.l2_clip_norm * self.noise_share**0.5
        return self.standard_deviation * self.grid_step / plain if plain else 1.0


def noised(
    total: npt.NDArray[np.float64], *, mechanism: IntegerMechanism, noise: NoiseSource
) -> npt.NDArray[np.int64]:
    """Round a sum over users to the grid and add a silo's noise: integers, in steps.

    Guarantees:
        - Unit: one user; neighbouring relation: add or remove one user; `total` has sensitivity C.
        - The result is (epsilon, delta + ROUNDING_SLACK)-differentially private where the Gaussian mechanism of
          the mechanism's noise multiplier is (epsilon, delta); see the module for the proof.
        - Every entry gets noise, also those that no user touched, also in a silo without users.
        - No floating-point number is computed from the noise, and none after rounding.
    """
    rounded = to_grid(total, step=mechanism.grid_step, dither=noise.dither(total.shape))
    drawn = noise.integers(total.shape, standard_deviation=mechanism.standard_deviation)
    drawn += rounded
    return drawn
