"""Accounting is a bounded work whatever a ledger holds, never errs downwards, and leaves ordinary figures alone."""

import itertools
import math
import time

import numpy as np
import pytest
from dp_accounting.pld import common, pld_pmf
from opacus.accountants import PRVAccountant

from recsys_fed.privacy import accounting
from recsys_fed.privacy.accounting import epsilon_of_history, epsilon_pld, epsilon_prv, epsilon_rdp, opacus, pld
from recsys_fed.privacy.accounting.closed_forms import gaussian_delta, renyi_bound
from recsys_fed.privacy.accounting.composition import drop_negligible, few_kinds, total_variation
from recsys_fed.privacy.events import PrivacyEvent

DELTA = 1e-6
NOISES = [1e-6, 1e-2, 0.3, 1.0, 30.0, 1e4, 1e9]
PROBABILITIES = [1e-12, 1e-5, 1e-2, 0.5, 1.0]
STEPS = [1, 10**4, 10**9]
ODD = [
    PrivacyEvent(noise_multiplier=noise, sampling_probability=q, steps=steps)
    for noise, q, steps in itertools.product(NOISES, PROBABILITIES, STEPS)
]
USUAL = (
    PrivacyEvent(noise_multiplier=4.0, steps=3),
    PrivacyEvent(noise_multiplier=1.0, sampling_probability=0.02, steps=100),
)


@pytest.fixture
def work(monkeypatch) -> dict[str, int]:
    """The largest sums, over one question, of points on the accountants' grids."""
    counted = {"grid": 0, "convolved": 0, "prv": 0}
    bounds, pmf, domain = common.compute_self_convolve_bounds, pld_pmf.create_pmf, PRVAccountant._get_domain

    def counting_bounds(probabilities, *given, **named):
        low, high = bounds(probabilities, *given, **named)
        if len(given) < 3:
            counted["convolved"] = max(counted["convolved"], high - low)
        return low, high

    def counting_pmf(loss_probs, *given, **named):
        counted["grid"] = max(counted["grid"], len(loss_probs))
        return pmf(loss_probs, *given, **named)

    def counting_domain(self, **named):
        found = domain(self, **named)
        counted["prv"] = max(counted["prv"], found.size * len(named["prvs"]))
        return found

    monkeypatch.setattr(common, "compute_self_convolve_bounds", counting_bounds)
    monkeypatch.setattr(pld_pmf, "create_pmf", counting_pmf)
    monkeypatch.setattr(PRVAccountant, "_get_domain", counting_domain)
    accounting._of_kinds.cache_clear()
    return counted


def bounded(work: dict[str, int]) -> bool:
    """Whether the grids kept to their sizes, but for the ends of each kind's."""
    return (
        work["grid"] <= 1.1 * pld.LARGEST_GRID
        and work["convolved"] <= pld.LARGEST_CONVOLUTION
        and work["prv"] <= 1.1 * opacus.LARGEST_GRID
    )


def check(history: list[PrivacyEvent], work: dict[str, int]) -> None:
    for accountant in ("pld", "prv"):
        epsilon = epsilon_of_history(history, delta=DELTA, accountant=accountant)
        assert epsilon >= 0
        assert not math.isnan(epsilon)
    assert bounded(work)


