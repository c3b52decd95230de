"""Bounds from guesses: against plain versions of the papers' programs, at their ends, and on ideal canaries."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from recsys_fed.audit.bounds import (
    Guesses,
    _extreme_guesses,
    _find_refuted,
    _largest_refuted_mu,
    bounds_of,
    ceiling,
    epsilon_of_mu,
    gaussian_estimate,
    one_run_epsilon,
    one_run_p_value,
    plan_guesses,
)
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.accounting.closed_forms import largest_mu

GAMES = [
    Guesses(canaries=m, made=r, correct=v) for m, r, v in [(1000, 100, 95), (1000, 60, 40), (50, 50, 50), (9, 4, 0)]
]


def plain_p_value(m, r, v, eps, delta):
    """arXiv 2305.08846, appendix D, as printed."""
    q = 1 / (1 + math.exp(-eps))
    beta = binom.sf(v - 1, r, q)
    alpha = total = 0.0
    for i in range(1, v + 1):
        total += binom.pmf(v - i, r, q)
        alpha = max(alpha, total / i)
    return min(1.0, beta + alpha * delta * 2 * m)


def plain_refuted(m, r, v, mu, confidence):
    """arXiv 2410.22235, algorithm 3 with a cap, as printed."""
    alpha = 1 - confidence
    right, wrong = [0.0] * (v + 1), [0.0] * (v + 1)
    right[v], wrong[v] = alpha * v / m, alpha * (r - v) / m
    for i in range(v - 1, -1, -1):
        wrong[i] = max(wrong[i + 1], norm.cdf(norm.ppf(right[i + 1]) - mu))
        right[i] = right[i + 1] + i / (r - i) * (wrong[i] - wrong[i + 1])
    return right[0] + wrong[0] > r / m


@pytest.mark.parametrize("game", GAMES, ids=str)
@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-3])
def test_p_values_are_those_of_the_paper(game, delta):
    for epsilon in (0.0, 0.5, 2.0, 5.0):
        expected = plain_p_value(game.canaries, game.made, game.correct, epsilon, delta)
        assert one_run_p_value(game, epsilon=epsilon, delta=delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("game", GAMES[:3], ids=str)
def test_the_fdp_recursion_is_that_of_the_paper(game):
    candidates = np.linspace(0, 4, 41)
    found = _find_refuted(game, candidates, confidence=0.95)
    expected = [plain_refuted(game.canaries, game.made, game.correct, mu, 0.95) for mu in candidates]
    assert found.tolist() == expected
    assert found[:-1].tolist() >= found[1:].tolist(), "a larger mu explains what a smaller one does"
    edge = _largest_refuted_mu(game, confidence=0.95)
    assert not _find_refuted(game, np.array([edge + 2e-3]), confidence=0.95)[0]


def test_all_right_of_m_has_the_bound_that_can_be_done_by_hand():
    """P[all right] = q^m <= 0.05 up to q = 0.05^(1/m); no delta."""
    q = 0.05 ** (1 / 200)
    game = Guesses(canaries=200, made=200, correct=200)
    assert one_run_epsilon(game, delta=0.0, confidence=0.95) == pytest.approx(math.log(q / (1 - q)), abs=1e-5)


def test_coin_tossing_and_no_guesses_refute_nothing():
    for game in (Guesses(canaries=100, made=100, correct=55), Guesses(canaries=10, made=0, correct=0)):
        assert one_run_epsilon(game, delta=1e-6, confidence=0.95) == 0
        assert _largest_refuted_mu(game, confidence=0.95) == 0


def test_a_stricter_confidence_and_a_larger_delta_give_less():
    game = Guesses(canaries=1000, made=100, correct=93)
    assert one_run_epsilon(game, delta=1e-6, confidence=0.99) < one_run_epsilon(game, delta=1e-6, confidence=0.95)
    assert one_run_epsilon(game, delta=1e-3, confidence=0.95) < one_run_epsilon(game, delta=0.0, confidence=0.95)
    assert _largest_refuted_mu(game, confidence=0.99) < _largest_refuted_mu(game, confidence=0.95)


def test_guesses_take_both_ends_and_count_what_is_right():
    scores = np.array([5.0, -3.0, 1.0, np.nan, 0.0, 2.0])
    included = np.array([True, False, True, False, True, False])
    assert _extreme_guesses(scores, included, made=4) == Guesses(canaries=6, made=4, correct=3)
    assert _extreme_guesses(scores, ~included, made=4).correct == 1
    assert _extreme_guesses(scores, included, made=99).made == 6
    with pytest.raises(ConfigurationError, match="a score a canary"):
        _extreme_guesses(scores, included[:3], made=2)
    with pytest.raises(ConfigurationError, match="correct <= made"):
        Guesses(canaries=5, made=2, correct=3)


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_ideal_canaries_reach_what_is_announced_and_never_the_truth(epsilon):
    mu, rng = largest_mu(epsilon=epsilon, delta=1e-6), np.random.default_rng(5)
    made = plan_guesses(1_000, epsilon=epsilon, delta=1e-6)
    found, estimates = [], []
    for _ in range(20):
        included = rng.random(1_000) < 0.5
        bounds = bounds_of(rng.normal(size=1_000) + mu * included, included, made=made, delta=1e-6)[0]
        found.append(bounds.strongest)
        estimates.append(bounds.gaussian.epsilon)
    assert max(found) < epsilon
    assert np.median(found) == pytest.approx(ceiling(1_000, epsilon=epsilon, delta=1e-6), abs=0.25 * epsilon)
    assert np.median(estimates) == pytest.approx(epsilon, rel=0.15)
    if epsilon == 8:
        assert np.median(found) > 3.3
        assert min(estimates) > 6.3


def test_epsilon_of_mu_is_the_inverse_of_the_accountants_mu():
    for epsilon in (0.1, 1.0, 8.0):
        assert epsilon_of_mu(largest_mu(epsilon=epsilon, delta=1e-6), delta=1e-6) == pytest.approx(epsilon, rel=1e-6)
    assert epsilon_of_mu(0.0, delta=1e-6) == epsilon_of_mu(-1.0, delta=1e-6) == 0.0


def test_the_gaussian_estimate_knows_nothing_of_one_group_or_of_no_spread():
    scores = np.arange(6.0)
    for included in (np.ones(6, dtype=bool), np.zeros(6, dtype=bool)):
        assert gaussian_estimate(scores, included, delta=1e-6, confidence=0.95).epsilon == 0
    half = np.array([True, False] * 3)
    assert gaussian_estimate(np.zeros(6), half, delta=1e-6, confidence=0.95).mu == 0
