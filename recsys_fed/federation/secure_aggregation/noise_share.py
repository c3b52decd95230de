"""The noise that each silo adds, so that the sum has enough of it whoever drops out or colludes.

With t the least number of survivors and c colluding silos, whose noise does not count, each silo adds discrete
Gaussian noise of variance s^2 = sigma^2 / (t - c). A sum that is unmasked has at least t survivors, hence noise of
variance sigma^2 or more from silos that tell nobody theirs; with all n of them it has n / (t - c) times that.

The sum of k discrete Gaussians N_Z(0, s^2) is not N_Z(0, k s^2), but nearly (arXiv 2102.06387, Theorem 1): the
probabilities of every integer agree up to a factor within e^-tau and e^tau with

    tau = 10 sum_(j=1)^(k-1) exp(-2 pi^2 s^2 j / (j + 1))

so a release of m entries that would be (epsilon, delta)-DP with one discrete Gaussian of variance k s^2 on the sum
costs at most 2 tau m more in epsilon and a factor e^(tau m) in delta (group privacy is not needed: tau compares laws
of noise, shifted alike). For s >= 8 steps tau is below 1e-270: nothing that a float64 could add to epsilon.
"""

import math

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

# In grid steps; finer noise than this is refused, so that tau is nothing.
LEAST_DEVIATION = 8.0


def noise_share(*, threshold: int, colluding: int = 0) -> float:
    """Share of the noise's variance that each silo adds, 1 / (t - c).

    Guarantees: the noise of the survivors that do not collude has at least the whole variance, whoever they are,
    as there are t - c of them or more.
    """
    checks.at_least(0, colluding=colluding)
    if threshold - colluding < 1:
        raise ConfigurationError(f"Expected threshold > colluding, got {threshold} and {colluding}.")
    return 1.0 / (threshold - colluding)


def noise_on_sum(standard_deviation: float, *, survivors: int) -> float:
    """Standard deviation of the noise on the sum when each of the survivors added `standard_deviation`."""
    checks.at_least(1, survivors=survivors)
    return standard_deviation * math.sqrt(survivors)


def distance_to_one_gaussian(standard_deviation: float, *, silos: int) -> float:
    """tau: the sum of the silos' discrete Gaussians against one, as a bound on log ratios of probabilities.

    Raises:
        ConfigurationError: the noise of a silo is below 8 grid steps, for which nothing is promised here.
    """
    checks.at_least(1, silos=silos)
    if standard_deviation < LEAST_DEVIATION:
        raise ConfigurationError(
            f"Expected noise of at least {LEAST_DEVIATION:g} grid steps in each silo, got {standard_deviation:g}. "
            "Use a finer grid."
        )
    squared = 2 * math.pi**2 * standard_deviation**2
    return 10 * math.fsum(math.exp(-squared * j / (j + 1)) for j in range(1, silos))
