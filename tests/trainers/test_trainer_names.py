"""Trainers by name, with settings that they have."""

import pytest

from recsys_fed.config import BUILT_IN_TRAINERS, FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.trainers.dp_sgd import DPSGD
from recsys_fed.trainers.registry import TRAINERS, configured_trainer, make_trainer
from recsys_fed.trainers.spectral import Spectral


def test_every_name_of_the_configuration_is_a_trainer():
    assert set(TRAINERS) == set(BUILT_IN_TRAINERS)
    assert isinstance(make_trainer("spectral"), Spectral)
    assert make_trainer("dp-sgd") == DPSGD()
    assert make_trainer("dp-sgd", {"schedule": "local", "local_steps": 3}) == DPSGD(schedule="local", local_steps=3)


def test_a_configuration_gives_its_settings_to_its_own_trainer_only():
    settings = {"schedule": "local"}
    assert configured_trainer(FederationConfig(trainer="dp-sgd", dp_sgd=settings)) == DPSGD(schedule="local")
    assert isinstance(configured_trainer(FederationConfig(trainer="spectral", dp_sgd=settings)), Spectral)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "x"}, {"surprise": 1}, {"unobserved_weight": 0.0}, {"regularization": -1.0},
        {"learning_rate": -0.1}, {"learning_rate": float("nan")}, {"momentum": 1.0}, {"momentum": -0.1},
        {"local_steps": 0}, {"local_steps": 2.5}, {"sampling_probability": 0.0}, {"sampling_probability": 1.5},
        {"regularization": "much"}, {"momentum": "some"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ConfigurationError):
        make_trainer("dp-sgd", settings)


def test_another_name_and_settings_of_a_trainer_without_any_are_refused():
    with pytest.raises(ConfigurationError, match=r"auto, .*dp-sgd, popularity, ratings, spectral, torch, got 'als'"):
        make_trainer("als")
    with pytest.raises(ConfigurationError, match=r"a key of \[spectral\]"):
        make_trainer("spectral", {"schedule": "local"})


@pytest.mark.parametrize(
    "wrong", [{"n_items": 0}, {"declared_users": 0}, {"silos": 0}, {"noise_level": -1.0}, {"rounds": -1}]
)
def test_public_facts_out_of_range_are_refused(wrong):
    from plain_trainers import facts_of

    with pytest.raises(ConfigurationError):
        facts_of(**({"n_items": 3} | wrong))
