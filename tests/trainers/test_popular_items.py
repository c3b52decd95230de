"""The popularity trainer: one release, all of the budget, one ranking for everybody."""

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, from_dense, run
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.errors import ConfigurationError
from recsys_fed.models.items import scores, user_vectors
from recsys_fed.trainers.popularity import STAGE, PopularItems


def silo(seed=0):
    return (np.random.default_rng(seed).random((40, 7)) < np.linspace(0.1, 0.9, 7)).astype(float)


def test_the_whole_budget_goes_into_one_release_of_counts():
    (stage,) = PopularItems().plan(facts_of(7))
    assert stage.name == STAGE
    assert (stage.release.relative_noise, stage.release.steps, stage.l2_clip_norm) == (1.0, 1, 1.0)
    assert PopularItems().plan(facts_of(7, rounds=1)) == (stage,)
    with pytest.raises(ConfigurationError, match=r"rounds = 1 \(or 0\)"):
        PopularItems().plan(facts_of(7, rounds=2))


def test_everybody_gets_the_items_in_the_order_of_the_summed_counts():
    matrices, trainer = [silo(0), silo(1)], PopularItems()
    model = trainer.item_embeddings(run(trainer, facts_of(7, silos=2), matrices)[-1])
    together = np.concatenate(matrices)
    weighted = (together / np.linalg.norm(together, axis=1, keepdims=True)).sum(axis=0)
    users = user_vectors(model, from_dense(together))
    order = scores(model, users).argsort(dim=1, descending=True)
    assert (order == torch.from_numpy(np.argsort(-weighted))).all()


@pytest.mark.parametrize("total", [torch.zeros(3, 1), -torch.ones(3, 1), torch.tensor([[1e30], [-1e30], [0.0]])])
def test_whatever_the_noise_made_of_the_counts_the_model_is_finite(total):
    trainer, facts = PopularItems(), facts_of(3)
    state = trainer.start(facts, np.random.default_rng(0))
    assert trainer.item_embeddings(state).bias.tolist() == [0.0, 0.0, 0.0]
    stage = trainer.plan(facts)[0]
    bias = trainer.item_embeddings(trainer.step(state, stage, total, noise_std=1.0, n_silos=1)).bias
    assert bias.isfinite().all()
    assert torch.equal(bias.argsort(stable=True), total[:, 0].argsort(stable=True))
