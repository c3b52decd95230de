"""How many bits the sum needs, from public numbers alone, and signed integers modulo 2^b.

In grid steps, with n silos, m entries, noise N_Z(0, s^2) of each silo, C / step the clip norm and U the users of all
silos together, an entry of the sum is a sum of U terms of size at most C / step, n roundings to a neighbouring
integer and n draws of noise. N_Z(0, s^2) is subgaussian with parameter s^2 (arXiv 2004.00010), so

    |entry| <= A + x,      A = U C / step + n,
    P[some |noise| > x] <= 2 m exp(-x^2 / (2 n s^2))

and b is the least with A + x < 2^(b-1) for an x at which that is below 1e-9. U is taken as four times the declared
users; if there are more, an entry could wrap round, which costs the model and not the users: reduction modulo 2^b is
post-processing.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.masks import Words, word_type
from recsys_fed.federation.secure_aggregation.terms import MOST_BITS

# Users that there may be for each declared one.
HEADROOM = 4
MOST_OVERFLOW = 1e-9


@dataclass(frozen=True, kw_only=True)
class Modulus:
    """b, and the figures that it follows from.

    Attributes:
        bits: b.
        largest_sum: A, bound on an entry of the sum without its noise, in grid steps.
        noise: standard deviation of all silos' noise together, in grid steps; 0 without.
        entries: m.
    """

    bits: int
    largest_sum: float
    noise: float
    entries: int

    @property
    def overflow_probability(self) -> float:
        """Bound on the chance that some entry of the sum does not fit into b bits."""
        room = 2.0 ** (self.bits - 1) - 1 - self.largest_sum
        if room < 0:
            return 1.0
        if self.noise == 0:
            return 0.0
        return min(1.0, 2 * self.entries * math.exp(-((room / self.noise) ** 2) / 2))

    def __str__(self) -> str:
        return (
            f"{self.bits} bits a value: sums up to {self.largest_sum:.4g} steps and noise of {self.noise:.4g} in "
            f"{self.entries:,} entries, overflow with probability below {max(self.overflow_probability, 1e-300):.2g}"
        )


def modulus_for(*, declared_users: int, clip_steps: float, n_silos: int, noise_steps: float, entries: int) -> Modulus:
    """The least number of bits at which the sum overflows with probability below 1e-9.

    Args:
        declared_users: public order of magnitude of the users of all silos together.
        clip_steps: clip norm over grid step, hence a bound on what one user adds to an entry.
        n_silos: invited silos, all of which may survive.
        noise_steps: standard deviation of one silo's noise, in grid steps.
        entries: of the vector.

    Raises:
        ConfigurationError: it would take more than 39 bits.
    """
    checks.at_least(1, declared_users=declared_users, n_silos=n_silos, entries=entries)
    checks.positive(clip_steps=clip_steps)
    checks.non_negative(noise_steps=noise_steps)
    largest_sum = HEADROOM * declared_users * clip_steps + n_silos
    noise = noise_steps * math.sqrt(n_silos)
    for bits in range(2, MOST_BITS + 1):
        modulus = Modulus(bits=bits, largest_sum=largest_sum, noise=noise, entries=entries)
        if modulus.overflow_probability < MOST_OVERFLOW:
            return modulus
    raise ConfigurationError(
        f"Expected sums and noise that fit into {MOST_BITS} bits, got sums up to {largest_sum:.4g} steps and noise "
        f"of {noise:.4g}. Use a coarser grid, or fewer declared users."
    )


def to_words(integers: npt.NDArray[np.integer], bits: int) -> Words:
    """Signed integers modulo 2^b, as words."""
    return np.ravel(integers).astype(np.int64).view(np.uint64).astype(word_type(bits))


def from_words(words: Words, bits: int) -> npt.NDArray[np.int64]:
    """The integers in [-2^(b-1), 2^(b-1)) that the words are congruent to modulo 2^b."""
    shift = np.int64(64 - bits)
    # The sign bit of b bits becomes that of 64, and an arithmetic shift brings it back.
    return (words.astype(np.uint64) << np.uint64(64 - bits)).view(np.int64) >> shift
