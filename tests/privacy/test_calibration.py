"""Calibrate, then account again: the target is met by both accountants, and met closely."""

import math

import pytest
from opacus.accountants import PRVAccountant

from recsys_fed.errors import CalibrationError, ConfigurationError
from recsys_fed.privacy.accounting import epsilon_pld, epsilon_prv
from recsys_fed.privacy.accounting.closed_forms import gaussian_delta, largest_mu
from recsys_fed.privacy.calibration import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease, PrivacyEvent, events_of

EPSILONS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
DELTAS = (1e-5, 1e-6, 1e-8)
MIXED = (
    PlannedRelease(released="item counts", relative_noise=4.0),
    PlannedRelease(released="clipping quantile", relative_noise=9.0, steps=3),
    PlannedRelease(released="item embeddings", relative_noise=0.8, steps=2),
)
# One or two of each epsilon, delta, steps and sampling probability; a full factorial takes minutes.
SAMPLED = [
    (0.1, 1e-6, 2, 0.1),
    (0.5, 1e-5, 500, 0.01),
    (1.0, 1e-6, 40, 0.1),
    (1.0, 1e-8, 500, 0.1),
    (2.0, 1e-5, 1, 0.1),
    (4.0, 1e-8, 40, 0.01),
    (8.0, 1e-6, 1, 0.01),
    (16.0, 1e-8, 2, 0.01),
]


def releases(sampling_probability, steps, relative_noise=1.0):
    return PlannedRelease(
        released="item embeddings",
        sampling_probability=sampling_probability,
        steps=steps,
        relative_noise=relative_noise,
    )


def opacus_default_epsilon(events, delta):
    """What a reader measures who feeds the same steps to Opacus without any setting."""
    opacus = PRVAccountant()
    for event in events:
        for _ in range(event.steps):
            opacus.step(noise_multiplier=event.noise_multiplier, sample_rate=event.sampling_probability)
    return opacus.get_epsilon(delta)


def assert_met_closely(plan, epsilon, delta):
    events = events_of(plan, calibrate_noise_multiplier(plan, epsilon=epsilon, delta=delta))
    figures = [epsilon_pld(events, delta=delta), epsilon_prv(events, delta=delta)]
    if epsilon >= 1:
        figures.append(opacus_default_epsilon(events, delta))
    for figure in figures:
        assert 0.98 * epsilon <= figure <= epsilon


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_full_participation_meets_the_target(epsilon, delta):
    for steps in (1, 2, 500) if delta == 1e-6 else (40,):
        assert_met_closely([releases(1.0, steps)], epsilon, delta)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_mixed_full_participation_meets_the_target(epsilon):
    assert_met_closely(MIXED, epsilon, 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(("epsilon", "delta", "steps", "sampling_probability"), SAMPLED)
def test_sampling_meets_the_target(epsilon, delta, steps, sampling_probability):
    assert_met_closely([releases(sampling_probability, steps)], epsilon, delta)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-6), (2.0, 1e-8)])
def test_mixed_sampled_plan_meets_the_target(epsilon, delta):
    assert_met_closely([MIXED[0], releases(0.1, 20, 0.8), releases(0.02, 7, 0.5)], epsilon, delta)


def test_more_epsilon_needs_less_noise_everywhere():
    epsilons = [0.01, 0.1, 0.5, 0.97, 0.999, 1.0, 1.001, 1.03, 2.0, 8.0, 16.0, 200.0]
    noise = [calibrate_noise_multiplier(MIXED, epsilon=e, delta=1e-6) for e in epsilons]
    assert noise == sorted(noise, reverse=True)
    assert len(set(noise)) == len(noise)


def test_more_steps_need_more_noise():
    noise = [calibrate_noise_multiplier([releases(0.1, steps)], epsilon=2.0, delta=1e-6) for steps in (1, 3, 20)]
    assert noise[0] < noise[1] < noise[2]
    one, four = (calibrate_noise_multiplier([releases(1.0, steps)], epsilon=2.0, delta=1e-6) for steps in (1, 4))
    assert four == pytest.approx(2 * one, rel=1e-4)


def test_sampling_fewer_users_needs_less_noise():
    sampled, everyone = (calibrate_noise_multiplier([releases(q, 10)], epsilon=2.0, delta=1e-6) for q in (0.2, 1.0))
    assert sampled < 0.6 * everyone


def test_relative_noise_scales_the_answer():
    base = calibrate_noise_multiplier([releases(1.0, 1)], epsilon=2.0, delta=1e-6)
    scaled = calibrate_noise_multiplier([releases(1.0, 1, relative_noise=4.0)], epsilon=2.0, delta=1e-6)
    assert 4 * scaled == pytest.approx(base, rel=1e-4)


def test_infinite_epsilon_needs_no_noise():
    assert calibrate_noise_multiplier(MIXED, epsilon=math.inf, delta=1e-6) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "name"),
    [
        (0.0, 1e-6, "epsilon"),
        (-1.0, 1e-6, "epsilon"),
        (math.nan, 1e-6, "epsilon"),
        (1.0, 0.0, "delta"),
        (1.0, 1.0, "delta"),
    ],
)
def test_values_out_of_range_are_refused(epsilon, delta, name):
    with pytest.raises(ConfigurationError, match=name):
        calibrate_noise_multiplier(MIXED, epsilon=epsilon, delta=delta)


def test_empty_plan_is_refused():
    with pytest.raises(ConfigurationError, match="at least one release"):
        calibrate_noise_multiplier([], epsilon=1.0, delta=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "delta", "reason"),
    [(1e-4, 1e-6, "drown"), (1e4, 1e-6, "say inf"), (1.0, 1e-15, "doubles")],
)
def test_absurd_targets_say_why(epsilon, delta, reason):
    with pytest.raises(CalibrationError, match=reason):
        calibrate_noise_multiplier(MIXED, epsilon=epsilon, delta=delta)


def test_delta_that_would_allow_no_noise_is_refused():
    with pytest.raises(CalibrationError, match="sampled at all"):
        calibrate_noise_multiplier([releases(1e-4, 1)], epsilon=1.0, delta=1e-4)


def test_target_on_which_the_accountants_disagree_is_refused():
    # With delta so close to the chance of being sampled, a thousandth of delta changes epsilon by a lot.
    with pytest.raises(CalibrationError, match="agree"):
        calibrate_noise_multiplier([releases(1.0001e-4, 1)], epsilon=1.0, delta=1e-4)


@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 200.0])
def test_closed_form_inverts_itself(epsilon, delta):
    mu = largest_mu(epsilon=epsilon, delta=delta)
    assert gaussian_delta(mu, epsilon=epsilon) == pytest.approx(delta, rel=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_plan_gets_what_settled_events_leave():
    fixed = (PrivacyEvent(noise_multiplier=3.0, steps=2), PrivacyEvent(noise_multiplier=5.0))
    noise = calibrate_noise_multiplier([releases(1.0, 4)], epsilon=4.0, delta=1e-6, fixed=fixed)
    # Gaussians without sampling are one: 1 / sigma^2 adds up.
    one = calibrate_noise_multiplier([releases(1.0, 1)], epsilon=4.0, delta=1e-6)
    assert 4 / noise**2 + 2 / 9 + 1 / 25 == pytest.approx(1 / one**2, rel=1e-3)
    for dear in (PrivacyEvent(noise_multiplier=0.0), PrivacyEvent(noise_multiplier=one)):
        with pytest.raises(CalibrationError, match="something is left of"):
            calibrate_noise_multiplier([releases(1.0, 1)], epsilon=3.9, delta=1e-6, fixed=[dear])
