"""What is left after runs that have not happened: accounted run by run, not added up."""

import pytest

from recsys_fed.ledger.budget import budget_after_runs, runs_that_fit
from recsys_fed.privacy.accounting import epsilon_spent
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee

RUN = (PrivacyEvent(noise_multiplier=5.0), PrivacyEvent(noise_multiplier=9.0, steps=2))
BEFORE = (PrivacyEvent(noise_multiplier=2.0),)


def spent(runs, *, k=1):
    return epsilon_spent((BEFORE + RUN * runs) * k, delta=1e-6)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("limit", [2.0, 4.0, 7.5, 9.0, 11.0])
def test_one_more_than_fits_exceeds(limit, k):
    found = runs_that_fit(BEFORE, RUN, Guarantee(epsilon=limit, max_silos_per_user=k))
    if found:
        assert spent(found, k=k) <= limit * (1 + 1e-6)
    assert spent(found + 1, k=k) > limit


def test_without_a_limit_any_number_fits():
    assert runs_that_fit(BEFORE, RUN, Guarantee(epsilon=float("inf"))) == 100_000


def test_after_each_run_the_whole_history_is_accounted():
    after = list(budget_after_runs(BEFORE, RUN, Guarantee(epsilon=4.0), runs=3))
    assert [step.epsilon for step in after] == pytest.approx([spent(1), spent(2), spent(3)], rel=1e-9)
    assert [step.left for step in after] == pytest.approx([max(0.0, 4 - spent(n)) for n in (1, 2, 3)], rel=1e-9)
    assert [step.fits for step in after] == [spent(n) <= 4.0 for n in (1, 2, 3)]


def test_without_a_number_it_ends_with_the_first_that_does_not_fit():
    guarantee = Guarantee(epsilon=5.0)
    after = list(budget_after_runs(BEFORE, RUN, guarantee))
    assert [step.fits for step in after] == [True] * runs_that_fit(BEFORE, RUN, guarantee) + [False]
