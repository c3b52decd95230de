"""Two accountants that share no code agree, Rényi bounds them, and the closed form confirms both."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from recsys_fed.errors import ConfigurationError, PrivacyError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_pld, epsilon_prv, epsilon_rdp, epsilon_spent
from recsys_fed.privacy.events import PrivacyEvent

NAMES = sorted(ACCOUNTANTS)
EVENTS = st.builds(
    PrivacyEvent,
    noise_multiplier=st.floats(0.8, 10.0),
    sampling_probability=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
    steps=st.sampled_from([1, 2, 20]),
)
HISTORIES = st.lists(EVENTS, min_size=1, max_size=2)
DELTAS = st.sampled_from([1e-5, 1e-8])


def event(noise_multiplier, sampling_probability=1.0, steps=1):
    return PrivacyEvent(noise_multiplier=noise_multiplier, sampling_probability=sampling_probability, steps=steps)


def exact_gaussian_epsilon(mu, delta):
    """Epsilon of the Gaussian mechanism, arXiv 1805.06083, Theorem 8, by scipy alone."""

    def excess(epsilon):
        survival = norm.cdf(mu / 2 - epsilon / mu)
        return survival - math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu)) - delta

    return brentq(excess, 0.0, mu * mu / 2 + 12 * mu, xtol=1e-12)


@settings(max_examples=4, deadline=None)
@given(history=HISTORIES, delta=DELTAS)
def test_accountants_agree_and_renyi_is_above(history, delta):
    pld, prv = epsilon_pld(history, delta=delta), epsilon_prv(history, delta=delta)
    # Below 0.05 the smallest absolute error of PRV's grid is what differs.
    assert pld == pytest.approx(prv, rel=0.01, abs=1e-3)
    assert epsilon_rdp(history, delta=delta) >= pld


def test_spent_is_the_larger_figure_whichever_it_is():
    larger = set()
    for history in ([event(3.0, 0.1, 2)], [event(0.1, 0.1, 10)]):
        figures = {name: ACCOUNTANTS[name](history, delta=1e-5) for name in ("pld", "prv")}
        assert epsilon_spent(history, delta=1e-5) == max(figures.values())
        larger.add(max(figures, key=figures.get))
    assert larger == {"pld", "prv"}


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8, 1e-11])
@pytest.mark.parametrize(("noise_multiplier", "steps"), [(40.0, 1), (1.0, 1), (0.3, 1), (30.0, 500)])
def test_full_participation_equals_the_closed_form(noise_multiplier, steps, delta):
    exact = exact_gaussian_epsilon(math.sqrt(steps) / noise_multiplier, delta)
    history = [event(noise_multiplier, steps=steps)]
    for accountant in (epsilon_pld, epsilon_prv):
        spent = accountant(history, delta=delta)
        assert exact <= spent <= 1.008 * exact
    # Rényi orders do not resolve a large delta with a small epsilon, so only its direction is fixed.
    assert epsilon_rdp(history, delta=delta) >= exact


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("sampling_probability", [0.1, 1.0])
def test_prv_at_opacus_default_error_equals_opacus_itself(sampling_probability):
    history = [event(4.0, sampling_probability, 20), event(6.0, 1.0, 3)]
    opacus = PRVAccountant()
    for one in history:
        for _ in range(one.steps):
            opacus.step(noise_multiplier=one.noise_multiplier, sample_rate=one.sampling_probability)
    # Opacus composes the unsampled Gaussians numerically, we in closed form: that is the difference.
    assert epsilon_prv(history, delta=1e-6, eps_error=0.01) == pytest.approx(opacus.get_epsilon(1e-6), rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_order_and_grouping_do_not_matter(name):
    history = [
        event(2.0, 0.1, 30),
        event(5.0),
        event(3.0, 0.01, 20),
        event(2.0, 0.1, 10),
        event(5.0, steps=3),
    ]
    spent = ACCOUNTANTS[name](history, delta=1e-6)
    random.Random(0).shuffle(history)
    assert ACCOUNTANTS[name](history, delta=1e-6) == pytest.approx(spent, rel=1e-9)
    grouped = [event(2.0, 0.1, 40), event(5.0, steps=4), event(3.0, 0.01, 20)]
    assert ACCOUNTANTS[name](grouped, delta=1e-6) == pytest.approx(spent, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_worse_event_costs_more(name):
    spent = ACCOUNTANTS[name]([event(2.0, 0.1, 20)], delta=1e-6)
    for worse in (event(1.9, 0.1, 20), event(2.0, 0.11, 20), event(2.0, 0.1, 22)):
        assert ACCOUNTANTS[name]([worse], delta=1e-6) > 1.01 * spent
    assert ACCOUNTANTS[name]([event(2.0, 0.1, 20)], delta=1e-7) > 1.01 * spent


@pytest.mark.parametrize("name", [*NAMES, "spent"])
def test_edges(name):
    accountant = ACCOUNTANTS.get(name, epsilon_spent)
    assert accountant([], delta=1e-6) == 0.0
    assert accountant([event(1.0), event(0.0, 0.01)], delta=1e-6) == math.inf
    assert isinstance(accountant([event(3.0, 0.1)], delta=1e-6), float)
    for delta in (0.0, 1.0, -1e-6, math.nan):
        with pytest.raises(ConfigurationError, match="delta"):
            accountant([event(1.0)], delta=delta)


@pytest.mark.parametrize("name", NAMES)
def test_hardly_any_noise_is_still_an_upper_bound(name):
    assert ACCOUNTANTS[name]([event(0.02)], delta=1e-6) >= 0.999 * exact_gaussian_epsilon(50.0, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_delta_above_the_chance_of_being_sampled_costs_nothing_or_little(name):
    # With ten samples at 1e-6 a user takes part with probability below 1e-5: (0, 1e-5) holds without noise.
    spent = ACCOUNTANTS[name]([event(1.0, 1e-6, 10)], delta=1e-5)
    assert spent < (0.5 if name == "rdp" else 1e-3)


def test_delta_below_what_doubles_resolve_is_an_error_not_a_figure():
    with pytest.raises(PrivacyError, match="larger delta"):
        epsilon_prv([event(2.0, 0.1, 100)], delta=1e-17)


def test_prv_refuses_an_error_of_zero():
    with pytest.raises(ConfigurationError, match="eps_error"):
        epsilon_prv([event(2.0)], delta=1e-6, eps_error=0.0)
