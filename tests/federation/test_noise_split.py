"""How much noise each silo adds: enough for whoever may be missing, colluding, or in several silos; and no more."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.aggregation import noise_on_total
from recsys_fed.federation.noise_split import (
    check_terms_of,
    masking_of,
    modulus_of,
    resolve_masking,
    round_terms,
    share_of_silo,
)
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule, stages_of
from recsys_fed.federation.secure_aggregation.errors import TermsError
from recsys_fed.privacy.integer_mechanism import add_noise
from recsys_fed.privacy.noise import SeededNoise
from recsys_fed.signing import SigningKey

ON = FederationConfig(secure_aggregation="on")


def silos(n: int, **changes) -> FederationConfig:
    return replace(ON, silos=n, **changes)


def test_auto_is_on_for_three_or_more_deployed_silos_whose_noise_can_be_split():
    def mode(config: FederationConfig, *, simulated: bool = False) -> str:
        return resolve_masking(replace(config, secure_aggregation="auto"), simulated=simulated).secure_aggregation

    assert [mode(silos(n)) for n in (1, 2, 3, 10)] == ["off", "off", "on", "on"]
    assert mode(silos(10), simulated=True) == "off"
    assert mode(silos(10, noise="distributed")) == "off"
    local = {"schedule": "local"}
    assert mode(silos(10, trainer="dp-sgd", dp_sgd=local)) == "off"
    assert mode(silos(10, trainer="dp-sgd")) == "on"
    assert mode(silos(10, trainer="spectral", dp_sgd=local)) == "on"


@pytest.mark.parametrize(("n", "deployed"), [(3, 3), (4, 3), (5, 4), (10, 9), (19, 18), (20, 18), (100, 90)])
def test_by_the_rule_one_deployed_silo_in_ten_may_drop_out_and_no_simulated_one(n, deployed):
    assert masking_of(resolve_masking(silos(n), simulated=False)).threshold == deployed
    assert masking_of(resolve_masking(silos(n), simulated=True)).threshold == n
    said = silos(n, secure_aggregation_threshold=n)
    assert resolve_masking(said, simulated=False).secure_aggregation_threshold == n


def test_settling_twice_changes_nothing():
    once = resolve_masking(silos(10), simulated=False)
    assert resolve_masking(once, simulated=True) == once
    assert masking_of(resolve_masking(replace(ON, secure_aggregation="off"), simulated=True)) is None


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"secure_aggregation": "off"}, 1.0),
        ({"secure_aggregation": "off", "noise": "distributed"}, 1 / 9),
        ({"secure_aggregation": "off", "noise": "distributed", "secure_aggregation_colluders": 0}, 1 / 10),
        ({"secure_aggregation": "off", "noise": "distributed", "silos": 1}, 1.0),
        ({"secure_aggregation": "off", "noise": "distributed", "silos": 2}, 1.0),
        ({}, 1 / 9),
        ({"secure_aggregation_colluders": 0}, 1 / 10),
        ({"secure_aggregation_threshold": 8}, 1 / 7),
        ({"secure_aggregation_threshold": 8, "secure_aggregation_colluders": 2}, 1 / 6),
        ({"max_silos_per_user": 3}, 3 / 9),
        ({"max_silos_per_user": 3, "secure_aggregation": "off", "noise": "distributed"}, 3 / 9),
        ({"max_silos_per_user": 9, "secure_aggregation_threshold": 7}, 1.0),
    ],
)
def test_the_share_of_a_silo(changes, share):
    config = resolve_masking(replace(silos(10), **changes), simulated=True)
    assert share_of_silo(config) == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_user_in_k_silos_is_hidden_by_the_noise_of_the_sum_as_by_that_of_k_releases(k):
    """The sum moves by k C and has noise s: k C / s must not exceed what k releases show, sqrt(k) C / (z C)."""
    config = silos(10, max_silos_per_user=k, secure_aggregation_threshold=8, secure_aggregation_colluders=1)
    stages = stages_of(planned_schedule(config, PublicCatalogue(n_items=200)))
    for stage in stages:
        least = stage.noise_of_silo * math.sqrt(7)
        shown = k * stage.asked.l2_clip_norm / least
        assert shown <= math.sqrt(k) / stage.asked.noise_multiplier
        assert shown >= 0.98 * math.sqrt(k) / stage.asked.noise_multiplier


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(3, 2, 0), (5, 4, 1)])
def test_the_sum_over_any_survivors_has_the_noise_that_is_said_and_never_less_than_promised(n, threshold, colluding):
    config = silos(n, secure_aggregation_threshold=threshold, secure_aggregation_colluders=colluding)
    asked = stages_of(planned_schedule(config, PublicCatalogue(n_items=20_000)))[0].asked
    rng = np.random.default_rng(0)
    empty = np.zeros(asked.shape)
    noise = [add_noise(empty, mechanism=asked.mechanism, noise=SeededNoise(5, n, silo)).ravel() for silo in range(n)]
    promised = asked.noise_multiplier * asked.l2_clip_norm
    for survivors in range(threshold, n + 1):
        total = (sum(noise[:survivors]) + rng.uniform(-0.5, 0.5, len(empty))) * asked.grid_step
        said = noise_on_total(asked, survivors)
        assert stats.kstest(total, stats.norm(0, said).cdf).pvalue > 1e-3
        for wrong in (2 / 3, 3 / 2):
            assert stats.kstest(total, stats.norm(0, wrong * said).cdf).pvalue < 1e-6
        assert noise_on_total(asked, survivors - colluding) >= promised
    assert noise_on_total(asked, threshold - colluding) <= 1.01 * promised


PLANS = {
    "small": (silos(4, declared_users=1_000), 300),
    "ml-1m": (silos(10, declared_users=6_000), 3_043),
    "epsilon 0.5": (silos(10, declared_users=6_000, epsilon=0.5), 3_043),
    "ml-20m": (silos(10, declared_users=138_000), 27_000),
    "fifty": (silos(50, declared_users=138_000, secure_aggregation_threshold=45), 27_000),
    "hundred": (silos(100, declared_users=900_000), 100_000),
    "dp-sgd": (silos(10, declared_users=138_000, trainer="dp-sgd", rounds=3), 27_000),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_sums_fit_the_grid_costs_little_and_messages_stay_small(plan):
    """Overflow below 1e-9, quantisation below 1% of the noise, at most 1.25 times the bytes of int32."""
    config, n_items = plan
    schedule = planned_schedule(config, PublicCatalogue(n_items=n_items))
    for stage in stages_of(schedule):
        modulus = modulus_of(stage.asked, declared_users=config.declared_users, n_silos=config.silos)
        assert modulus.overflow_probability < 1e-9
        assert replace(modulus, bits=modulus.bits - 1).overflow_probability >= 1e-9
        assert 1 <= stage.asked.mechanism.inflation < 1.01
        assert modulus.bits <= 1.25 * 32


def test_terms_are_those_of_one_request():
    schedule = planned_schedule(silos(3), PublicCatalogue(n_items=200))
    asked = stages_of(schedule)[1].asked
    keys = [SigningKey.generate().public_key for _ in range(3)]
    terms = round_terms(asked, run="7", silos=keys, declared_users=10_000)
    check_terms_of(asked, terms)
    assert terms.silos == tuple(sorted(keys))
    for changes in ({"settings": {"other": 1.0}}, {"attempt": 1}, {"noise_share": 1.0}, {"round": 5}):
        with pytest.raises(TermsError):
            check_terms_of(replace(asked, **changes), terms)
    with pytest.raises(TermsError, match="number of entries"):
        check_terms_of(asked, replace(terms, entries=terms.entries + 1))


def test_settings_that_contradict_masks_are_refused():
    for config, says in (
        (silos(2), "at least 3 silos"),
        (silos(10, noise="distributed"), "noise = per-silo"),
        (silos(10, secure_aggregation_threshold=5), "of 6 to 10"),
        (silos(10, secure_aggregation_threshold=11), "of 6 to 10"),
        (silos(10, secure_aggregation_threshold=7, secure_aggregation_colluders=4), "of 8 to 10"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            masking_of(config)
