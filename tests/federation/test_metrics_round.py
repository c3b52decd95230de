"""The round of metrics: inside the budget, asked for at the end, refused where its event would be too cheap."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import begun, run_by_hand
from scipy import sparse
from silo_data import held, make_histories, randomness

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.federation.metrics_round import STAGE, metrics_epsilon, metrics_of
from recsys_fed.federation.release import SiloUsers, answer, bounded_sum
from recsys_fed.federation.schedule import planned_request, request
from recsys_fed.privacy.accounting import epsilon_spent

N_ITEMS = 25
CONFIG = FederationConfig(silos=2, declared_users=60, rounds=3, embedding_dim=3, epsilon=4.0, metrics_epsilon=0.5)
CONFIGS = {
    "spectral": CONFIG,
    "a user in two silos": replace(CONFIG, max_silos_per_user=2),
    "dp-sgd, sampled": replace(CONFIG, trainer="dp-sgd", rounds=4, dp_sgd={"sampling_probability": 0.4}),
    "dp-sgd, local": replace(CONFIG, trainer="dp-sgd", dp_sgd={"schedule": "local", "local_steps": 3}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_metrics_cost_what_was_said_and_the_run_stays_within_its_budget(config):
    _, rounds = run_by_hand(begun(config, N_ITEMS), [make_histories(30, N_ITEMS, seed=s) for s in range(2)])
    events = [event for event, *_ in rounds] * config.max_silos_per_user
    metrics = [event for event in events if event.stage == STAGE]
    assert len(metrics) == config.max_silos_per_user
    assert 0.98 * 0.5 <= epsilon_spent(metrics, delta=config.delta) <= 0.5
    assert 0.98 * 4.0 <= epsilon_spent(events, delta=config.delta) <= 4.0


@pytest.mark.parametrize(("epsilon", "asked", "expected"), [(8, -1, 0.4), (8, 0, 0), (8, 2.5, 2.5), (0.1, -1, 0)])
def test_the_default_is_a_small_part_and_zero_is_none(epsilon, asked, expected):
    assert metrics_epsilon(FederationConfig(epsilon=epsilon, metrics_epsilon=asked)) == pytest.approx(expected)


def test_without_metrics_no_round_of_them_is_planned():
    schedule = begun(replace(CONFIG, metrics_epsilon=0.0), N_ITEMS)
    assert [stage.name for stage in schedule.stages].count(STAGE) == 0
    assert len(schedule.stages) == CONFIG.rounds


def test_without_privacy_the_metrics_have_no_noise_either():
    schedule = begun(replace(CONFIG, epsilon=math.inf, metrics_epsilon=-1.0), N_ITEMS)
    assert schedule.stages[-1].name == STAGE
    assert schedule.noise_multiplier == 0


def test_metrics_may_not_take_the_whole_budget():
    with pytest.raises(ConfigurationError, match="below epsilon = 4"):
        begun(replace(CONFIG, metrics_epsilon=4.0), N_ITEMS)


@pytest.fixture
def asked_for_metrics():
    """The request of the last round, and a silo's users with what they hold out."""
    silo = make_histories(30, N_ITEMS)
    schedule = begun(replace(CONFIG, silos=1, metrics_epsilon=0.5), N_ITEMS)
    until = replace(schedule, stages=schedule.stages[:-1])
    done, _ = run_by_hand(until, [silo])
    done = replace(done, stages=schedule.stages)
    rng = np.random.default_rng(5)
    test = rng.random((30, N_ITEMS)) < 0.2
    test[silo.users, silo.items] = False
    return done, request(done), silo, sparse.csr_matrix(test)


def test_the_answer_holds_the_sums_on_the_silos_own_held_out_interactions(asked_for_metrics):
    schedule, asked, silo, test = asked_for_metrics
    bare = replace(asked, noise_multiplier=0.0)
    given = answer(bare, schedule.trainer, held(silo, test), silo="s", nonce="", randomness=randomness())
    users = given.total[0, 0] * asked.grid_step * 3**0.5
    assert users == pytest.approx((np.diff(test.indptr) > 0).sum(), abs=2 * asked.grid_step)
    without = answer(bare, schedule.trainer, held(silo), silo="s", nonce="", randomness=randomness())
    assert not without.total.any()


def test_groups_are_measured_side_by_side_at_the_cost_of_one(asked_for_metrics):
    schedule, asked, silo, test = asked_for_metrics
    config = replace(schedule.config, metric_groups="sex:F,M")
    planned = begun(config, N_ITEMS)
    assert planned.noise_multiplier == schedule.noise_multiplier
    both = replace(planned_request(planned, len(planned.stages) - 1), tables=asked.tables)
    assert both.shape == (9, 1) and both.noise_multiplier == asked.noise_multiplier
    groups = np.random.default_rng(2).integers(0, 3, 30).astype(float)
    users = SiloUsers(histories=silo, test=test, groups=groups)
    total = bounded_sum(both, planned.trainer, users, randomness=randomness())
    for number in range(3):
        inside = groups == number
        alone = SiloUsers(histories=silo.subset(torch.from_numpy(inside)), test=test[inside])
        expected = bounded_sum(asked, schedule.trainer, alone, randomness=randomness())
        assert torch.equal(total[3 * number : 3 * number + 3], expected)
    whole = bounded_sum(asked, schedule.trainer, SiloUsers(histories=silo, test=test), randomness=randomness())
    torch.testing.assert_close(total.view(3, 3).sum(0)[:, None], whole)
    # One user more moves the whole vector by at most the clip norm.
    for user in range(30):
        kept = np.arange(30) != user
        without = SiloUsers(histories=silo.subset(torch.from_numpy(kept)), test=test[kept], groups=groups[kept])
        other = bounded_sum(both, planned.trainer, without, randomness=randomness())
        assert (total - other).norm() <= both.l2_clip_norm
    found = metrics_of(total, config, noise_std=0.01, l2_clip_norm=1.0)
    plain = metrics_of(whole, schedule.config, noise_std=0.01, l2_clip_norm=1.0)
    assert set(found) == {*plain, *(f"{name}, sex {value}" for name in plain for value in "FM")}
    for name, one in plain.items():
        assert found[name]["value"] == pytest.approx(one["value"])
        assert found[name]["noise"] == pytest.approx(3**0.5 * one["noise"])
    with pytest.raises(ConfigurationError, match="group of each user"):
        bounded_sum(both, planned.trainer, SiloUsers(histories=silo, test=test), randomness=randomness())
    with pytest.raises(ConfigurationError, match="metrics-epsilon above 0"):
        begun(replace(config, metrics_epsilon=0.0), N_ITEMS)


@pytest.mark.parametrize("change", [{"sampling_probability": 0.5}, {"noise_inside": True}])
def test_a_request_whose_event_is_too_cheap_for_metrics_is_refused(asked_for_metrics, change):
    schedule, asked, silo, test = asked_for_metrics
    with pytest.raises(ProtocolError, match="metrics of all users"):
        answer(
            replace(asked, **change), schedule.trainer, held(silo, test), silo="s", nonce="", randomness=randomness()
        )


def test_tables_that_are_no_model_are_refused(asked_for_metrics):
    schedule, asked, silo, test = asked_for_metrics
    for tables in (
        {},
        {**asked.tables, "vectors": asked.tables["vectors"][:-1]},
        {**asked.tables, "more": torch.ones(1)},
    ):
        with pytest.raises(ProtocolError):
            answer(
                replace(asked, tables=tables),
                schedule.trainer,
                held(silo, test),
                silo="s",
                nonce="",
                randomness=randomness(),
            )