@pytest.mark.parametrize("event", ODD[:: len(ODD) // 6], ids=str)
def test_an_odd_event_costs_a_bounded_work(event, work):
    check([event], work)
    check([*USUAL, event], work)


@pytest.mark.soak
def test_all_odd_events_and_mixtures_cost_a_bounded_work_and_time(work):
    rng = np.random.default_rng(0)
    histories = [[event] for event in ODD] + [[*USUAL, event] for event in ODD]
    histories += [
        [ODD[number] for number in rng.integers(len(ODD), size=size)] for size in (2, 5, 40) for _ in range(9)
    ]
    start = time.process_time()
    for history in histories:
        check(history, work)
    assert time.process_time() - start < 10 * len(histories)


def test_more_of_anything_never_costs_less():
    """A history with an odd event costs at least what it costs without."""
    least = epsilon_of_history(USUAL, delta=DELTA)
    for event in ODD[:: len(ODD) // 8]:
        assert epsilon_of_history([*USUAL, event], delta=DELTA) >= least * (1 - 0.005)


@pytest.mark.parametrize("noise", [0.02, 0.001, 1e-6])
def test_a_hopeless_figure_is_above_the_exact_one(noise):
    """Without sampling delta is known in closed form."""
    epsilon = epsilon_of_history([PrivacyEvent(noise_multiplier=noise)], delta=DELTA)
    assert accounting.LARGEST_EPSILON < epsilon < math.inf
    mu = 1 / noise
    if epsilon < 1e6:
        exact = mu * mu / 2 + mu * 4.7534
        assert exact <= epsilon <= 1.1 * exact


@pytest.mark.parametrize(
    "events",
    [
        [PrivacyEvent(noise_multiplier=3.0, steps=5)],
        [PrivacyEvent(noise_multiplier=1.0, sampling_probability=0.01, steps=1000)],
        [PrivacyEvent(noise_multiplier=0.8, sampling_probability=0.2, steps=10), PrivacyEvent(noise_multiplier=5.0)],
        [PrivacyEvent(noise_multiplier=0.4, sampling_probability=0.9, steps=4)],
    ],
)
def test_the_renyi_bound_is_above_both_accountants_and_near_opacus_own(events):
    bound = renyi_bound(events, delta=DELTA)
    assert bound >= max(epsilon_pld(events, delta=DELTA), epsilon_prv(events, delta=DELTA))
    # Opacus has orders that are not whole, which is less where the best order is near 1.
    assert 0.999 * epsilon_rdp(events, delta=DELTA) <= bound <= 2 * epsilon_rdp(events, delta=DELTA)


def test_what_is_negligible_is_paid_for_out_of_delta():
    faint = PrivacyEvent(noise_multiplier=0.1, sampling_probability=1e-13, steps=100, slack=1e-12)
    kinds = drop_negligible(few_kinds([*USUAL, faint]), delta=DELTA)
    assert len(kinds) == 2
    assert math.fsum(kind.slack for kind in kinds) == pytest.approx(1e-11 + 1e-12)
    assert drop_negligible(few_kinds(USUAL), delta=DELTA) == few_kinds(USUAL)
    assert epsilon_of_history([faint], delta=DELTA) == 0.0
    for noise in (0.5, 3.0, 1e4):
        assert total_variation(PrivacyEvent(noise_multiplier=noise)) >= gaussian_delta(1 / noise, epsilon=0.0)


# As they were before the work was bounded: documented plans, and what local steps cost.
ORDINARY = {
    "four rounds": (
        [PrivacyEvent(noise_multiplier=noise, slack=1e-13) for noise in (7.9446, 4.0578, 2.8693, 36.7181)],
        (1.9880985788905137, 1.9922387424135828, 2.1348297063341626),
    ),
    "twenty runs of them": (
        [PrivacyEvent(noise_multiplier=noise, steps=20) for noise in (7.9446, 4.0578, 2.8693, 36.7181)],
        (10.957487193212948, 10.967039364410603, 11.645868230211144),
    ),
    "local steps": (
        [PrivacyEvent(noise_multiplier=3.5), PrivacyEvent(noise_multiplier=1.1, sampling_probability=0.1, steps=600)],
        (17.2037078002735, 17.212975553403997, 18.476740369887168),
    ),
    "three silos": (
        [
            PrivacyEvent(noise_multiplier=36.7, steps=3),
            PrivacyEvent(noise_multiplier=2.4, sampling_probability=0.2, steps=300),
        ],
        (8.115224830169174, 8.12491632413579, 8.696144078383716),
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_figures_have_not_changed(name):
    """The accountants' own figures, bit for bit, and those of before but for another processor's rounding."""
    events, before = ORDINARY[name]
    kinds = few_kinds(events)
    own = {"pld": epsilon_pld, "prv": epsilon_prv, "rdp": epsilon_rdp}
    for (accountant, compute), figure in zip(own.items(), before, strict=True):
        epsilon = epsilon_of_history(events, delta=DELTA, accountant=accountant)
        assert epsilon == compute(kinds, delta=DELTA)
        assert epsilon == pytest.approx(figure, rel=1e-12)
