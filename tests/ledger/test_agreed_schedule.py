"""A schedule that a silo agrees to: so many trainings, so far apart, so dear together; nothing is charged beyond."""

from datetime import UTC, datetime, timedelta

import pytest
from ledger_kit import HandClock, charge, created, event, export

from recsys_fed.errors import BudgetExceededError, ConfigurationError
from recsys_fed.ledger.agreed_schedule import AgreedSchedule
from recsys_fed.privacy.accounting import epsilon_of_history

START = datetime(2026, 1, 31, 12, tzinfo=UTC)


def asked(ledger, schedule, run, *, round=0, noise_multiplier=10.0):
    return ledger.charge(
        event(noise_multiplier, round=round),
        run=run,
        request=f"{abs(hash((run, round))):064x}"[:64],
        code_version="1",
        schedule=schedule,
    )


def test_trainings_are_so_many_and_so_far_apart(url):
    clock = HandClock()
    ledger, schedule = created(url, clock=clock), AgreedSchedule(trainings=3, spacing_days=30.0)
    asked(ledger, schedule, "a")
    clock.time += timedelta(days=29)
    before = export(ledger)
    with pytest.raises(BudgetExceededError, match=r"30 days apart.* may begin at 2026-03-02T12:00:02Z"):
        asked(ledger, schedule, "b")
    assert export(ledger) == before
    # What has begun goes on, however late.
    asked(ledger, schedule, "a", round=1)
    clock.time += timedelta(days=1)
    asked(ledger, schedule, "b")
    clock.time += timedelta(days=300)
    asked(ledger, schedule, "c")
    clock.time += timedelta(days=300)
    with pytest.raises(BudgetExceededError, match="All 3 trainings"):
        asked(ledger, schedule, "d")
    asked(ledger, schedule, "c", round=1)
    # A schedule that was agreed to later counts from then on.
    later = AgreedSchedule(trainings=1, spacing_days=0.0, since=clock.time)
    asked(ledger, later, "d")
    with pytest.raises(BudgetExceededError, match="All 1 trainings"):
        asked(ledger, later, "e")
    charge(ledger, "no schedule", run="f")


def test_all_of_them_together_cost_so_much(url):
    epsilon = epsilon_of_history([event(4.5)] * 2, delta=1e-6)
    clock = HandClock()
    ledger, schedule = created(url, clock=clock), AgreedSchedule(trainings=99, spacing_days=0.0, epsilon=epsilon)
    for run in ("a", "b"):
        asked(ledger, schedule, run, noise_multiplier=4.5)
        clock.time += timedelta(days=400)
    before = export(ledger)
    for run, number in (("b", 1), ("c", 0)):
        with pytest.raises(BudgetExceededError, match="all trainings together"):
            asked(ledger, schedule, run, round=number, noise_multiplier=4.5)
    with pytest.raises(BudgetExceededError, match="would be inf"):
        asked(ledger, schedule, "c", noise_multiplier=0.0)
    assert export(ledger) == before


def test_a_budget_per_period_is_whole_again_after_it_and_says_what_it_is(url):
    """In any window of a year no more than the promise; over a life the ledger's own limit is what holds."""
    epsilon = epsilon_of_history([event(4.5)] * 2, delta=1e-6) * 1.001
    clock = HandClock()
    ledger = created(url, clock=clock)
    schedule = AgreedSchedule(trainings=99, spacing_days=0.0, epsilon=epsilon, period_days=365.0)
    times = []
    for day in range(0, 1100, 50):
        clock.time = START + timedelta(days=day)
        try:
            entry = asked(ledger, schedule, f"{day}", noise_multiplier=4.5)
        except BudgetExceededError as error:
            assert "any 365 days" in str(error)
        else:
            times.append(datetime.fromisoformat(entry.time))
    assert len(times) == 6
    for time in times:
        assert sum(time - timedelta(days=365) < other <= time for other in times) <= 2
    assert ledger.spending().epsilon > 1.5 * epsilon
    assert "promise per period and none over a life" in schedule.sentence()
    assert "promise" not in AgreedSchedule(trainings=2, spacing_days=7.0, epsilon=3.0).sentence()


def test_what_is_no_schedule_is_refused():
    for wrong in (
        {"trainings": 0}, {"spacing_days": -1.0}, {"epsilon": 0.0}, {"period_days": 1e9}, {"spacing_days": 1e6},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            AgreedSchedule(**({"trainings": 1, "spacing_days": 1.0} | wrong))
