"""Every unmasked sum has at least the promised noise, and exactly it at the least number of survivors."""

import math

import numpy as np
import pytest
from masked_round import Round, identities, terms_of
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation.noise_share import (
    distance_to_one_gaussian,
    noise_on_sum,
    noise_share,
)

SIGMA, ENTRIES = 60.0, 6000


def discrete_gaussian(rng: np.random.Generator, sigma: float, size: int) -> np.ndarray:
    """A plain oracle: inversion of the distribution function on a table of all integers that matter."""
    support = np.arange(-int(12 * sigma), int(12 * sigma) + 1)
    weights = np.exp(-(support**2) / (2 * sigma**2))
    return rng.choice(support, size, p=weights / weights.sum())


def accepts(values: np.ndarray, sigma: float) -> bool:
    """Kolmogorov and Smirnov, of the values smeared over their grid step."""
    smeared = values + np.random.default_rng(1).uniform(-0.5, 0.5, len(values))
    return bool(stats.kstest(smeared, stats.norm(0, sigma).cdf).pvalue > 1e-4)


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(3, 2, 0), (6, 4, 0), (6, 5, 1), (7, 6, 3)])
def test_the_noise_on_the_unmasked_sum(n: int, threshold: int, colluding: int) -> None:
    share = noise_share(threshold=threshold, colluding=colluding)
    deviation = SIGMA * share**0.5
    rng = np.random.default_rng(n)
    terms = terms_of(identities(n), threshold=threshold, colluding=colluding, entries=ENTRIES)
    for survivors in range(threshold, n + 1):
        inputs = np.stack([discrete_gaussian(rng, deviation, ENTRIES) for _ in range(n)])
        total = Round(identities(n), terms, drops=dict.fromkeys(range(survivors, n), 2)).run(inputs)
        promised = noise_on_sum(deviation, survivors=survivors)
        assert accepts(total, promised)
        assert not accepts(total, promised * 2 / 3)
        assert not accepts(total, promised * 3 / 2)
        # Without what colluding silos know, it is still the whole noise or more.
        secret = total - inputs[:colluding].sum(0)
        least = noise_on_sum(deviation, survivors=survivors - colluding)
        assert accepts(secret, least)
        assert least >= SIGMA * (1 - 1e-12)
    assert noise_on_sum(deviation, survivors=threshold - colluding) == pytest.approx(SIGMA, rel=1e-12)


def test_a_sum_of_discrete_gaussians_is_nearly_one() -> None:
    """The bound of the theorem against the two laws themselves, at a scale where the difference can be seen."""
    support = np.arange(-200, 201)

    def law(variance: float) -> np.ndarray:
        weights = np.exp(-(support**2) / (2 * variance))
        return weights / weights.sum()

    sigma = 0.6
    two = np.convolve(law(sigma**2), law(sigma**2), mode="same")
    middle = np.abs(support) <= 6
    apart = np.abs(np.log(two[middle] / law(2 * sigma**2)[middle])).max()
    bound = 10 * math.exp(-2 * math.pi**2 * sigma**2 / 2)
    assert 1e-3 < apart <= bound
    closed_form = 10 * math.exp(-2 * math.pi**2 * 64 / 2)
    assert distance_to_one_gaussian(8.0, silos=2) == pytest.approx(closed_form, rel=1e-9)
    assert closed_form <= distance_to_one_gaussian(8.0, silos=1000) < 1e-270
    assert distance_to_one_gaussian(8.0, silos=1) == 0


def test_impossible_shares_are_refused() -> None:
    assert noise_share(threshold=10) == 0.1
    assert noise_share(threshold=10, colluding=2) == 0.125
    with pytest.raises(ConfigurationError, match="threshold > colluding"):
        noise_share(threshold=3, colluding=3)
    with pytest.raises(ConfigurationError, match="finer grid"):
        distance_to_one_gaussian(7.9, silos=10)
