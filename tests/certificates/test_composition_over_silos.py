"""The composition of the most expensive silos: an upper bound for any of them, exact where they are alike."""

from dataclasses import replace
from itertools import combinations

import pytest

from recsys_fed.certificates.run import _worst_composition
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent

DELTA = 1e-6
PLAIN = PrivacyEvent(noise_multiplier=4.0)
SAMPLED = PrivacyEvent(noise_multiplier=2.0, sampling_probability=0.05, steps=8)


def cost(events):
    return epsilon_of_history(events, delta=DELTA)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_alike_silos_cost_k_times_the_same(k):
    history = [PLAIN, SAMPLED]
    assert cost(_worst_composition([history] * 5, k)) == pytest.approx(cost(history * k), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2])
def test_no_choice_of_silos_costs_more(k):
    histories = [
        [PLAIN, PLAIN],
        [SAMPLED, replace(SAMPLED, steps=2)],
        [replace(SAMPLED, noise_multiplier=1.5, steps=3), PLAIN],
        [],
    ]
    bound = cost(_worst_composition(histories, k))
    chosen = [cost([event for history in some for event in history]) for some in combinations(histories, k)]
    assert bound >= max(chosen) - 1e-9
    assert bound < 2 * max(chosen)


def test_the_most_expensive_are_taken_and_not_the_others():
    histories = [[replace(PLAIN, noise_multiplier=noise)] for noise in (2.0, 3.0, 50.0)]
    assert cost(_worst_composition(histories, 2)) == pytest.approx(cost(histories[0] + histories[1]), rel=1e-9)


def test_the_largest_slacks_are_added():
    histories = [[replace(PLAIN, slack=slack)] for slack in (1e-9, 3e-9, 2e-9)]
    assert sum(kind.slack for kind in _worst_composition(histories, 2)) == pytest.approx(5e-9)


def test_a_silo_without_noise_makes_it_infinite():
    assert cost(_worst_composition([[PLAIN], [PrivacyEvent(noise_multiplier=0.0)]], 2)) == float("inf")


def test_no_releases_cost_nothing():
    assert _worst_composition([[], []], 2) == ()
