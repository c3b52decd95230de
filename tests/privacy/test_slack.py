"""What an event costs in delta outright is taken from delta, by all accountants alike."""

import math
from dataclasses import replace

import pytest

from recsys_fed.errors import CalibrationError, ConfigurationError
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_spent
from recsys_fed.privacy.calibration import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease, PrivacyEvent, delta_left, events_of

EVENT = PrivacyEvent(noise_multiplier=2.0)


@pytest.mark.parametrize("account", ACCOUNTANTS.values(), ids=ACCOUNTANTS)
def test_slack_is_taken_from_delta(account):
    events = [replace(EVENT, slack=2e-6), replace(EVENT, slack=3e-6)]
    assert account(events, delta=1e-5) == pytest.approx(account([EVENT, EVENT], delta=5e-6), rel=1e-9)
    assert account(events, delta=1e-5) > account([EVENT, EVENT], delta=1e-5)


@pytest.mark.parametrize("account", ACCOUNTANTS.values(), ids=ACCOUNTANTS)
def test_slack_that_leaves_no_delta_costs_everything(account):
    for slack in (1e-5, 2e-5):
        assert account([replace(EVENT, slack=slack)], delta=1e-5) == math.inf
    assert account([], delta=1e-5) == 0.0


def test_what_is_left_is_the_rest():
    assert delta_left([], delta=1e-6) == 1e-6
    assert delta_left([replace(EVENT, slack=1e-7)] * 3, delta=1e-6) == pytest.approx(7e-7)


def test_calibration_leaves_room_for_it():
    plan = [PlannedRelease(released="x", slack=4e-6), PlannedRelease(released="x", steps=3, slack=4e-6)]
    events = events_of(plan, calibrate_noise_multiplier(plan, epsilon=2.0, delta=1e-5))
    assert 1.96 < epsilon_spent(events, delta=1e-5) <= 2.0
    bare = [replace(release, slack=0.0) for release in plan]
    assert events[0].noise_multiplier > 1.01 * calibrate_noise_multiplier(bare, epsilon=2.0, delta=1e-5)
    with pytest.raises(CalibrationError):
        calibrate_noise_multiplier(plan, epsilon=2.0, delta=8e-6)


@pytest.mark.parametrize("wrong", [-1e-9, math.nan, math.inf])
def test_slack_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="slack"):
        replace(EVENT, slack=wrong)
