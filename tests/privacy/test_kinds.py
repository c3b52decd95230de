"""A history as its kinds costs what the history costs; rounded to fewer kinds it costs more, never less."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history, epsilon_pld, epsilon_rdp
from recsys_fed.privacy.accounting.composition import MOST_SAMPLED_KINDS, drop_negligible, few_kinds, kinds_of
from recsys_fed.privacy.accounting.pld import loss_deviation
from recsys_fed.privacy.events import PrivacyEvent

EVENTS = st.builds(
    PrivacyEvent,
    noise_multiplier=st.floats(0.5, 50.0),
    sampling_probability=st.just(1.0) | st.floats(0.001, 0.9),
    steps=st.integers(1, 1000),
    slack=st.just(0.0) | st.floats(1e-12, 1e-9),
)


def event(noise_multiplier, sampling_probability=1.0, steps=1):
    return PrivacyEvent(noise_multiplier=noise_multiplier, sampling_probability=sampling_probability, steps=steps)


def sampled(kinds):
    return [kind for kind in kinds if kind.sampling_probability < 1]


def different(number: int, *, seed: int = 0) -> list[PrivacyEvent]:
    """So many sampled events, all of them different, around noise 2 and probability 0.05."""
    rng = random.Random(seed)
    return [event(rng.uniform(1.5, 3.0), rng.uniform(0.03, 0.08), rng.randint(1, 20)) for _ in range(number)]


@given(history=st.lists(EVENTS, max_size=12), seed=st.integers(0, 99))
def test_kinds_are_the_same_for_any_order_and_lose_no_step(history, seed):
    kinds = kinds_of(history)
    assert kinds == kinds_of(random.Random(seed).sample(history, len(history))) == kinds_of(kinds)
    assert sum(kind.steps for kind in kinds) == sum(one.steps for one in history)
    # Slack is kept in units that add up exactly, rounded up.
    lost = sum(kind.slack for kind in kinds) - sum(one.slack for one in history)
    assert -1e-24 <= lost <= 1e-18
    assert len({(k.noise_multiplier, k.sampling_probability) for k in kinds}) == len(kinds)


def test_equal_events_are_one_kind():
    assert kinds_of([event(2.0, 0.1, 3), event(5.0), event(2.0, 0.1, 4)]) == (event(2.0, 0.1, 7), event(5.0))


def test_releases_without_sampling_are_one_gaussian():
    (one,) = few_kinds([event(3.0, steps=9), event(4.0, steps=16)])
    assert (one.noise_multiplier, one.sampling_probability, one.steps) == (pytest.approx(2**-0.5), 1.0, 1)


def test_few_sampled_kinds_lose_nothing():
    history = different(MOST_SAMPLED_KINDS)
    assert few_kinds([*history, event(5.0)])[:-1] == kinds_of(history)


@settings(deadline=None)
@given(history=st.lists(EVENTS, max_size=40), most=st.integers(1, 6))
def test_fewer_kinds_are_as_few_as_said_and_each_worse_than_what_it_stands_for(history, most):
    merged = few_kinds(history, most=most)
    assert len(sampled(merged)) <= most
    assert sum(kind.steps for kind in sampled(merged)) == sum(one.steps for one in sampled(history))
    for one in sampled(history):
        assert any(
            kind.noise_multiplier <= one.noise_multiplier and kind.sampling_probability >= one.sampling_probability
            for kind in sampled(merged)
        )


@pytest.mark.parametrize("most", [1, 3, 6])
def test_merged_kinds_are_an_upper_bound(most):
    history = [*different(8), event(6.0, steps=2)]
    exact = epsilon_pld(kinds_of(history), delta=1e-6)
    merged = epsilon_pld(few_kinds(history, most=most), delta=1e-6)
    assert exact <= merged
    assert epsilon_rdp(kinds_of(history), delta=1e-6) <= epsilon_rdp(few_kinds(history, most=most), delta=1e-6)
    assert merged <= exact * (1.2 if most == 6 else 2.5), "a bound that nobody can use"


def test_more_kinds_allowed_is_a_tighter_bound():
    history = different(20)
    bounds = [epsilon_rdp(few_kinds(history, most=most), delta=1e-6) for most in (1, 3, 8, 20)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 1.05 * bounds[-1]


def test_very_many_kinds_are_rounded_to_a_bound_that_is_still_useful():
    history = different(3000)
    kinds = few_kinds(history)
    assert len(sampled(kinds)) <= MOST_SAMPLED_KINDS
    # Epsilon of many small losses grows with their deviation.
    assert loss_deviation(history) <= loss_deviation(kinds) <= 1.25 * loss_deviation(history)


def test_an_event_without_noise_stays_infinite():
    history = [*different(40), event(0.0, 0.5)]
    assert epsilon_of_history(history, delta=1e-6) == math.inf
    assert epsilon_of_history([], delta=1e-6) == 0.0


def test_kinds_that_cost_nearly_nothing_are_paid_for_out_of_delta():
    """Their total variation is q where the noise is small, however small; 1e-4 of delta is there for them."""
    rare = [PrivacyEvent(noise_multiplier=noise, sampling_probability=6e-11, slack=1e-15) for noise in (0.1, 0.2)]
    kept, slack = PrivacyEvent(noise_multiplier=1.0, slack=1e-12), math.fsum([1e-12, 6e-11, 1e-15])
    paid = PrivacyEvent(noise_multiplier=1.0, slack=slack)
    assert drop_negligible((rare[0], kept), delta=1e-6) == (paid,)
    assert drop_negligible((kept, *rare), delta=1e-6) == (paid, rare[1]), "there is room for one of them"
    assert drop_negligible((kept, *rare), delta=5e-7) == (kept, *rare)
    assert len(drop_negligible(tuple(rare), delta=1e-3)) == 1, "one is left"


@pytest.mark.parametrize("accountant", ["pld", "prv", "rdp"])
def test_an_event_without_noise_costs_everything_beside_others(accountant):
    events = [PrivacyEvent(noise_multiplier=5.0), PrivacyEvent(noise_multiplier=0.0)]
    assert ACCOUNTANTS[accountant](events, delta=1e-6) == math.inf
    for slack in (1e-6, 2e-6):
        assert ACCOUNTANTS[accountant]([PrivacyEvent(noise_multiplier=5.0, slack=slack)], delta=1e-6) == math.inf
