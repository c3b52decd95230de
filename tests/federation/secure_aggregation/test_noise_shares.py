"""Every unmasked sum has at least the promised noise, and exactly it at the least number of survivors."""

import numpy as np
import pytest
from masked_round import Round, identities, terms_of
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.noise_split import _distance_to_one_gaussian, noise_share, slack_of_sum

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
        promised = deviation * survivors**0.5
        assert accepts(total, promised)
        assert not accepts(total, promised * 2 / 3)
        assert not accepts(total, promised * 3 / 2)
        # Without what colluding silos know, it is still the whole noise or more.
        secret = total - inputs[:colluding].sum(0)
        least = deviation * (survivors - colluding) ** 0.5
        assert accepts(secret, least)
        assert least >= SIGMA * (1 - 1e-12)
    assert deviation * (threshold - colluding) ** 0.5 == pytest.approx(SIGMA, rel=1e-12)


SUPPORT = np.arange(-400, 401)


def law(variance: float) -> np.ndarray:
    """Probabilities of one discrete Gaussian on SUPPORT."""
    weights = np.exp(-(SUPPORT**2) / (2 * variance))
    return weights / weights.sum()


def law_of_sum(sigma: float, silos: int) -> np.ndarray:
    """The same of the sum of `silos` of them, by convolution."""
    total = law(sigma**2)
    for _ in range(silos - 1):
        total = np.convolve(total, law(sigma**2), mode="same")
    return total


@pytest.mark.parametrize("sigma", [0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("silos", [2, 3, 5, 12])
def test_the_sum_of_discrete_gaussians_is_as_near_to_one_as_the_bound_says(sigma: float, silos: int) -> None:
    """Against the two laws themselves, at scales where the difference can be seen and the bound is not idle."""
    bound = _distance_to_one_gaussian(sigma, silos=silos)
    middle = np.abs(SUPPORT) <= 6 * sigma * silos**0.5
    ratios = np.log(law_of_sum(sigma, silos)[middle] / law(silos * sigma**2)[middle])
    assert np.abs(ratios).max() <= bound + 1e-12
    # Of more silos each sum but the last is smoothed by those after it, which the bound does not use.
    assert np.abs(ratios).max() >= bound / 2 or silos > 2


@pytest.mark.parametrize(("sigma", "silos"), [(0.6, 2), (0.8, 5), (1.0, 12)])
def test_the_slack_covers_the_distance_between_the_laws(sigma: float, silos: int) -> None:
    """(1 + e^epsilon) times the total variation, also for many entries, each of which is another draw."""
    apart = np.abs(law_of_sum(sigma, silos) - law(silos * sigma**2)).sum() / 2
    assert slack_of_sum(sigma, silos=silos, entries=1) >= min(1.0, (1 + np.exp(8.0)) * apart)
    assert slack_of_sum(8.0, silos=silos, entries=10**9) < 1e-200
    tiny = slack_of_sum(4.0, silos=silos, entries=10)
    assert slack_of_sum(4.0, silos=silos, entries=10_000) == pytest.approx(1000 * tiny, rel=1e-6)
    assert slack_of_sum(0.0, silos=silos, entries=10) == 0.0


def test_one_silo_has_one_discrete_gaussian_and_too_little_noise_has_no_bound() -> None:
    assert _distance_to_one_gaussian(8.0, silos=1) == 0
    assert 0 < _distance_to_one_gaussian(8.0, silos=1000) < 1e-270
    assert _distance_to_one_gaussian(0.1, silos=2) == np.inf


def test_impossible_shares_are_refused() -> None:
    assert noise_share(threshold=10) == 0.1
    assert noise_share(threshold=10, colluding=2) == 0.125
    with pytest.raises(ConfigurationError, match="threshold > colluding"):
        noise_share(threshold=3, colluding=3)


def test_a_user_in_several_silos_needs_more_noise_on_the_sum_but_never_more_than_all_silos_noise() -> None:
    assert noise_share(threshold=10, max_silos_per_user=3) == 0.3
    assert noise_share(threshold=10, colluding=2, max_silos_per_user=9) == 1.0
