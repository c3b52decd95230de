"""auto: the rule reads public facts only, never falls below its floor, and its silo half fits every choice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, run
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse

from recsys_fed.trainers.popularity import PopularItems
from recsys_fed.trainers.registry import Auto, choose_trainer
from recsys_fed.trainers.spectral import Spectral

NOISY, CLEAR = {"noise_level": 1e6}, {"noise_level": 1e-3}


@pytest.mark.parametrize("features", [None, sparse.csr_matrix((30, 2))])
def test_more_users_or_less_noise_never_turn_a_model_into_popularity(features):
    levels = np.geomspace(1e-4, 1e8, 200)
    found = [choose_trainer(facts_of(30, features=features, noise_level=level)) for level in levels]
    kinds = [isinstance(trainer, PopularItems) for trainer in found]
    assert kinds == sorted(kinds)
    assert kinds[0] is False and kinds[-1] is True
    edge = facts_of(30, features=features, noise_level=levels[kinds.index(True)])
    assert isinstance(choose_trainer(replace(edge, declared_users=edge.declared_users * 2)), Spectral)


@pytest.mark.parametrize(("level", "plain"), [(NOISY, PopularItems()), (CLEAR, Spectral())])
@pytest.mark.parametrize("noise_multiplier", [0.0, 3.0])
def test_it_is_bit_for_bit_the_trainer_that_it_chooses(level, plain, noise_multiplier):
    matrices = [(np.random.default_rng(silo).random((30, 20)) < 0.3).astype(float) for silo in range(2)]
    facts = facts_of(20, silos=2, **level)
    models = [
        trainer.item_embeddings(run(trainer, facts, matrices, noise_multiplier=noise_multiplier)[-1])
        for trainer in (Auto(), plain)
    ]
    for name in ("vectors", "bias", "history_weights"):
        assert torch.equal(*(getattr(model, name) for model in models))


@pytest.mark.parametrize("asked", [{"rounds": 3}, {"embedding_dim": 4}])
def test_dimensions_or_rounds_that_are_asked_for_mean_spectral(asked):
    assert isinstance(choose_trainer(facts_of(20, **NOISY, **asked)), Spectral)
    assert isinstance(choose_trainer(facts_of(20, **NOISY, rounds=1)), PopularItems)


def test_the_choice_is_the_same_whatever_the_users_have():
    """Everything that is released before the end is decided before anything is known."""
    for level in (NOISY, CLEAR):
        facts = facts_of(20, **level)
        assert Auto().plan(facts) == choose_trainer(facts).plan(facts)
