"""The noise that each silo adds, so that the sum has enough of it whoever drops out or colludes.

With t the least number of survivors and c colluding silos, whose noise does not count, each silo adds discrete
Gaussian noise of variance s^2 = sigma^2 / (t - c). A sum that is unmasked has at least t survivors, hence noise of
variance sigma^2 or more from silos that tell nobody theirs; with all n of them it has n / (t - c) times that.

The sum of k discrete Gaussians is not one discrete Gaussian, but nearly (arXiv 2102.06387, Theorem 1, whose constant
is 10). In our notation, with rho_v(y) = exp(-y^2 / 2v) and X ~ N_Z(0, j s^2), Y ~ N_Z(0, s^2) independent,

    P[X + Y = y] ~ sum_x rho_(j s^2)(x) rho_(s^2)(y - x) = rho_((j + 1) s^2)(y) S(y)
    S(y) = sum_x exp(-(x - a y)^2 / 2 u^2),      u^2 = s^2 j / (j + 1),      a = j / (j + 1)

by completing the square. By Poisson summation, over m = 1, 2, ...,

    S(y) = u sqrt(2 pi) (1 + 2 sum_m exp(-2 pi^2 u^2 m^2) cos(2 pi m a y))

so S stays within a constant times 1 +- h_j with h_j = 2 sum_m exp(-2 pi^2 u^2 m^2). After normalisation every
probability of X + Y is that of N_Z(0, (j + 1) s^2) up to a factor within e^-+2 artanh(h_j). If X has its law only up
to a factor within e^-+tau, X + Y has it up to e^-+(tau + 2 artanh(h_j)), as convolution keeps bounds on ratios. Hence

    tau = 2 sum_(j=1)^(k-1) artanh(h_j)

for one entry, and m tau for m independent ones. Noise of more survivors is added independently, which is
post-processing. tau bounds laws of the noise, whatever it is shifted by, so no group privacy is involved: if the
release with one discrete Gaussian is (epsilon, delta)-DP and eta = 1 - e^(-m tau) bounds the total variation between
the two, the real one is (epsilon, delta + (1 + e^epsilon) eta)-DP. That is charged as the event's slack.
"""

import math

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError

# Epsilon up to which the slack covers the difference; nothing beyond it is a promise to anybody.
_LARGEST_EPSILON = 64.0


def noise_share(*, threshold: int, colluding: int = 0, max_silos_per_user: int = 1) -> float:
    """Share of the noise's variance that each silo adds: k / (t - c), or all of it where k is larger.

    Guarantees: the noise of the survivors that do not collude has at least k times the whole variance, or the whole
    in each of them, whoever they are, as there are t - c of them or more.
    """
    checks.at_least(0, colluding=colluding)
    checks.at_least(1, max_silos_per_user=max_silos_per_user)
    if threshold - colluding < 1:
        raise ConfigurationError(f"Expected threshold > colluding, got {threshold} and {colluding}.")
    return min(1.0, max_silos_per_user / (threshold - colluding))


def distance_to_one_gaussian(standard_deviation: float, *, silos: int) -> float:
    """tau: the sum of the silos' discrete Gaussians against one, as a bound on log ratios of probabilities.

    Infinite where the noise of a silo is so small (below 0.4 grid steps) that nothing is known.
    """
    checks.at_least(1, silos=silos)
    checks.positive(standard_deviation=standard_deviation)
    steps = [_distance_of_step(standard_deviation**2 * j / (j + 1)) for j in range(1, silos)]
    return math.fsum(steps) if steps else 0.0


def slack_of_sum(standard_deviation: float, *, silos: int, entries: int) -> float:
    """What the difference between the sum of the silos' noise and one discrete Gaussian costs in delta.

    Guarantees: (1 + e^epsilon) eta for every epsilon up to 64 of the release; 0 without noise, whose epsilon is
    infinite anyway.
    """
    if standard_deviation == 0:
        return 0.0
    tau = distance_to_one_gaussian(standard_deviation, silos=silos)
    return min(1.0, (1 + math.exp(_LARGEST_EPSILON)) * -math.expm1(-entries * tau))


def _distance_of_step(squared: float) -> float:
    """2 artanh(h) for u^2 = `squared`; the sum over m is bounded by that of m^2 >= 1 + 3 (m - 1)."""
    first = math.exp(-2 * math.pi**2 * squared)
    away = 2 * first / (1 - first**3)
    return 2 * math.atanh(away) if away < 1 else math.inf
