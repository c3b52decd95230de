"""A silo releases exactly what its own limit pays for, whatever the server asks."""

import math

import pytest

from recsys_fed.errors import BudgetExceededError
from recsys_fed.ledger.budget import check_budget
from recsys_fed.privacy.calibration import calibrate_noise_multiplier
from recsys_fed.privacy.events import PlannedRelease, PrivacyEvent, events_of
from recsys_fed.privacy.guarantee import Guarantee

LIMIT = Guarantee(epsilon=2.0, delta=1e-6)
PLANS = {
    "counts and two rounds": [PlannedRelease(released="x", relative_noise=noise) for noise in (3.5, 1.5, 1.5)],
    "sampled steps": [
        PlannedRelease(released="x", relative_noise=3.5),
        PlannedRelease(released="x", sampling_probability=0.2, steps=5),
        PlannedRelease(released="x", sampling_probability=0.2, steps=5),
    ],
}


def calibrated(plan) -> tuple[PrivacyEvent, ...]:
    return events_of(plan, calibrate_noise_multiplier(plan, epsilon=LIMIT.epsilon, delta=LIMIT.delta))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_whole_plan_is_allowed_and_nothing_more(plan):
    events = calibrated(plan)
    for done, event in enumerate(events):
        check_budget(events[:done], event, LIMIT)
    with pytest.raises(BudgetExceededError, match=r"within the limit epsilon 2 .* fewer rounds"):
        check_budget(events, events[-1], LIMIT)


def test_too_little_noise_is_refused():
    events = calibrated(PLANS["counts and two rounds"])
    weak = PrivacyEvent(noise_multiplier=events[-1].noise_multiplier * 0.97)
    with pytest.raises(BudgetExceededError):
        check_budget(events[:-1], weak, LIMIT)


def test_no_noise_is_refused_unless_nothing_was_promised():
    bare = PrivacyEvent(noise_multiplier=0.0)
    with pytest.raises(BudgetExceededError):
        check_budget((), bare, LIMIT)
    check_budget((bare,), bare, Guarantee(epsilon=math.inf, delta=1e-6))
