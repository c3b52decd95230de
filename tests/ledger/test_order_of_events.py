"""The order of events and who charges them change nothing: the same epsilon bit for bit, never above the limit."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_kit import KEY, charged, created, terms
from spending_processes import spent_by_processes

from recsys_fed.errors import BudgetExceededError
from recsys_fed.ledger.budget import account_spending, would_spend
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.privacy import accounting
from recsys_fed.privacy.accounting import ACCOUNTANTS, epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent

EVENTS = st.builds(
    PrivacyEvent,
    noise_multiplier=st.sampled_from([1.5, 2.7, 4.1]) | st.floats(5.0, 50.0),
    sampling_probability=st.sampled_from([1.0, 1.0, 0.1]),
    steps=st.integers(1, 30),
)
HISTORIES = st.lists(EVENTS, min_size=2, max_size=6).filter(
    lambda events: len({e.noise_multiplier for e in events if e.sampling_probability < 1}) <= 2
)


@settings(max_examples=2, deadline=None)
@given(history=HISTORIES, seed=st.integers(0, 2**32))
def test_any_order_costs_the_same_bit_for_bit(history, seed):
    check_any_order(history, seed)


@pytest.mark.soak
@settings(max_examples=40, deadline=None)
@given(history=HISTORIES, seed=st.integers(0, 2**32))
def test_any_order_of_many_histories_costs_the_same(history, seed):
    check_any_order(history, seed)


def check_any_order(history: list[PrivacyEvent], seed: int) -> None:
    """Every accountant gives the same bits for another order of the same events."""
    shuffled = random.Random(seed).sample(history, len(history))
    for name in ["", *ACCOUNTANTS]:
        first = epsilon_of_history(history, delta=1e-6, accountant=name)
        # The figures are remembered by kinds: what is compared is computed anew.
        accounting._of_kinds.cache_clear()
        assert epsilon_of_history(shuffled, delta=1e-6, accountant=name) == first
    promise = terms(9.0).guarantee
    assert account_spending(history, promise) == account_spending(shuffled, promise)
    assert would_spend(history[:1], history[1:], promise) == account_spending(shuffled, promise).epsilon


@settings(max_examples=6, deadline=None)
@given(
    noises=st.lists(st.sampled_from([3.0, 4.0, 7.0, 20.0]), min_size=2, max_size=9),
    turns=st.lists(st.booleans(), min_size=9, max_size=9),
)
def test_two_openings_of_one_ledger_in_any_turns_keep_to_the_limit(noises, turns, tmp_path_factory):
    """Whatever the turns, each release is refused or paid as if one had asked for all of them in that order."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    both = created(path, 2.0, durable=False), Ledger.open(str(path), key=KEY, durable=False)
    paid: list[PrivacyEvent] = []
    for number, noise in enumerate(noises):
        planned = PrivacyEvent(noise_multiplier=noise)
        fits = epsilon_of_history([*paid, planned], delta=1e-6) <= 2.0
        try:
            charged(both[turns[number]], f"payload {number}", noise_multiplier=noise)
        except BudgetExceededError:
            assert not fits
            continue
        assert fits
        paid.append(planned)
    verified = verify_ledger(both[0])
    assert verified.spending.epsilon == epsilon_of_history(paid, delta=1e-6) <= 2.0
    assert verified.releases == len(paid)


PLANS = [
    {"first": [4.0, 9.0, 4.0, 9.0], "second": [7.0, 4.0, 7.0]},
    {"first": [3.0, 20.0, 20.0], "second": [20.0, 20.0, 3.0]},
]


@pytest.mark.parametrize("plans", PLANS)
@pytest.mark.parametrize("limit", [2.0, float("inf")])
def test_two_processes_at_once_keep_to_the_limit(plans, limit, tmp_path):
    path = str(tmp_path / "ledger.sqlite")
    created(path, limit).close()
    paid = spent_by_processes(path, plans)
    verified = verify_ledger(Ledger.open(path))
    events = [PrivacyEvent(noise_multiplier=noise) for noises in paid.values() for noise in noises]
    assert verified.releases == len(events)
    assert verified.spending.epsilon == epsilon_of_history(events, delta=1e-6) <= limit
    if limit == 2.0:
        asked = [PrivacyEvent(noise_multiplier=noise) for noises in plans.values() for noise in noises]
        assert epsilon_of_history(asked, delta=1e-6) > 2.0, "not all of it fits"
    else:
        assert paid == plans
