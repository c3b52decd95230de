"""The plan is the server's: same rounds, same noise, same charges as a run; and back from noise to epsilon."""

from dataclasses import replace

import pytest

from recsys_fed.config import FederationConfig
from recsys_fed.errors import CalibrationError, ConfigurationError
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.planning import (
    PublicCatalogue,
    planned_events,
    planned_schedule,
    schedule_of_equal_runs,
    schedule_with_noise,
    schedules_of_trainings,
    stages_of,
)
from recsys_fed.federation.schedule import begin
from recsys_fed.privacy.accounting import epsilon_spent

ITEMS = PublicCatalogue(n_items=400)
CONFIGS = {
    "spectral": FederationConfig(),
    "dp-sgd": FederationConfig(trainer="dp-sgd"),
    "distributed": FederationConfig(noise="distributed", epsilon=3.0),
    "two silos a user": FederationConfig(max_silos_per_user=2, epsilon=2.0),
    "no metrics": FederationConfig(metrics_epsilon=0.0),
}


def spent(schedule, *, runs=1):
    config = schedule.config
    return epsilon_spent(planned_events(schedule) * runs * config.max_silos_per_user, delta=config.delta)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_is_the_plan_of_the_server(config):
    plan = planned_schedule(config, ITEMS)
    server = begin(config, Greeting(silo="s", catalogue_hash="", n_items=400), None)
    assert (plan.stages, plan.noise_multiplier) == (server.stages, server.noise_multiplier)
    assert vars(plan.facts) == vars(server.facts)
    assert len(planned_events(plan)) == len(server.stages)
    assert 0.98 * config.epsilon <= spent(plan) <= config.epsilon


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_noise_gives_the_epsilon_back(config):
    noise = planned_schedule(config, ITEMS).noise_multiplier
    back = schedule_with_noise(config, ITEMS, noise_multiplier=noise)
    assert back.noise_multiplier == noise
    assert back.config.epsilon == pytest.approx(config.epsilon, rel=0.01)
    assert back.config.epsilon == pytest.approx(spent(back), rel=1e-6)


def test_no_noise_protects_nobody():
    assert schedule_with_noise(FederationConfig(), ITEMS, noise_multiplier=0.0).config.epsilon == float("inf")
    with pytest.raises(ConfigurationError):
        schedule_with_noise(FederationConfig(), ITEMS, noise_multiplier=-1.0)
    with pytest.raises(CalibrationError):
        schedule_with_noise(FederationConfig(), ITEMS, noise_multiplier=1e6)


@pytest.mark.parametrize("runs", [2, 30])
def test_equal_runs_share_the_budget_and_use_it(runs):
    one = schedule_of_equal_runs(FederationConfig(max_silos_per_user=2), ITEMS, runs=runs)
    assert 0.99 * 8 <= spent(one, runs=runs) <= 8
    # Not additive: each run gets more than its part.
    assert one.config.epsilon > 8 / runs
    assert len(repr(one.config.epsilon).replace(".", "").strip("0")) <= 4


def test_too_many_runs_are_refused():
    with pytest.raises(CalibrationError, match="each of 100000 runs"):
        schedule_of_equal_runs(FederationConfig(epsilon=1.0), ITEMS, runs=100_000)


def test_shapes_and_noise_are_those_that_a_run_asks_for():
    planned = planned_schedule(FederationConfig(silos=4, declared_users=500), ITEMS)
    counts, pairs, subspace, metrics = stages_of(planned)
    assert counts.asked.shape == (400, 1)
    assert metrics.asked.shape[1] == 1
    assert subspace.rounds > pairs.rounds == 1
    assert pairs.asked.shape[1] == pairs.asked.shape[0] // 2 + 1
    assert subspace.asked.shape[1] > 1
    for stage in (counts, pairs, subspace, metrics):
        assert stage.noise_if_per_silo == pytest.approx(2 * stage.noise_if_distributed)
        # Rounding to the grid adds up to 1% to the sensitivity, which the noise makes up for.
        plain = stage.asked.noise_multiplier * stage.asked.l2_clip_norm
        assert plain <= stage.noise_of_silo <= 1.01 * plain
    assert counts.signal == 500


def test_the_silos_share_of_central_noise():
    first = stages_of(planned_schedule(FederationConfig(silos=4, noise="distributed"), ITEMS))[0]
    assert first.noise_of_silo == pytest.approx(first.noise_if_distributed / 3**0.5, rel=1e-3)


def test_local_steps_have_no_noise_that_could_be_split():
    config = FederationConfig(trainer="dp-sgd", dp_sgd={"schedule": "local", "local_steps": 3}, rounds=3)
    stages = stages_of(planned_schedule(config, ITEMS))
    assert stages[1].asked.steps == 3
    assert stages[1].noise_if_distributed is None
    assert stages[1].rounds == 2


def test_more_rounds_need_more_noise_in_each():
    few, many = (planned_schedule(replace(FederationConfig(), rounds=rounds), ITEMS) for rounds in (2, 5))
    (alone, _), (pairs, subspace, _) = (stages_of(schedule)[1:] for schedule in (few, many))
    # Four rounds share what one gets by itself.
    for stage in (pairs, subspace):
        assert stage.asked.noise_multiplier == pytest.approx(2 * alone.asked.noise_multiplier)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_trainings_of_a_sequence_stay_within_their_epsilon_together(config, cold):
    schedules = schedules_of_trainings(config, ITEMS, trainings=4, cold=cold)
    events = [event for schedule in schedules for event in planned_events(schedule)]
    cost = epsilon_spent(events * config.max_silos_per_user, delta=config.delta)
    assert 0.985 * config.epsilon <= cost <= config.epsilon
    assert len({schedule.config.epsilon for schedule in schedules}) == 1
    signals = [schedule.facts.signal_to_noise for schedule in schedules]
    assert signals == pytest.approx([signals[0] * (1 if cold else (1 + k) ** 0.5) for k in range(4)])


def test_too_many_trainings_are_refused():
    with pytest.raises(CalibrationError, match="trainings"):
        schedules_of_trainings(FederationConfig(epsilon=0.05), ITEMS, trainings=1000)
