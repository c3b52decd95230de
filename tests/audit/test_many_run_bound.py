"""Clopper and Pearson's limits and the bound over many runs."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from recsys_fed.audit.bounds import binomial_limits, many_run_epsilon
from recsys_fed.errors import ConfigurationError


def test_limits_are_clopper_and_pearsons_and_cover():
    successes = np.arange(21)
    low, high = binomial_limits(successes, 20, confidence=0.95)
    assert low[7] == pytest.approx(beta.ppf(0.05, 7, 14))
    assert high[7] == pytest.approx(beta.ppf(0.95, 8, 13))
    assert (low[0], high[20]) == (0.0, 1.0)
    for p in (0.05, 0.4, 0.9):
        weights = binom.pmf(successes, 20, p)
        assert weights[(low > p)].sum() <= 0.05
        assert weights[(high < p)].sum() <= 0.05
    with pytest.raises(ConfigurationError, match="successes"):
        binomial_limits(np.array([21]), 20, confidence=0.95)


def test_the_bound_stays_below_randomised_response_and_comes_close():
    """A coin that tells the truth with probability e^eps / (1 + e^eps) is exactly eps-private."""
    rng, epsilon = np.random.default_rng(3), 2.0
    truth = np.exp(epsilon) / (1 + np.exp(epsilon))
    found = [
        many_run_epsilon(
            (rng.random(4_000) < truth).astype(float),
            (rng.random(4_000) > truth).astype(float),
            delta=0.0,
            confidence=0.95,
        )
        for _ in range(40)
    ]
    assert sum(bound > epsilon for bound in found) <= 4
    assert np.median(found) > 1.7


def test_both_tails_are_looked_at_and_too_few_runs_are_refused():
    ones, mixed = np.ones(800), np.arange(800) % 2.0
    assert many_run_epsilon(ones, mixed, delta=0.0, confidence=0.95) > 3, "who is low was never in"
    assert many_run_epsilon(mixed, np.zeros(800), delta=0.0, confidence=0.95) > 3, "who is high was never out"
    with pytest.raises(ConfigurationError, match="two runs"):
        many_run_epsilon(ones[:1], mixed, delta=0.0, confidence=0.95)
